"""What a step needs to know is known on the host: nothing is fetched from the device to decide what comes next."""

from typing import ClassVar

import pytest
import torch
from helpers import batch, make_model, tiny_backbone
from tiny_runs import flags, losses, write_ground

from kadapter.heads_kadapter import spans_loss
from kadapter.trainers import run_adapter
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.common.trainer import KAdapterTrainer
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


class Watched(torch.Tensor):
    """A loss that tells what is fetched of it, and of all that is computed from it."""

    fetched: ClassVar[list[str]] = []

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function.__name__ in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__"):
            cls.fetched.append(function.__name__)
        return super().__torch_function__(function, types, args, kwargs or {})


def test_losses_are_fetched_where_they_are_logged_and_not_at_each_step(tmp_path, monkeypatch):
    step = KAdapterTrainer.training_step
    watched = lambda *given, **keywords: step(*given, **keywords).as_subclass(Watched)  # noqa: E731
    monkeypatch.setattr(KAdapterTrainer, "training_step", watched)
    monkeypatch.setattr(Watched, "fetched", [])
    write_ground(tmp_path)
    more = ("--max_steps", "6", "--logging_steps", "3", "--save_strategy", "no", "--report_to", "none")
    run_adapter.main(flags(tmp_path, "linguistic", tmp_path / "out", *more))
    assert sorted(losses(tmp_path / "out")) == [1, 3, 6]
    assert Watched.fetched == ["item"] * 4  # once for each line of the log, and the mean of all steps at the end


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
