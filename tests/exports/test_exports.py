"""A model as graphs: what ONNX Runtime makes of them equals PyTorch, row by row, and bad input ends in a sentence."""

import json
import logging
import shutil
import sys
import threading

import numpy as np
import pytest
import torch
from helpers import batch, make_model, save_backbone, shake, small_adapter, tiny_backbone
from tiny_runs import tokenizer_of

import kadapter
from kadapter import KAdapterForEntityPairClassification, KAdapterModel, PreNormAdapterConfig

pytest.importorskip("onnxscript", reason="exporting needs onnxscript: pip install 'kadapter[onnx]'")
pytest.importorskip("onnxruntime", reason="running a graph needs onnxruntime: pip install 'kadapter[onnx]'")
import onnxruntime

from kadapter.exports import plans
from kadapter.exports.int8 import Calibration, Labelled, quantize, to_eight_bits
from kadapter.exports.tracing import trace
from kadapter.exports.writing import ExportOptions, Writer, export
from kadapter.runtime import MANIFEST, ExportedModel
from kadapter.runtime.manifest import write_manifest

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

TEXTS = ["Mira Voss was born in Tarnstad on the Kell.", "Ilse Tarn works in Kell.", "Oduya died in Lumen Bay."] * 4
SPANS = [[(0, 9), (22, 30)], [(0, 9), (19, 23)], [(0, 5), (14, 23)]] * 4
LABELS = {"id2label": {0: "born", 1: "died", 2: "works"}, "label2id": {"born": 0, "died": 1, "works": 2}}
LEAN = PreNormAdapterConfig(
    hidden_size=8, num_attention_heads=2, intermediate_size=12, num_hidden_layers=1, layers=[1]
)
SHALLOW = {"num_hidden_layers": 1}


