"""Every head that is exported answers as it does in PyTorch, to arrays and to texts."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import batch, save_backbone, shake, small_adapter
from tiny_runs import tokenizer_of
from transformers import pipeline

import kadapter

pytest.importorskip("onnxscript", reason="exporting needs onnxscript: pip install 'kadapter[onnx]'")
pytest.importorskip("onnxruntime", reason="running a graph needs onnxruntime: pip install 'kadapter[onnx]'")
from kadapter.exports.writing import ExportOptions, Writer, export
from kadapter.runtime import MANIFEST, ExportedModel
from kadapter.runtime.manifest import write_manifest

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
TEXTS = ["Mira Voss was born in Tarnstad on the Kell.", "Oduya died in Lumen Bay."]
LABELS = {"id2label": {0: "born", 1: "died", 2: "O"}, "label2id": {"born": 0, "died": 1, "O": 2}}
ADAPTERS = {"fac": small_adapter(layers=[0, 1], num_hidden_layers=1)}
HEADS = {
    "SequenceClassification": LABELS,
    "EntityClassification": LABELS,
    "TokenClassification": LABELS,
    "MultipleChoice": {},
    "QuestionAnswering": {},
    "DependencyParsing": {},
    "official parser": {"dependency_head": "official"},
    "MaskedLM": {"lm_head": "transform"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export of an encoder with an adapter, beside whose graphs those of the heads are put."""
    folder = tmp_path_factory.mktemp("heads")
    tokenizer = tokenizer_of(TEXTS * 3)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 48, "num_hidden_layers": 1}
    tokenizer.save_pretrained(save_backbone(folder / "backbone", **sizes))
    model = shake(kadapter.KAdapterModel.from_backbone(folder / "backbone", adapters=ADAPTERS), std=0.1).eval()
    export(model, folder / "exported", tokenizer=tokenizer)
    return folder


@pytest.fixture(scope="module", params=HEADS)
def pair(request, folder, tmp_path_factory):
    """A head model, and its export."""
    name = "DependencyParsing" if request.param == "official parser" else request.param
    model_class = getattr(kadapter, f"KAdapterFor{name}")
    model = model_class.from_backbone(folder / "backbone", adapters=ADAPTERS, **HEADS[request.param])
    shake(model, std=0.1).eval()  # the same adapter each time, since its weights are drawn first
    where = shutil.copytree(folder / "exported", tmp_path_factory.mktemp("head") / "exported")
    manifest = json.loads((where / MANIFEST).read_text())
    manifest["head"] = Writer(model, where, ExportOptions(), tokenizer_of(TEXTS * 3), lambda line: None).head(
        "head.onnx"
    )
    write_manifest(where, manifest)
    return request.param, model, ExportedModel.from_directory(where, threads=1)


def inputs_for(name):
    """What the head reads of three rows of unequal length."""
    inputs = batch("roberta", (9, 6, 4), extra=1)
    if name == "MultipleChoice":
        return {key: torch.stack([value, value.flip(0)], dim=1) for key, value in inputs.items()}
    if name == "QuestionAnswering":
        return {**inputs, "answer_mask": (torch.arange(10) > 1).long().repeat(3, 1)}
    positions = {"EntityClassification": ("entity_positions", torch.tensor([[1], [2], [0]]))}
    positions["DependencyParsing"] = ("word_positions", torch.tensor([[0, 1, 3, 5], [0, 1, 2, -1], [0, 1, -1, -1]]))
    return {**inputs, **dict([positions[name]] if name in positions else [])}


def test_logits_equal_those_of_pytorch(pair):
    name, model, exported = pair
    inputs = inputs_for(name)
    with torch.no_grad():
        expected = model(**inputs)
    found = exported(**{key: value.numpy() for key, value in inputs.items()})
    for key in ("start_logits", "end_logits") if name == "QuestionAnswering" else ("logits",):
        wanted, array = getattr(expected, key).numpy(), getattr(found, key)
        assert wanted.shape == array.shape
        there = wanted > np.finfo(np.float32).min  # what can't be part of an answer, or is no word
        assert np.array_equal(there, array > np.finfo(np.float32).min)
        assert np.abs(wanted - array)[there].max() < 1e-5 * np.abs(wanted[there]).max()


PIPELINES = {
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "DependencyParsing": "dependency-parsing",
    "official parser": "dependency-parsing",
    "EntityClassification": "entity-classification",
}


def test_answers_to_texts_are_those_of_the_pipelines(pair, folder):
    name, model, exported = pair
    if name not in PIPELINES:
        inputs = np.ones((2, 4), dtype=np.int64)
        if name == "MaskedLM":
            (masks,) = exported.predict(["Mira <mask> Tarnstad <mask>."], top_k=3)
            assert [len(words) for words in masks] == [3, 3] and masks[0][0]["score"] >= masks[0][1]["score"]
            with pytest.raises(ValueError, match=r"text 0, 'Mira\.', has no mask; write <mask>"):
                exported.predict(["Mira."])
        else:
            with pytest.raises(ValueError, match="is asked by its inputs"):
                exported.predict(TEXTS)
        if name == "MultipleChoice":
            with pytest.raises(ValueError, match=r"reads \(batch, choices, sequence\)"):
                exported(inputs)
        return
    tokenizer = tokenizer_of(TEXTS * 3)
    pipe = pipeline(PIPELINES[name], model=model, tokenizer=tokenizer)
    words = [text.replace(".", " .").split() for text in TEXTS]
    if "dependency" in PIPELINES[name]:
        expected, found = pipe([{"words": own} for own in words]), exported.predict(words)
        assert [each["heads"] for each in found] == [each["heads"] for each in expected]
        assert np.allclose(found[0]["scores"], expected[0]["scores"], atol=1e-5)
        return
    mentions = {"entity_spans": [[(0, 9)], [(0, 5)]]} if name == "EntityClassification" else {}
    expected = pipe(TEXTS, **mentions, **({} if name == "TokenClassification" else {"top_k": 3}))
    found = exported.predict(TEXTS, **mentions, **({} if name == "TokenClassification" else {"top_k": 3}))
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert abs(one.pop("score") - float(other.pop("score"))) < 1e-5
            assert one == {key: other[key] for key in one}
