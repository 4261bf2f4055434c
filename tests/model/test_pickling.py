"""A model goes through pickle, torch.save, copy and to other processes, before it has run and after."""

import copy
import io
import pickle

import pytest
import torch
from elsewhere import encode
from helpers import batch, make_model, output, save_backbone, tiny_backbone
from processes import CONTEXT

from kadapter import (
    KAdapterForDependencyParsing,
    KAdapterForEntityPairClassification,
    KAdapterForSequenceClassification,
    KAdapterModel,
)


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {"pickle": lambda model: pickle.loads(pickle.dumps(model)), "save": saved_and_loaded, "copy": copy.deepcopy}


def run_in_every_way(model, **inputs):
    with torch.no_grad():
        model(**inputs)
        model(**inputs, output_hidden_states=True)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", ["roberta", "deberta-v2", "modernbert", "albert"])
def test_a_model_survives_before_and_after_it_has_run(family, way):
    model = make_model(tiny_backbone(family), "fac", "lin", fusion="gated")
    before = WAYS[way](model)
    run_in_every_way(model, **batch(family))
    after = WAYS[way](model)
    expected = output(model, **batch(family))
    for twin in (before, after, WAYS[way](after)):
        assert torch.equal(output(twin, **batch(family)), expected) and not twin.training
        assert [one.requires_grad for one in twin.parameters()] == [one.requires_grad for one in model.parameters()]
        own = {one.data_ptr() for one in model.parameters()}
        assert not any(one.data_ptr() in own for one in twin.parameters() if one.numel())


@pytest.mark.parametrize(
    ("model_class", "inputs"),
    [
        (KAdapterForEntityPairClassification, {"entity_positions": torch.tensor([[1, 2], [0, 3], [2, 1]])}),
        (KAdapterForDependencyParsing, {"word_positions": torch.tensor([[0, 1, 3], [0, 2, -1], [0, 1, 2]])}),
        (KAdapterForSequenceClassification, {}),
    ],
)
def test_a_head_survives_and_goes_on_training(model_class, inputs):
    model = make_model(tiny_backbone(), "fac", model_class=model_class, num_labels=3)
    run_in_every_way(model.base_model, **batch())
    twin = pickle.loads(pickle.dumps(model))
    assert torch.equal(twin(**batch(), **inputs).logits, model(**batch(), **inputs).logits)
    twin.train_adapter("fac")
    twin(**batch(), **inputs).logits.square().mean().backward()
    assert twin.base_model.adapters["fac"].layers[0].down_project.weight.grad.abs().max() > 0
    assert all(one.grad is None for one in model.parameters())


def test_pickling_leaves_the_model_and_the_hooks_of_others_as_they_were():
    model = make_model(tiny_backbone(), "fac")
    model.backbone.encoder.layer[1].register_forward_hook(_pass)
    run_in_every_way(model, **batch())
    hooks = [len(one._forward_hooks) for one in model.modules()]
    parts = list(model.modules())
    twin = pickle.loads(pickle.dumps(model))
    assert list(model.modules()) == parts and [len(one._forward_hooks) for one in parts] == hooks
    assert [len(one._forward_hooks) for one in twin.modules()] == hooks


def _pass(module, args, result):
    return None


def test_a_model_whose_backbone_was_released_survives():
    model = make_model(tiny_backbone(), "fac")
    with torch.no_grad():
        states = model.tap(**batch())
        expected = model(**batch()).last_hidden_state
    model.release_backbone()
    twin = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        assert torch.equal(
            twin(hidden_states=states, attention_mask=batch()["attention_mask"]).last_hidden_state, expected
        )
    with pytest.raises(ValueError, match="have left memory"):
        output(twin)


@pytest.mark.slow
def test_another_process_encodes_with_the_model_that_it_is_passed(tmp_path):
    backbone = save_backbone(tmp_path / "backbone")
    make_model(backbone, "fac").save_pretrained(tmp_path / "fac")
    model = KAdapterModel.from_pretrained(tmp_path / "fac")
    batches = [torch.tensor([[5, 6, 7 + n]]) for n in range(4)]
    expected = [encode(model, ids) for ids in batches]
    with CONTEXT.Pool(1) as pool:
        found = pool.starmap(encode, [(model, ids) for ids in batches])
    assert len(found) == 4 and all((ours == theirs).all() for ours, theirs in zip(found, expected, strict=True))