def adapters_of():
    return {"fac": small_adapter(layers=[0, 1], num_hidden_layers=1), "lean": LEAN}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A model for pairs of mentions with an adapter of each kind, its export, and an export of a third adapter."""
    folder = tmp_path_factory.mktemp("parts")
    tokenizer = tokenizer_of(TEXTS)
    backbone = save_backbone(folder / "backbone", vocab_size=len(tokenizer), max_position_embeddings=48, **SHALLOW)
    tokenizer.save_pretrained(backbone)
    model_class = KAdapterForEntityPairClassification
    model = shake(model_class.from_backbone(backbone, adapters=adapters_of(), **LABELS), std=0.1).eval()
    export(model, folder / "exported", tokenizer=tokenizer)
    third = shake(
        KAdapterModel.from_backbone(backbone, adapters={"third": small_adapter(layers=[0], num_hidden_layers=1)}),
        seed=5,
    ).eval()
    export(third, folder / "third", ExportOptions(adapters_only=True))
    manifest = json.loads((shutil.copytree(folder / "exported", folder / "features") / MANIFEST).read_text())
    bare = KAdapterModel.from_backbone(backbone, adapters=adapters_of())  # whose fusion is all that a head is made of
    manifest["head"] = Writer(bare, folder / "features", ExportOptions(), tokenizer, print).head("head.onnx")
    write_manifest(folder / "features", manifest)
    model.save_pretrained(folder / "artifact")
    return {"folder": folder, "model": model, "tokenizer": tokenizer, "third": third}


@pytest.fixture(scope="module")
def exported(parts):
    return ExportedModel.from_directory(parts["folder"] / "exported", threads=1)


@pytest.fixture
def copied(parts, tmp_path):
    return shutil.copytree(parts["folder"] / "exported", tmp_path / "exported")


def inputs_of(lengths=(9, 6, 4), side="right", extra=0):
    """Token ids, mask, and two positions of each row, as tensors."""
    inputs = batch("roberta", lengths=lengths, side=side, extra=extra)
    first = inputs["attention_mask"].argmax(dim=1)
    return {**inputs, "entity_positions": torch.stack([first, first + min(lengths) - 1], dim=1)}


def arrays(inputs):
    return {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def apart(expected, found):
    """The largest difference, as a share of the largest entry."""
    expected = np.asarray(expected)
    assert expected.shape == found.shape
    return np.abs(expected - found).max() / np.abs(expected).max()


def eager(model, **inputs):
    with torch.no_grad():
        return model(**inputs)


# ---- the same numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("lengths", [(4,), (9, 6, 4), (3, 20, 5, 2, 11)])
def test_logits_equal_those_of_pytorch_for_any_batch_and_length_and_padding_on_either_side(
    parts, exported, lengths, side
):
    inputs = inputs_of(lengths, side, extra=2)
    logits = exported(**arrays(inputs)).logits
    assert logits.shape == (len(lengths), 3)
    assert apart(eager(parts["model"], **inputs).logits, logits) < 1e-5


def test_an_adapter_is_silent_in_a_graph_where_it_is_silent_in_pytorch(tmp_path):
    silent = {"lean": PreNormAdapterConfig(**{**LEAN.to_dict(), "silent_below": 1.0})}
    model = shake(KAdapterModel.from_backbone(tiny_backbone("roberta", **SHALLOW), adapters=silent, fusion="delta"))
    adapter, inputs = model.eval().adapters["lean"], batch("roberta")
    sizes = model.contributions(**inputs)[1]["lean"].square().mean(-1).sqrt()
    adapter.backbone_rms.fill_(sizes.median().item() * 1.001)
    export(model, tmp_path / "exported")
    found = ExportedModel.from_directory(tmp_path / "exported", threads=1)(**arrays(inputs))
    said = eager(model, **inputs).adapter_hidden_states["lean"].numpy()
    quiet = ~said.any(-1)
    assert 3 < quiet.sum() < quiet.size - 3
    assert np.array_equal(~found.adapter_hidden_states["lean"].any(-1), quiet)
    assert apart(said, found.adapter_hidden_states["lean"]) < 1e-5


def test_each_row_of_a_mixed_batch_goes_through_its_own_adapters(parts, exported):
    inputs = inputs_of((9, 6, 4, 7))
    names = ["fac", "__base__", ["fac", "lean"], "lean"]
    output = exported(**arrays(inputs), adapter_names=names)
    assert apart(eager(parts["model"], **inputs, adapter_names=names).logits, output.logits) < 1e-5
    assert np.isnan(output.adapter_hidden_states["fac"][[1, 3]]).all()
    assert np.isfinite(output.adapter_hidden_states["fac"][[0, 2]]).all()
    alone = exported(**arrays(inputs), adapter_names=["__base__"] * 4)
    assert alone.adapter_hidden_states == {}
    assert np.array_equal(alone.last_hidden_state, alone.backbone_hidden_state)


def test_a_text_in_several_rows_is_read_once_and_each_row_has_its_own_answer(parts, exported, monkeypatch):
    inputs = inputs_of((9, 6, 4))
    rows, names = torch.tensor([1, 0, 1, 2, 1, 0]), ["lean", "lean", "__base__", "fac", ["fac", "lean"], "lean"]
    repeated = {name: value[rows] if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    repeated["entity_positions"][5] = torch.tensor([3, 2])  # the same text and adapter, and other mentions
    read, run = [], onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession,
        "run",
        lambda session, outputs, given: (
            read.append({name: len(value) for name, value in given.items()}) or run(session, outputs, given)
        ),
    )
    logits = exported(**arrays(repeated), adapter_names=names).logits
    assert apart(eager(parts["model"], **repeated, adapter_names=names).logits, logits) < 1e-5
    assert [given["input_ids"] for given in read if "input_ids" in given and "present" not in given] == [3]
    assert sorted(given["attention_mask"] for given in read if "hidden_state_1" in given) == [2, 2]


def test_adapters_come_and_go_while_others_answer(parts):
    model = ExportedModel.from_directory(parts["folder"] / "exported", threads=1)
    inputs = inputs_of()
    before = model(**arrays(inputs)).logits
    assert model.add_adapter(parts["folder"] / "third") == ["third"]
    assert model.active_adapters() == ["fac", "lean", "third"]
    third = {key: value for key, value in inputs.items() if key != "entity_positions"}
    states = model(**arrays(inputs), adapter_names=["third"] * 3).adapter_hidden_states["third"]
    expected = eager(parts["third"], **third).adapter_hidden_states["third"]
    expected = expected.gather(1, inputs["entity_positions"][..., None].expand(-1, -1, 32))
    assert apart(expected, states) < 1e-5
    model.set_adapter(["fac", "lean"])
    assert np.array_equal(model(**arrays(inputs)).logits, before)
    model.delete_adapter("third")
    assert model.adapters == ["fac", "lean"]
    graph = parts["folder"] / "third" / "adapter-third.onnx"
    assert model.add_adapter(graph, adapter_name="again") == ["again"]
    with pytest.raises(ValueError, match="there is an adapter 'again' already"):
        model.add_adapter(graph, adapter_name="again")


def test_a_second_head_answers_by_its_name(parts):
    model = ExportedModel.from_directory(parts["folder"] / "exported", threads=1)
    model.add_head(parts["folder"] / "exported", "twin")
    inputs = arrays(inputs_of())
    assert np.array_equal(model(**inputs, head="twin").logits, model(**inputs).logits)
    model.delete_head("twin")
    with pytest.raises(ValueError, match="no head 'twin'; there are \\['own'\\]"):
        model(**inputs, head="twin")


def test_many_threads_get_what_one_gets(exported):
    inputs = arrays(inputs_of((9, 6, 4, 7)))
    expected, found = exported(**inputs).logits, []
    threads = [threading.Thread(target=lambda: found.append(exported(**inputs).logits)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(np.array_equal(expected, each) for each in found)


def meanwhile(monkeypatch, change):
    """Have a change made while the first graph runs, as by another thread."""
    run, changes = onnxruntime.InferenceSession.run, [change]
    monkeypatch.setattr(
        onnxruntime.InferenceSession,
        "run",
        lambda session, outputs, given: (changes and changes.pop()(), run(session, outputs, given))[1],
    )


def test_texts_of_one_call_all_go_through_the_adapters_that_there_were_when_it_began(parts, monkeypatch):
    model = ExportedModel.from_directory(parts["folder"] / "exported", threads=1)
    before = model.predict(TEXTS[:3], SPANS[:3], top_k=3, batch_size=1)
    meanwhile(monkeypatch, lambda: model.delete_adapter("fac"))
    assert model.predict(TEXTS[:3], SPANS[:3], top_k=3, batch_size=1) == before
    assert model.adapters == ["lean"]
    features = ExportedModel.from_directory(parts["folder"] / "features", threads=1)
    before = features.encode([TEXTS[0]] * 3, batch_size=1)
    meanwhile(monkeypatch, lambda: features.add_adapter(parts["folder"] / "third"))
    for states, expected in zip(features.encode([TEXTS[0]] * 3, batch_size=1), before, strict=True):
        assert np.array_equal(states, expected)
    assert features.active_adapters() == ["fac", "lean", "third"]


def test_predictions_of_texts_are_those_of_the_pipeline(parts, exported):
    pipe = kadapter.EntityPairClassificationPipeline(model=parts["model"], tokenizer=parts["tokenizer"])
    expected = pipe(TEXTS[:3], entity_spans=SPANS[:3], top_k=3, adapter_names=["fac", "__base__", "lean"])
    found = exported.predict(TEXTS[:3], SPANS[:3], top_k=3, adapter_names=["fac", "__base__", "lean"], batch_size=2)
    assert [[each["label"] for each in one] for one in found] == [[each["label"] for each in one] for one in expected]
    scores = [[[each["score"] for each in one] for one in answers] for answers in (expected, found)]
    assert np.allclose(*scores, atol=1e-5)


FUSIONS = ["add", "delta", "max", "concat", "gated", "gated_token"]


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion_equals_pytorch_and_leaves_out_the_adapters_that_a_row_does_not_name(fusion, tmp_path):
    model = KAdapterModel.from_backbone(tiny_backbone("roberta"), adapters=adapters_of(), fusion=fusion)
    model = shake(model).eval()
    trace(plans.fusion(model), tmp_path / "head.onnx", "onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "head.onnx"))
    rows = [(), ("fac", "lean"), ("fac", "lean") if fusion == "concat" else ("lean",)]
    generator = torch.Generator().manual_seed(1)
    base, *states = (torch.randn(3, 5, 32, generator=generator) for _ in range(3))
    own = model.adapters.of_rows([list(names) or "__base__" for names in rows], 3)
    with torch.no_grad():
        expected = model.fusion.fuse_rows(base, dict(zip(("fac", "lean"), states, strict=True)), own)
    present = [[float(name in names) for names in rows] for name in ("fac", "lean")]
    fed = {"backbone_hidden_state": base.numpy(), "adapter_hidden_states": torch.stack(states).numpy()}
    (found,) = session.run(None, {**fed, "present": np.array(present, dtype=np.float32)})
    assert apart(expected, found) < 1e-5


# ---- what is written ------------------------------------------------------------------------------------------------


def test_the_manifest_tells_the_encoder_its_taps_shapes_labels_and_the_hash_of_every_file(parts):
    folder = parts["folder"] / "exported"
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    assert manifest["backbone"]["fingerprint"] == parts["model"].config.backbone_fingerprint
    assert manifest["encoder"]["layers"] == [0, 1]
    assert manifest["encoder"]["outputs"]["hidden_state_1"] == ["batch", "sequence", 32]
    assert {name: each["layers"] for name, each in manifest["adapters"].items()} == {"fac": [0, 1], "lean": [1]}
    assert {name: each["kind"] for name, each in manifest["adapters"].items()} == {
        "fac": "k_adapter",
        "lean": "prenorm",
    }
    assert manifest["head"]["labels"] == ["born", "died", "works"]
    assert set(manifest["files"]) == {path.name for path in folder.iterdir()} - {MANIFEST}
    assert {"encoder.onnx", "adapter-fac.onnx", "adapter-lean.onnx", "head.onnx", "tokenizer.json"} <= set(
        manifest["files"]
    )


def test_adapters_that_are_disabled_are_not_active_in_the_export(tmp_path, monkeypatch):
    monkeypatch.setattr("kadapter.exports.writing.trace", lambda traced, path, runtime: path.write_bytes(b""))
    model = KAdapterModel.from_backbone(tiny_backbone("roberta", **SHALLOW), adapters=adapters_of())
    assert export(model, tmp_path / "enabled")["active_adapters"] is None
    model.disable_adapters()
    assert export(model, tmp_path / "disabled")["active_adapters"] == []


@pytest.mark.slow
def test_a_single_graph_answers_as_the_model_and_takes_no_other_adapters(parts, tmp_path):
    export(parts["model"], tmp_path / "single", ExportOptions(single=True), parts["tokenizer"])
    model = ExportedModel.from_directory(tmp_path / "single", threads=1)
    for side in ("left", "right"):
        inputs = inputs_of((9, 6, 4, 3), side, extra=1)
        assert apart(eager(parts["model"], **inputs).logits, model(**arrays(inputs)).logits) < 1e-5
    assert model.predict(TEXTS[:1], SPANS[:1])[0][0]["label"] in ("born", "died", "works")
    with pytest.raises(ValueError, match="can't be added to a single graph; export the model without --single"):
        model.add_adapter(parts["folder"] / "third")
    with pytest.raises(ValueError, match="this is a single one; export it without --single"):
        model(**arrays(inputs), adapter_names=["fac"] * 4)
    separate = ExportedModel.from_directory(parts["folder"] / "exported", threads=1)
    ids = np.full((2, 4), 5)
    for positions in (None, [1, 2], [[1], [2]], [[1, 2]], [[1, 9], [2, 1]]):
        said = refusal(model, ids, entity_positions=positions)
        assert said == refusal(separate, ids, entity_positions=positions)
    for wrong in ("word_positions", "positions", "answer_mask"):
        said = refusal(model, ids, entity_positions=[[1, 2]] * 2, **{wrong: ids})
        assert (
            f"the single graph of a KAdapterForEntityPairClassification has no input {wrong!r}; leave it out" in said
        )
    manifest = json.loads((tmp_path / "single" / MANIFEST).read_text())
    (tmp_path / "single" / MANIFEST).write_text(json.dumps({**manifest, "head": None}))
    assert "'head' is no record of file, class" in refusal(ExportedModel.from_directory, tmp_path / "single")


@pytest.mark.slow
def test_openvino_reads_the_same_graphs(parts):
    pytest.importorskip("openvino", reason="it is an extra: pip install 'kadapter[openvino]'")
    model = ExportedModel.from_directory(parts["folder"] / "exported", runtime="openvino", threads=1)
    for side in ("left", "right"):
        inputs = inputs_of((9, 6, 4), side, extra=1)
        names = ["fac", "__base__", ["fac", "lean"]]
        found = model(**arrays(inputs), adapter_names=names).logits
        assert apart(eager(parts["model"], **inputs, adapter_names=names).logits, found) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("turned", [0, 1], ids=["MatMul", "Gemm with turned weights"])
def test_int8_shares_a_channels_outliers_between_activations_and_weights(tmp_path, turned):
    """Without that the range of one channel leaves all others, which decide the product here, some two steps."""
    onnx = pytest.importorskip("onnx")
    random = np.random.default_rng(0)
    read, weights = (random.standard_normal(shape).astype(np.float32) for shape in ((64, 32), (32, 32)))
    read[:, 0] *= 100
    weights[0] /= 100
    product, shape = (("Gemm", {"transB": 1}) if turned else ("MatMul", {})), onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node(product[0], ["read", "weights"], ["given"], "product", **product[1])
    stored = onnx.numpy_helper.from_array(np.ascontiguousarray(weights.T) if turned else weights, "weights")
    ends = [[shape(name, onnx.TensorProto.FLOAT, ["rows", 32])] for name in ("read", "given")]
    graph = onnx.helper.make_graph([node], "product", *ends, [stored])
    path = tmp_path / "product.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10), path)
    to_eight_bits(path, [{"read": read}])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.run(["given"], {"read": read})
    assert np.abs(given - read @ weights).mean() < 0.02 * np.abs(read @ weights).mean()


@pytest.mark.slow
def test_int8_has_all_products_with_weights_in_8_bits_those_that_end_feed_forward_networks_by_block(tmp_path):
    onnx = pytest.importorskip("onnx")
    tokenizer = tokenizer_of(TEXTS)
    sizes = {"vocab_size": len(tokenizer), "intermediate_size": 128, "max_position_embeddings": 48, **SHALLOW}
    backbone = save_backbone(tmp_path / "backbone", **sizes)
    options = ExportOptions(precision="int8", calibration=Calibration(TEXTS))
    export(KAdapterModel.from_backbone(backbone), tmp_path / "exported", options, tokenizer)
    weights = onnx.load(tmp_path / "exported" / "encoder.onnx").graph.initializer
    kinds = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT)
    whole, blocks, floats = ({tuple(each.dims) for each in weights if each.data_type == kind} for kind in kinds)
    assert {(32, 32), (32, 128)} <= whole
    assert (32, 4, 32) in blocks  # outputs, blocks, inputs of a block
    assert not {(32, 32), (32, 128), (128, 32)} & floats


@pytest.mark.slow
def test_int8_notes_what_it_changed_of_features_and_of_the_task(parts, copied, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a program that has set up no logging
    monkeypatch.delitem(sys.modules, "onnxruntime.quantization.matmul_nbits_quantizer", raising=False)
    manifest, lines = json.loads((copied / MANIFEST).read_text()), []
    labelled = Labelled(TEXTS[:3], ["born", "works", "died"], SPANS[:3])
    quantize(copied, manifest, Calibration(TEXTS, labelled=labelled), lines.append)
    assert [line.split(":")[0] for line in lines[:3]] == ["encoder.onnx", "adapter-fac.onnx", "adapter-lean.onnx"]
    assert logging.getLogger().handlers == []
    told = json.loads((copied / MANIFEST).read_text())
    assert told["precision"] == "int8"
    assert (told["int8"]["learned_from"], told["int8"]["measured_on"]) == (9, 3)
    assert 0.9 < told["int8"]["cosine_lowest"] <= told["int8"]["cosine_mean"] < 1
    shares = told["int8"]["accuracy"]
    assert set(shares) == {"fp32", "int8"} and all(0 <= share <= 1 for share in shares.values())
    model = ExportedModel.from_directory(copied, threads=1)
    inputs = inputs_of()
    assert 1e-5 < apart(eager(parts["model"], **inputs).logits, model(**arrays(inputs)).logits) < 0.3


def test_labels_that_the_head_does_not_know_are_named(copied):
    manifest = json.loads((copied / MANIFEST).read_text())
    calibration = Calibration(TEXTS, labelled=Labelled(TEXTS[:1], ["bron"], SPANS[:1]))
    said = refusal(quantize, copied, manifest, calibration, print)
    assert said == "labelled text 1 has the label 'bron', and the head knows ['born', 'died', 'works']"


# ---- bad input ------------------------------------------------------------------------------------------------------


def refusal(function, *arguments, **keywords):
    with pytest.raises((ValueError, TypeError, OSError)) as refused:
        function(*arguments, **keywords)
    return str(refused.value)


def test_a_damaged_graph_and_one_that_was_cut_are_told_apart(copied):
    path = copied / "adapter-fac.onnx"
    written = path.read_bytes()
    path.write_bytes(written[:-100])
    said = refusal(ExportedModel.from_directory, copied)
    assert f"has {len(written) - 100} bytes and was written with {len(written)}, so it was cut" in said
    path.write_bytes(written + b" ")
    said = refusal(ExportedModel.from_directory, copied)
    assert f"has {len(written) + 1} bytes and was written with {len(written)}, so it was replaced" in said
    path.write_bytes(written[:-100] + bytes(100))
    said = refusal(ExportedModel.from_directory, copied)
    assert "adapter-fac.onnx is damaged: its SHA-256 is" in said and "export the artifact anew" in said
    path.unlink()
    assert "adapter-fac.onnx is missing, which export.json names" in refusal(ExportedModel.from_directory, copied)


def test_a_graph_that_no_runtime_reads_and_a_manifest_of_nothing_are_sentences(copied, tmp_path):
    (copied / "head.onnx").write_bytes(bytes((copied / "head.onnx").stat().st_size))
    said = refusal(ExportedModel.from_directory, copied, verify=False)
    assert "head.onnx is no graph that onnxruntime reads" in said
    for text, words in (("{", "is no JSON file"), ("{}", "has no format_version"), ("[]", "has no format_version")):
        (copied / MANIFEST).write_text(text)
        assert words in refusal(ExportedModel.from_directory, copied)
    (copied / MANIFEST).write_text('{"format_version": 99}')
    assert "has format 99, and this kadapter reads up to 1" in refusal(ExportedModel.from_directory, copied)
    (copied / MANIFEST).write_text('{"format_version": 1, "files": {}}')
    assert "lacks runtime, precision, backbone" in refusal(ExportedModel.from_directory, copied)
    assert "there is no such directory; write one by kadapter export" in refusal(
        ExportedModel.from_directory, tmp_path / "nowhere"
    )


def test_a_manifest_that_names_files_elsewhere_is_refused(copied):
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": ""}
    (copied / MANIFEST).write_text(json.dumps(manifest))
    assert "'../secret', which lies outside the directory" in refusal(ExportedModel.from_directory, copied)


def test_an_adapter_of_another_encoder_is_refused_by_its_fingerprint(parts, exported, tmp_path):
    other = shutil.copytree(parts["folder"] / "third", tmp_path / "third")
    manifest = json.loads((other / MANIFEST).read_text())
    ours = manifest["backbone"]["fingerprint"]
    manifest["backbone"]["fingerprint"] = "f" * 64
    (other / MANIFEST).write_text(json.dumps(manifest))
    said = refusal(exported.add_adapter, other)
    assert "with fingerprint ffffffffffff, and this model has" in said and ours[:12] in said
    assert exported.adapters == ["fac", "lean"]


def test_an_adapter_that_reads_other_hidden_states_names_the_taps_that_are_missing(parts, exported, tmp_path):
    other = shutil.copytree(parts["folder"] / "third", tmp_path / "third")
    manifest = json.loads((other / MANIFEST).read_text())
    manifest["adapters"]["third"]["layers"] = [0, 5]
    (other / MANIFEST).write_text(json.dumps(manifest))
    said = refusal(exported.add_adapter, other)
    assert "reads the hidden states [0, 5], and the encoder returns [0, 1]; export the encoder with --tap 5" in said


def test_inputs_that_do_not_go_with_the_encoder_are_sentences(exported):
    inputs = arrays(inputs_of())
    ids, mask, positions = inputs["input_ids"], inputs["attention_mask"], inputs["entity_positions"]
    long = np.ones((1, 47), dtype=np.int64)
    assert "47 tokens are more than the 46 that the backbone takes; cut them" in refusal(exported, long)
    assert "input_ids holds 999999, and the encoder knows 0 to" in refusal(exported, np.full((1, 4), 999999))
    assert "attention_mask has shape (3, 8) and must have (3, 9)" in refusal(exported, ids, mask[:, :8])
    assert "input_ids has dtype float64; give whole numbers" in refusal(exported, ids * 1.0)
    assert "entity_positions has shape None and must have (3, 2)" in refusal(exported, ids, mask)
    assert "position 25 lies outside the 9 tokens" in refusal(exported, ids, mask, entity_positions=positions + 22)
    for wrong in ("labels", "word_positions", "positions", "answer_mask"):
        said = refusal(exported, ids, mask, entity_positions=positions, **{wrong: ids})
        assert f"an exported KAdapterForEntityPairClassification has no input {wrong!r}; leave it out" in said
    assert "input_ids has rows of unequal lengths; pad them" in refusal(exported, [[1, 2], [1]])


def test_a_head_that_was_exported_without_a_tokenizer_reads_no_texts_beside_one_that_has_it(parts, copied):
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["head"]["markers"], manifest["tokenizer"] = [], None  # as such an export has it
    (copied / MANIFEST).write_text(json.dumps(manifest))
    model = ExportedModel.from_directory(parts["folder"] / "exported", threads=1)
    model.add_head(copied, "bare")
    said = refusal(model.predict, TEXTS[:1], SPANS[:1], head="bare")
    assert "this head was exported without a tokenizer, so it has no markers of mentions and reads no texts" in said
    inputs = arrays(inputs_of())
    assert np.array_equal(model(**inputs, head="bare").logits, model(**inputs).logits)


def test_texts_spans_and_numbers_of_another_type_are_sentences(exported):
    asked = exported.predict
    assert "text 0 has" in refusal(asked, ["Mira " * 60], [[(0, 4), (5, 9)]])
    assert "text 1 is None, a NoneType; give a string" in refusal(asked, ["a", None], SPANS[:2])
    for spans in (None, 3, "ab"):
        assert f"text 0: entity_spans are {spans!r}; give a list of" in refusal(asked, TEXTS[:1], [spans])
    assert "text 0: entity_spans are 3; give a list of (start, end)" in refusal(asked, TEXTS[:1], 3)
    assert "no head ['own']; there are ['own']" in refusal(asked, TEXTS[:1], SPANS[:1], head=["own"])
    assert "top_k='2' must be a whole number of at least 1" in refusal(asked, TEXTS[:1], SPANS[:1], top_k="2")
    assert "batch_size=0 must be a whole number of at least 1" in refusal(asked, TEXTS[:1], SPANS[:1], batch_size=0)


def test_a_manifest_whose_entries_lack_what_is_read_of_them_is_a_sentence(copied):
    written = (copied / MANIFEST).read_text()
    for change, words in (
        ({"adapters": None}, "'adapters' is no record of file, layers, features"),
        ({"encoder": "a"}, "'encoder' is no record of file, layers"),
        ({"backbone": {}}, "'backbone' is no record of name_or_path, fingerprint"),
        ({"files": {"encoder.onnx": 5}}, "'files' of 'encoder.onnx' is no record of bytes, sha256"),
    ):
        (copied / MANIFEST).write_text(json.dumps({**json.loads(written), **change}))
        said = refusal(ExportedModel.from_directory, copied)
        assert f"{MANIFEST} is damaged: {words}" in said and "export the artifact anew" in said


def leaves(value, path=()):
    """The paths of all values of a manifest, but for shapes of graphs, which nothing reads, and lists."""
    if path:
        yield path
    for key in value if isinstance(value, dict) and path[-1:] not in (("inputs",), ("outputs",)) else ():
        yield from leaves(value[key], (*path, key))


def test_a_manifest_with_any_value_of_another_type_is_a_sentence_or_makes_no_difference(copied):
    written, said, answered = json.loads((copied / MANIFEST).read_text()), [], []
    for *path, key in leaves(written):
        for value in (None, 5, -1, "x", [], {}, [None]):
            changed = json.loads(json.dumps(written))
            entry = changed
            for step in path:
                entry = entry[step]
            entry[key] = value
            (copied / MANIFEST).write_text(json.dumps(changed))
            try:  # what is no ValueError and no OSError is an error of the test
                model = ExportedModel.from_directory(copied, threads=1, verify=False)
                answered.append(model.predict(TEXTS[:1], SPANS[:1], top_k=2))
            except (ValueError, OSError) as error:
                said.append(str(error))
    assert [sentence for sentence in said if len(sentence.split()) < 5] == [] != said
    assert answered and all(len(answers) == 1 for answers in answered)


def test_the_graph_of_an_adapter_in_the_place_of_another_is_refused_by_what_it_reads(parts, copied):
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["adapters"]["fac"]["layers"] = [1]
    (copied / MANIFEST).write_text(json.dumps(manifest))
    said = refusal(ExportedModel.from_directory, copied)
    assert "adapter-fac.onnx reads ['hidden_state_0'], and there are ['hidden_state_1', 'attention_mask']" in said


def test_what_names_no_adapter_and_no_head_is_a_sentence(parts, exported):
    graph, head = parts["folder"] / "third" / "adapter-third.onnx", parts["folder"] / "exported"
    assert "adapter_name is 5; give a string" in refusal(exported.add_adapter, graph, 5)
    for name in ("", "__base__"):
        assert f"adapter_name={name!r} names nothing" in refusal(exported.add_adapter, graph, name)
        assert f"head_name={name!r} names nothing" in refusal(exported.add_head, head, name)
    for change in (exported.set_adapter, exported.delete_adapter):
        assert "adapter_names is 5; give a name or a list of names of ['fac', 'lean']" in refusal(change, 5)
        assert "no adapter ['fac']; there are ['fac', 'lean']" in refusal(change, [["fac"]])
    assert (exported.adapters, exported.heads) == (["fac", "lean"], ["own"])


def test_texts_that_can_be_read_only_once_are_refused_rather_than_answered_by_nothing(parts, exported):
    features = ExportedModel.from_directory(parts["folder"] / "features", threads=1)
    assert "texts is generator; give a list of texts" in refusal(features.encode, (text for text in TEXTS))
    assert "texts is NoneType; give a list of texts" in refusal(features.encode, None)
    assert "this model has no head, so it predicts nothing; encode(texts) returns its features" in refusal(
        features.predict, TEXTS
    )
    assert "batch_size='2' must be a whole number of at least 1" in refusal(features.encode, TEXTS, batch_size="2")
    for threads in (0, "2", 1.5):
        said = refusal(ExportedModel.from_directory, parts["folder"] / "exported", threads=threads)
        assert f"threads={threads!r} must be a whole number of at least 1" in said


def test_adapter_names_are_refused_in_the_words_of_the_model(parts, exported):
    inputs = inputs_of()
    for names in ("fac", ["fac"], ["fac", "fac", "nope"], ["fac", "fac", 3], [["fac", "fac"], "fac", "fac"]):
        with pytest.raises((ValueError, TypeError)) as ours:
            parts["model"](**inputs, adapter_names=names)
        assert refusal(exported, **arrays(inputs), adapter_names=names) == str(ours.value)


def test_what_can_not_be_exported_says_why(parts, tmp_path, monkeypatch):
    model, folder = parts["model"], tmp_path / "out"
    assert "int8 needs sentences to learn the ranges of values from; give --calibration FILE" in refusal(
        export, model, folder, ExportOptions(precision="int8")
    )
    few = ExportOptions(precision="int8", calibration=Calibration(TEXTS[:3], "few.txt"))
    assert "few.txt has 3 sentences, too few to learn ranges from" in refusal(export, model, folder, few)
    assert "there is no tokenizer" in refusal(
        export, model, folder, ExportOptions(precision="int8", calibration=Calibration(TEXTS))
    )
    assert "precision='fp8' must be one of ['fp32', 'int8']" in refusal(
        export, model, folder, ExportOptions(precision="fp8")
    )
    assert "tap 9 is none of the encoder's hidden states, 0 to 1" in refusal(
        export, model, folder, ExportOptions(taps=[9])
    )
    none = ExportOptions(precision="int8", calibration=Calibration(TEXTS, labelled=Labelled([], [])))
    assert "there are no labelled texts to measure int8 by" in refusal(export, model, folder, none)
    labelled = ExportOptions(precision="int8", calibration=Calibration(TEXTS, labelled=Labelled(TEXTS, ["x"] * 12)))
    assert "artifact': it holds an artifact (config.json)" in refusal(export, model, parts["folder"] / "artifact")
    monkeypatch.setattr(torch.onnx, "export", None)  # all this is found before anything is traced
    assert "labelled text 1 has the label 'x', and the head knows ['born', 'died', 'works']" in refusal(
        export, model, folder, labelled, parts["tokenizer"]
    )
    long = ExportOptions(precision="int8", calibration=Calibration([*TEXTS, "Mira " * 60], "lines.txt"))
    said = refusal(export, model, folder, long, parts["tokenizer"])
    assert said.startswith("lines.txt: sentence 13, 'Mira Mira") and "more than the 46 that the encoder takes" in said
    taps = ExportOptions(single=True, taps=[1])
    assert "taps [1] serve adapters that are added, and a single graph takes none" in refusal(
        export, model, folder, taps
    )
    half = make_model(tiny_backbone("roberta", **SHALLOW)).to(torch.bfloat16)
    assert "has dtype torch.bfloat16; load the model with dtype='float32' to export it" in refusal(
        export, half, folder
    )
    pairs = kadapter.KAdapterForPairMatching.from_backbone(tiny_backbone("roberta", **SHALLOW))
    assert "a KAdapterForPairMatching has no exported form" in refusal(export, pairs, folder)
    assert "a RobertaModel has no exported form" in refusal(export, tiny_backbone("roberta", **SHALLOW), folder)
    heads = kadapter.KAdapterModelWithHeads.from_heads({"pairs": parts["folder"] / "artifact"})
    said = refusal(export, heads, folder)
    assert "is exported head by head: export model.heads[NAME] for each of ['pairs']" in said
    none = KAdapterModel.from_backbone(tiny_backbone("roberta", **SHALLOW))
    assert "the model has no adapters that could be exported alone" in refusal(
        export, none, folder, ExportOptions(adapters_only=True)
    )
    assert not folder.exists()


def test_a_backbone_that_the_exporter_can_not_trace_is_a_sentence(tmp_path):
    backbone = tiny_backbone("roberta", **SHALLOW)
    forward = backbone.encoder.forward

    def looks_at_values(hidden_states, *arguments, **keywords):
        return forward(hidden_states * 2 if bool(hidden_states.sum() > 0) else hidden_states, *arguments, **keywords)

    backbone.encoder.forward = looks_at_values
    said = refusal(export, KAdapterModel.from_backbone(backbone), tmp_path / "out")
    assert said.startswith("torch's exporter can't trace the encoder RobertaModel (")
    assert said.endswith("and run this one in PyTorch") and not (tmp_path / "out").exists()
