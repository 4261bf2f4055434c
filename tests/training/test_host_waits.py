"""What a step needs to know is known on the host: nothing is fetched from the device to decide what comes next."""

import pytest
import torch
from helpers import batch, make_model, tiny_backbone

from kadapter.heads_kadapter import spans_loss
from kadapter.trainers.common.arguments import RunArguments
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.feature_cache.trainer import CollateWithCacheIndex
from kadapter.trainers.many_adapters.scheduler import SharedBackbone

EXAMPLES = [{"input_ids": [0, 7, 8, 2], "cache_index": 5}, {"input_ids": [0, 9, 2], "cache_index": 1}]


def test_spans_are_looked_at_on_the_host_alone():
    scores, spans = torch.zeros(2, 5), torch.tensor([[[0, 3, 1]], [[0, 1, 1]]])  # the first is reversed
    with pytest.raises(ValueError, match=r"answer_spans\[0, 0\] = \(0, 3, 1\) is reversed"):
        spans_loss(scores, scores, spans, None)
    loss = spans_loss(scores.to("meta"), scores.to("meta"), spans, None)  # whose values nobody can look at
    assert loss.shape == () and loss.device.type == "meta"
    with pytest.raises(ValueError, match="answer_spans are of 1 questions, and there are 2"):
        spans_loss(scores.to("meta"), scores.to("meta"), spans[:1], None)


def test_losses_are_not_fetched_at_each_step_for_what_is_logged(tmp_path):
    assert RunArguments(output_dir=str(tmp_path)).logging_nan_inf_filter is False


def test_a_batch_is_known_by_its_tokens():
    collate = CollateWithCacheIndex(PadToBatch({"input_ids": 1}))
    one, other = collate(EXAMPLES), collate([EXAMPLES[0], {"input_ids": [0, 6, 2], "cache_index": 2}])
    assert one["on_host"].lengths == [4, 3] and one["on_host"].indices == [5, 1]
    assert one["on_host"].name == collate([{"input_ids": ex["input_ids"]} for ex in EXAMPLES])["on_host"].name
    assert one["on_host"].name not in (other["on_host"].name, collate(EXAMPLES[::-1])["on_host"].name)


def test_adapters_share_what_the_backbone_read_of_a_batch_by_its_name():
    backbone = tiny_backbone()
    shared = SharedBackbone([make_model(backbone, "fac"), make_model(backbone, "lin")])
    first, other = batch(seed=3), batch(seed=4)
    states = shared.tap(**first, name=b"one")
    unseen = {key: torch.full_like(value, 1) for key, value in first.items()}
    assert all(one is states[layer] for layer, one in shared.tap(**unseen, name=b"one").items())
    assert not torch.equal(shared.tap(**other, name=b"two")[-1], states[-1])
    assert torch.equal(shared.tap(**first, name=b"one")[-1], states[-1])
