"""The example server: a process on loopback answers many clients at once as the model answers each alone."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests as http
from helpers import ROOT, save_backbone, shake, small_adapter
from tiny_runs import tokenizer_of

import kadapter

pytest.importorskip("onnxscript", reason="exporting needs onnxscript: pip install 'kadapter[onnx]'")
pytest.importorskip("fastapi", reason="serving needs fastapi: pip install 'kadapter[server]'")
from kadapter.exports.writing import ExportOptions, Writer, export
from kadapter.runtime import MANIFEST, ExportedModel
from kadapter.runtime.manifest import write_manifest

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

TEXTS = ["Mira Voss was born in Tarnstad on the Kell.", "Ilse Tarn works in Kell.", "Oduya died in Lumen Bay."]
SPANS = [[(0, 9), (22, 30)], [(0, 9), (19, 23)], [(0, 5), (14, 23)]]
LABELS = {"id2label": {0: "born", 1: "died", 2: "works"}, "label2id": {"born": 0, "died": 1, "works": 2}}
ADAPTERS = {name: small_adapter(layers=[0, 1], num_hidden_layers=1) for name in ("fac", "lin")}
STARTED = "Uvicorn running on "


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder with two adapters and a head for pairs of mentions, and beside it a head for whole texts."""
    folder = tmp_path_factory.mktemp("served")
    tokenizer = tokenizer_of(TEXTS * 4)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 48, "num_hidden_layers": 1}
    tokenizer.save_pretrained(save_backbone(folder / "backbone", **sizes))
    fields = {"adapters": ADAPTERS, **LABELS}
    pairs = kadapter.KAdapterForEntityPairClassification.from_backbone(folder / "backbone", **fields)
    export(shake(pairs, std=0.1).eval(), folder / "pairs", tokenizer=tokenizer)
    topics = kadapter.KAdapterForSequenceClassification.from_backbone(folder / "backbone", **fields)
    manifest = json.loads((shutil.copytree(folder / "pairs", folder / "topics") / MANIFEST).read_text())
    writer = Writer(shake(topics, std=0.1).eval(), folder / "topics", ExportOptions(), tokenizer, lambda line: None)
    manifest["head"] = writer.head("head.onnx")
    write_manifest(folder / "topics", manifest)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    model = ExportedModel.from_directory(folder / "pairs", threads=1)
    model.add_head(folder / "topics", "topics")
    return model


@contextmanager
def serving(folder, *more):
    """A server in a process of its own, by its address."""
    command = [
        sys.executable,
        "-P",
        ROOT / "examples" / "server.py",
        folder / "pairs",
        "--port",
        "0",
        "--threads",
        "1",
    ]
    command += ["--head", f"topics={folder / 'topics'}", *more]
    with subprocess.Popen(map(str, command), stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = iter(process.stderr.readline, "")
            yield next(line for line in lines if STARTED in line).partition(STARTED)[2].split()[0]
        finally:
            process.terminate()


def requests():
    """Good requests of both heads, through each choice of adapters."""
    names = ["fac", "lin", ["fac", "lin"], "__base__", None]
    for number, (text, spans) in enumerate(zip(TEXTS * 5, SPANS * 5, strict=True)):
        request = {"text": text, "adapter_names": names[number % 5], "top_k": 3}
        yield {**request, "entity_spans": spans} if number % 2 else {**request, "head": "topics"}


def assert_alike(found, expected):
    assert [each["label"] for each in found] == [each["label"] for each in expected]
    assert [each["score"] for each in found] == pytest.approx([each["score"] for each in expected], abs=1e-5)


def test_questions_to_several_heads_and_adapters_are_answered_in_a_batch_as_each_alone(model):
    questions = [model.read(**request) for request in requests()]
    for found, question in zip(model.answer(questions), questions, strict=True):
        assert_alike(found, model.answer([question])[0])
    assert model.answer([]) == []
    spans = model.predict(TEXTS, SPANS, top_k=3, adapter_names=["fac"] * 3)
    alone = [model.read(text, each, 3, "fac") for text, each in zip(TEXTS, SPANS, strict=True)]
    for found, expected in zip(model.answer(alone), spans, strict=True):
        assert_alike(found, expected)


BAD = [
    ({"text": TEXTS[0], "head": "none"}, "no head 'none'; there are ['own', 'topics']"),
    ({"text": TEXTS[0], "head": "topics", "adapter_names": "lim"}, "names 'lim', and there are ['fac', 'lin', "),
    ({"text": "Mira " * 60, "head": "topics"}, "more than the 46 that the encoder takes; cut it"),
    ({"text": TEXTS[1], "entity_spans": [[0, 4], [9, 99]]}, "outside its 24 characters; give (start, end)"),
    ({"text": TEXTS[1]}, "reads 2 mentions of each text; give their entity_spans"),
    ({"text": "", "head": "topics", "top_k": 0}, "top_k=0 must be a whole number of at least 1"),
    ({"text": TEXTS[1], "adapters": ["fac"]}, "adapters: Extra inputs are not permitted"),
    ({"text": 7}, "text: Input should be a valid string"),
    ({"text": "x" * 20_001, "head": "topics"}, "text: String should have at most 20000 characters"),
]


def test_a_server_answers_clients_at_once_as_the_model_answers_each_and_bad_requests_spoil_none(folder, model):
    with serving(folder) as address, ThreadPoolExecutor(12) as clients:
        good = list(requests()) * 4
        asked = [each for pair in zip(good, (BAD * 7)[: len(good)], strict=True) for each in (pair[0], pair[1][0])]
        answers = list(clients.map(lambda each: http.post(f"{address}/predict", json=each, timeout=60), asked))
        assert {answer.status_code for answer in answers[1::2]} == {422}
        for answer, (_, sentence) in zip(answers[1::2], BAD * 7, strict=False):
            assert sentence in answer.json()["detail"]
        for answer, request in zip(answers[::2], good, strict=True):
            assert answer.status_code == 200, answer.text
            assert_alike(answer.json()["answers"], model.answer([model.read(**request)])[0])
        told = http.get(address).json()
        assert (told["adapters"], told["heads"]) == (["fac", "lin"], ["own", "topics"])
        assert told["answered"] == len(good) > told["passes"]
        assert http.post(f"{address}/predict", data=b"{", timeout=60).json()["detail"].startswith("body: ")


def test_a_server_that_can_not_start_says_why_in_a_sentence(folder, tmp_path):
    for words, sentence in (
        ([tmp_path / "nowhere"], "there is no such directory; write one by kadapter export"),
        ([folder / "pairs", "--head", "topics"], "--head topics must be NAME=DIR"),
        ([folder / "pairs", "--adapter", folder / "pairs"], "there is an adapter 'fac' already"),
    ):
        command = [sys.executable, "-P", str(ROOT / "examples" / "server.py"), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr.startswith("server: ") and sentence in done.stderr
    command = [sys.executable, "-P", str(ROOT / "examples" / "server.py"), str(folder / "pairs"), "--port", "65536"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Invalid value for '--port'" in done.stderr and "Traceback" not in done.stderr
