"""What has no exported form is refused in a sentence, before minutes of tracing, and the model stays what it was."""

import json
import re

import numpy as np
import pytest
import torch
from helpers import SIZES, batch, save_backbone, shake, small_adapter
from tiny_runs import tokenizer_of
from torch import nn
from transformers import AutoConfig, AutoModel
from typer.testing import CliRunner

import kadapter
from kadapter import KAdapterModel, PreNormAdapterConfig
from kadapter.commands import app

pytest.importorskip("onnxscript", reason="exporting needs onnxscript: pip install 'kadapter[onnx]'")
pytest.importorskip("onnxruntime", reason="running a graph needs onnxruntime: pip install 'kadapter[onnx]'")
from kadapter.exports.int8 import Calibration
from kadapter.exports.tracing import Traced, trace
from kadapter.exports.writing import ExportOptions, export
from kadapter.runtime import ExportedModel

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
TEXTS = ["Mira Voss was born in Tarnstad on the Kell.", "Ilse Tarn works in Kell.", "Oduya died in Lumen Bay."] * 4
LABELS = {"id2label": {0: "born", 1: "died"}, "label2id": {"born": 0, "died": 1}}
LEAN = PreNormAdapterConfig(
    hidden_size=8, num_attention_heads=2, intermediate_size=12, num_hidden_layers=1, layers=[1]
)
SHALLOW = {"num_hidden_layers": 1}


def refusal(function, *arguments):
    with pytest.raises(ValueError) as refused:
        function(*arguments)
    return str(refused.value)


def another(kind, **changes):
    """A random backbone of a kind that the other tests don't have."""
    values = {**SIZES, **SHALLOW, "max_position_embeddings": 200, "pad_token_id": 0, **changes}
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(kind, **values)).eval()


