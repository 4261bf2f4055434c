"""Heads of other exports beside a model's own: each goes through the adapters that it was exported with."""

import shutil

import numpy as np
import pytest
import torch
from helpers import batch, save_backbone, shake, small_adapter
from tiny_runs import tokenizer_of

from kadapter import KAdapterForSequenceClassification

pytest.importorskip("onnxscript", reason="exporting needs onnxscript: pip install 'kadapter[onnx]'")
pytest.importorskip("onnxruntime", reason="running a graph needs onnxruntime: pip install 'kadapter[onnx]'")
from kadapter.exports.writing import export
from kadapter.runtime import ExportedModel

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
TEXTS = ["Mira Voss was born in Tarnstad on the Kell.", "Oduya died in Lumen Bay."]
SHAPE = small_adapter(layers=[0, 1], num_hidden_layers=1)
HEADS = {  # adapters, fusion, and the seed of all weights
    "first": (["fac"], "add", 1),
    "lin": (["lin"], "add", 2),
    "other": (["fac"], "gated", 3),  # an adapter of the same name and other weights, and a fusion that knows its name
}


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """The folder of three exports of one encoder by their names, and their models."""
    folder = tmp_path_factory.mktemp("heads")
    tokenizer = tokenizer_of(TEXTS * 3)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 48, "num_hidden_layers": 1}
    tokenizer.save_pretrained(save_backbone(folder / "backbone", **sizes))
    models = {}
    for name, (adapters, fusion, seed) in HEADS.items():
        model = KAdapterForSequenceClassification.from_backbone(
            folder / "backbone", adapters=dict.fromkeys(adapters, SHAPE), fusion=fusion
        )
        models[name] = shake(model, std=0.1, seed=seed).eval()
        export(models[name], folder / name, tokenizer=tokenizer)
    return folder, models


@pytest.fixture
def model(heads):
    """The first export, with the heads of both others."""
    model = ExportedModel.from_directory(heads[0] / "first", threads=1)
    model.add_head(heads[0] / "lin", "lin")
    model.add_head(heads[0] / "other", "other")
    return model


def asked(model, **keywords):
    return model(**{name: value.numpy() for name, value in batch("roberta", (9, 6, 4)).items()}, **keywords).logits


def assert_answers_as_alone(model, models):
    for name, head in (("first", None), ("lin", "lin"), ("other", "other")):
        with torch.no_grad():
            expected = models[name](**batch("roberta", (9, 6, 4))).logits.numpy()
        assert np.abs(expected - asked(model, head=head)).max() < 1e-5 * np.abs(expected).max(), name


def refusal(function, *arguments, **keywords):
    with pytest.raises(ValueError) as refused:
        function(*arguments, **keywords)
    return str(refused.value)


def test_each_head_brings_its_adapters_and_answers_through_them_as_it_does_alone(heads, model):
    assert_answers_as_alone(model, heads[1])
    assert (model.adapters, model.active_adapters()) == (["fac", "lin", "other-fac"], ["fac"])
    alone = ExportedModel.from_directory(heads[0] / "other", threads=1).predict(TEXTS)
    for found, expected in zip(model.predict(TEXTS, head="other"), alone, strict=True):
        assert found[0]["label"] == expected[0]["label"] and abs(found[0]["score"] - expected[0]["score"]) < 1e-5


def test_what_is_added_or_made_active_later_changes_no_head_that_was_added(heads, model):
    before = [asked(model, head=name) for name in ("lin", "other")]
    model.add_adapter(heads[0] / "lin", "again")
    model.set_adapter(["again", "lin"])
    for name, expected in zip(("lin", "other"), before, strict=True):
        assert np.array_equal(asked(model, head=name), expected)


def test_an_adapter_that_is_there_under_any_name_serves_the_head(heads):
    model = ExportedModel.from_directory(heads[0] / "first", threads=1)
    model.add_adapter(heads[0] / "other", "places")
    model.set_adapter("fac")
    model.add_head(heads[0] / "other", "other")
    model.add_head(heads[0] / "lin", "lin")
    assert model.adapters == ["fac", "places", "lin"]
    assert_answers_as_alone(model, heads[1])
    assert "fusion 'gated' was trained for ['places']" in refusal(
        asked, model, head="other", adapter_names=["fac"] * 3
    )


def test_a_head_whose_adapter_is_gone_refuses_until_it_is_added_anew(heads, model):
    model.delete_adapter("lin")
    said = "head 'lin' goes through adapter 'lin', which was deleted since the head was added; delete_head"
    assert said in refusal(asked, model, head="lin")
    model.add_adapter(heads[0] / "first", "lin")  # another of that name
    assert said in refusal(model.predict, TEXTS, head="lin")
    assert asked(model, head="lin", adapter_names=["fac"] * 3).shape == (3, 2)
    model.set_adapter("fac")
    model.delete_head("lin")
    model.add_head(heads[0] / "lin", "lin")
    assert model.adapters == ["fac", "other-fac", "lin", "lin-lin"]
    assert_answers_as_alone(model, heads[1])


def test_a_head_whose_adapter_has_no_free_name_or_is_damaged_adds_nothing(heads, tmp_path):
    model = ExportedModel.from_directory(heads[0] / "first", threads=1)
    model.add_adapter(heads[0] / "lin", "other-fac")
    said = refusal(model.add_head, heads[0] / "other", "other")
    assert "head 'other' was exported with an adapter 'fac' (SHA-256 " in said
    assert "has others by the names 'fac' and 'other-fac'; choose another head_name, or delete_adapter one" in said
    damaged = shutil.copytree(heads[0] / "other", tmp_path / "other")
    (damaged / "adapter-fac.onnx").write_bytes(bytes((damaged / "adapter-fac.onnx").stat().st_size))
    assert "adapter-fac.onnx is damaged: its SHA-256 is" in refusal(model.add_head, damaged, "places")
    assert (model.adapters, model.heads) == (["fac", "other-fac"], ["own"])
