"""The weighted sum of adapters of one shape, by PEFT's verb."""

import json

import pytest
import torch
from helpers import batch, make_model, output, save_backbone, shake, small_adapter

from kadapter import KAdapterForTokenClassification, KAdapterModel
from kadapter.artifacts_kadapter import adapter_hash


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture
def model(backbone):
    return make_model(backbone, "one", "two", "three")


def tensors(model, name):
    return model.base_model.adapters[name].state_dict()


def test_one_adapter_of_weight_1_is_copied_to_the_bit(model):
    with torch.no_grad():
        model.adapters["one"].layers[0].up_project.bias[0] = -0.0
    for dtype in (torch.float32, torch.bfloat16):
        model.adapters.to(dtype)
        model.add_weighted_adapter(["one"], [1.0], f"copy_{dtype}".replace("torch.", ""))
    for dtype in ("float32", "bfloat16"):
        for key, tensor in tensors(model, f"copy_{dtype}").items():
            own = tensors(model, "one")[key]
            assert torch.equal(tensor.view(torch.uint8), own.to(tensor.dtype).view(torch.uint8)), key


def test_the_mean_of_seeds_is_saved_like_any_adapter_and_names_its_parents(model, tmp_path):
    model.add_weighted_adapter(["one", "two", "three"], [0.5, 0.25, 0.25], "mean", combination_type="linear")
    for key, tensor in tensors(model, "mean").items():
        one, two, three = (tensors(model, name)[key] for name in ("one", "two", "three"))
        assert torch.equal(tensor, one * 0.5 + two * 0.25 + three * 0.25)
    assert not any(parameter.requires_grad for parameter in model.adapters["mean"].parameters())
    model.set_adapter("mean")
    expected = output(model)
    model.save_adapter(tmp_path / "mean", "mean")
    again = KAdapterModel.from_pretrained(tmp_path / "mean")
    assert torch.equal(output(again), expected)
    saved = json.loads((tmp_path / "mean" / "config.json").read_text())["adapters"]["mean"]["training"]
    hashes = [adapter_hash(model.config.adapters[name], tensors(model, name)) for name in ("one", "two", "three")]
    assert [parent["hash"] for parent in saved["parents"]] == hashes
    assert [(parent["adapter"], parent["weight"]) for parent in saved["parents"]] == [
        ("one", 0.5),
        ("two", 0.25),
        ("three", 0.25),
    ]
    card = (tmp_path / "mean" / "README.md").read_text()
    assert f"`mean` is the weighted sum of `one` x 0.5 (hash `{hashes[0]}`), `two` x 0.25" in card


def test_adapters_that_were_loaded_are_averaged_under_a_head(backbone, model, tmp_path):
    for name in ("one", "two"):
        model.save_adapter(tmp_path / name, name)
    head = shake(KAdapterForTokenClassification.from_backbone(backbone, num_labels=3), std=0.1)
    for name in ("one", "two"):
        head.load_adapter(tmp_path / name)
    head.add_weighted_adapter(["one", "two"], [2, -1], "difference")
    assert head.active_adapters() == ["one", "two", "difference"]
    head.set_adapter("difference")
    key = "layers.0.up_project.bias"
    expected = tensors(model, "one")[key] * 2 - tensors(model, "two")[key]
    assert torch.equal(tensors(head, "difference")[key], expected) and head(**batch()).logits.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["one", "none"], [1, 1], "new"), "no adapter 'none'; there are"),
        ((["one", "two"], [1], "new"), "1 weights for 2 adapters"),
        (([], [], "new"), "must be a list of at least one adapter"),
        (("one", [1], "new"), "adapters='one' must be a list"),
        ((["one"], [float("nan")], "new"), "the weight of adapter 'one' is nan, and must be finite"),
        ((["one"], ["1"], "new"), "the weight of adapter 'one' is '1', and must be a number"),
        ((["one"], [True], "new"), "is True, and must be a number"),
        ((["one", "two"], [1, 1], "two"), "'two'"),
        ((["one", "two"], [1, 1], "a.b"), "'a.b'"),
        ((["one", "two"], [1, 1], "new", "ties"), "combination_type='ties' is not possible here; give 'linear'"),
        ((["one", "wide"], [1, 1], "new"), "adapter 'wide' has hidden_size=16, and 'one' has 12"),
        ((["one", "lean"], [1, 1], "new"), "adapter 'lean' has kind='prenorm', and 'one' has 'k_adapter'"),
    ],
)
def test_what_has_no_sum_is_refused_and_changes_nothing(model, arguments, said):
    from kadapter import PreNormAdapterConfig

    model.add_adapter("wide", small_adapter(hidden_size=16))
    model.add_adapter("lean", PreNormAdapterConfig(layers=[0, 2, 4]))
    before, names = output(model), list(model.config.adapters)
    with pytest.raises((ValueError, TypeError)) as refusal:
        model.add_weighted_adapter(*arguments)
    assert said in str(refusal.value)
    assert list(model.config.adapters) == list(model.adapters) == names and torch.equal(output(model), before)


def test_adapters_of_another_backbone_do_not_come_into_one_model(model, tmp_path):
    other = make_model(save_backbone(tmp_path / "other", seed=9), "four")
    other.save_adapter(tmp_path / "four", "four")
    with pytest.raises(ValueError, match="was made for another backbone"):
        model.load_adapter(tmp_path / "four")