def parts_of(model):
    return {name: (type(module), module.training) for name, module in model.named_modules()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder with its tokenizer."""
    folder, tokenizer = tmp_path_factory.mktemp("refused"), tokenizer_of(TEXTS)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 48, **SHALLOW}
    tokenizer.save_pretrained(save_backbone(folder / "backbone", **sizes))
    return folder


def head_of(folder, head, **fields):
    adapters = {"fac": small_adapter(layers=[0, 1], num_hidden_layers=1)}
    model_class = getattr(kadapter, f"KAdapterFor{head}")
    return shake(model_class.from_backbone(folder / "backbone", adapters=adapters, **fields), std=0.1)


# ---- graphs that would answer otherwise -----------------------------------------------------------------------------


def test_an_encoder_that_replaces_its_parts_for_short_texts_is_refused_and_keeps_them(tmp_path):
    sparse = {"block_size": 4, "num_random_blocks": 1, "attention_type": "block_sparse"}
    model = KAdapterModel.from_backbone(another("big_bird", **sparse))
    before = parts_of(model)
    said = refusal(export, model, tmp_path / "out")
    assert "replaces its BigBirdBlockSparseAttention (backbone.encoder.layer.0.attention.self) by a" in said
    assert "backbone_kwargs={'attention_type': 'original_full'}" in said and not (tmp_path / "out").exists()
    assert parts_of(model) == before and model.backbone.attention_type == "block_sparse"
    model = KAdapterModel.from_backbone(another("big_bird", **{**sparse, "attention_type": "original_full"}))
    export(model, tmp_path / "full")
    inputs = batch("bert", (96, 5))
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state[0]
    found = ExportedModel.from_directory(tmp_path / "full", threads=1)(**{k: v.numpy() for k, v in inputs.items()})
    assert np.abs(expected.numpy() - found.last_hidden_state[0]).max() < 1e-4


def test_a_graph_that_differs_for_long_texts_alone_is_refused(tmp_path):
    class Bounded(nn.Module):
        """Adds the length, in PyTorch up to 64 alone."""

        def forward(self, states):
            return (states + (states.shape[1] if torch.compiler.is_compiling() else min(states.shape[1], 64)),)

    sizes = ("batch", "sequence")
    traced = Traced(
        what="a module",
        module=Bounded(),
        sample=lambda *shape: {"states": torch.ones(shape)},
        dimensions={"states": sizes},
        inputs=["states"],
        outputs={"sums": sizes},
    )
    said = refusal(trace, traced, tmp_path / "graph.onnx", "onnx")
    assert "the graph of a module differs from PyTorch by" in said
    assert "of sums for 2 rows of 160 tokens" in said


def test_a_model_in_training_mode_is_in_training_mode_after_its_export(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("kadapter.exports.writing.trace", lambda traced, path, runtime: path.write_bytes(b""))
    model = head_of(folder, "SequenceClassification", **LABELS).train()
    before = parts_of(model)
    export(model, tmp_path / "out")
    assert parts_of(model) == before and model.training


@pytest.mark.parametrize("head", ["head", "features"])
def test_beside_a_decoder_an_export_equals_pytorch_with_padding_on_either_side(head, tmp_path):
    backbone, adapters = another("llama", num_key_value_heads=2), {"lean": LEAN}
    classifier = kadapter.KAdapterForSequenceClassification
    model_class, fields = (classifier, LABELS) if head == "head" else (KAdapterModel, {})
    model = shake(model_class.from_backbone(backbone, adapters=adapters, **fields), std=0.1).eval()
    manifest = export(model, tmp_path / "out")
    assert manifest["head"]["reads"] == ("last" if head == "head" else "all")
    exported = ExportedModel.from_directory(tmp_path / "out", threads=1)
    for side in ("left", "right"):
        inputs = batch("bert", (9, 6, 40, 1), side=side, extra=2)
        with torch.no_grad():
            output = model(**inputs)
        found = exported(**{name: tensor.numpy() for name, tensor in inputs.items()})
        real = inputs["attention_mask"].bool().numpy()
        if head == "head":
            both = (output.logits.numpy(), found.logits)
        else:
            both = (output.last_hidden_state.numpy()[real], found.last_hidden_state[real])
        assert np.abs(both[0] - both[1]).max() < 1e-5 * np.abs(both[0]).max(), side


# ---- what can't become a graph --------------------------------------------------------------------------------------


def test_pytorchs_own_graph_of_what_it_can_not_trace_is_not_printed(tmp_path, capfd):
    model = KAdapterModel.from_backbone(another("longformer", attention_window=[8]))
    capfd.readouterr()
    said = refusal(export, model, tmp_path / "out")
    assert said.startswith("torch's exporter can't trace the encoder LongformerModel (")
    assert capfd.readouterr() == ("", "")


def test_question_answering_has_no_single_graph(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.onnx, "export", None)
    said = refusal(export, head_of(folder, "QuestionAnswering"), tmp_path / "out", ExportOptions(single=True))
    assert said.startswith("a KAdapterForQuestionAnswering has no single graph")
    assert said.endswith("export it without --single")


@pytest.mark.parametrize("single", [False, True])
def test_int8_of_more_weights_than_a_file_holds_is_refused_before_anything_is_traced(
    folder, tmp_path, monkeypatch, single
):
    monkeypatch.setattr(torch.onnx, "export", None)
    monkeypatch.setattr("kadapter.exports.tracing.INLINE", 1000)
    options = ExportOptions(precision="int8", calibration=Calibration(TEXTS), single=single)
    model = head_of(folder, "SequenceClassification", **LABELS)
    said = refusal(export, model, tmp_path / "out", options, tokenizer_of(TEXTS))
    assert "GB of weights, and int8 takes up to 0.0; export it in fp32" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[Mira Voss]] was born.", "'Mira Voss was born.' marks 1 mentions, .* mark 2 mentions in \\[\\[...\\]\\]"),
        (f"[[Mira]] saw [[Kell]]{' again' * 40}.", "'Mira saw Kell again.*, has .* tokens, more than the 46 that"),
        ("[[Mira|head]] saw [[Kell|head]].", "both mentions .* are called head"),
    ],
)
def test_a_labelled_text_that_the_head_can_not_read_is_named_by_file_and_line(
    folder, tmp_path, monkeypatch, text, words
):
    model = head_of(folder, "EntityPairClassification", **LABELS)
    model.save_pretrained(tmp_path / "pairs")
    (tmp_path / "sentences.txt").write_text("\n".join(TEXTS))
    right = json.dumps({"text": "[[Mira]] saw [[Kell]].", "label": "born"})
    (tmp_path / "lab.jsonl").write_text(f"{right}\n\n{json.dumps({'text': text, 'label': 'born'})}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.onnx, "export", None)  # all this is found before anything is traced
    given = ["export", "pairs", "-o", "out", "--precision", "int8", "--calibration", "sentences.txt"]
    result = CliRunner().invoke(app, [*given, "--labelled", "lab.jsonl"])
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert re.search(f"lab.jsonl, line 3[:,] {words}", said), said


def test_of_a_single_graph_int8_notes_how_far_logits_move(folder, tmp_path):
    options = ExportOptions(precision="int8", single=True, calibration=Calibration(TEXTS))
    lines = []
    model = head_of(folder, "MultipleChoice")
    told = export(model, tmp_path / "out", options, tokenizer_of(TEXTS), lines.append)["int8"]
    assert 0 < told["logits_largest_change"] < 0.5 and not any("cosine" in name for name in told)
    assert "int8 beside fp32 on 3 sentences: logits largest change 0." in lines[-1]
