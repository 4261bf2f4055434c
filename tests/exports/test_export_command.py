"""`kadapter export`, `kadapter predict` on what it wrote, the page about it, and a process without torch."""

import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from helpers import ROOT, run_python, save_backbone, shake, small_adapter
from tiny_runs import tokenizer_of
from typer.testing import CliRunner

import kadapter
from kadapter.commands import app

pytest.importorskip("onnxscript", reason="exporting needs onnxscript: pip install 'kadapter[onnx]'")
pytest.importorskip("onnxruntime", reason="running a graph needs onnxruntime: pip install 'kadapter[onnx]'")
pytestmark = [pytest.mark.slow, pytest.mark.thorough]
TEXT = "Mira Voss was born in Tarnstad."
MARKED = "[[Mira Voss]] was born in [[Tarnstad]]."
LABELS = {"id2label": {0: "born", 1: "died"}, "label2id": {"born": 0, "died": 1}}
FRESH = """
import json
from kadapter.runtime import ExportedModel
model = ExportedModel.from_directory(sys.argv[1], threads=1)
answers = model.predict([sys.argv[2]], entity_spans=[[(0, 9), (22, 30)]])
print(json.dumps([sorted({"torch", "transformers", "datasets"} & set(sys.modules)), answers]))
"""


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def printed(*words):
    result = run(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def sentence(*words):
    result = run(*words)
    assert result.exit_code == 1 and "Traceback" not in result.output, result.output
    return result.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands of the page were run, in their order, on two artifacts of an encoder of one block."""
    folder = tmp_path_factory.mktemp("documented")
    tokenizer = tokenizer_of([TEXT] * 4)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 48, "num_hidden_layers": 1}
    backbone = save_backbone(folder / "backbone", **sizes)
    tokenizer.save_pretrained(backbone)
    shape = small_adapter(layers=[0, 1], num_hidden_layers=1)
    head = kadapter.KAdapterForEntityPairClassification.from_backbone(backbone, adapters={"fac": shape}, **LABELS)
    shake(head, std=0.1).eval().save_pretrained(folder / "relations")
    lin = kadapter.KAdapterModel.from_backbone(backbone, adapters={"lin": shape})
    shake(lin, std=0.1, seed=3).eval().save_pretrained(folder / "kadapter-lin")
    kadapter.KAdapterModelWithHeads.from_heads({"pairs": folder / "relations"}).save_pretrained(folder / "heads")
    (folder / "sentences.txt").write_text("\n".join([TEXT, "Tarnstad is old.", "Mira was born."] * 4))
    line = json.dumps({"text": MARKED, "label": "born"})
    (folder / "labelled.jsonl").write_text(f"{line}\n{line}\n")
    return folder


def page():
    return (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


def test_the_commands_and_lines_of_python_of_the_page_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    lines = re.findall(r"^kadapter (.+)$", page(), flags=re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        use = "add it to a" if "--adapters-only" in line else "run it with"
        assert f"{use} kadapter.runtime.ExportedModel" in printed(*shlex.split(line)), line
    (code,) = re.findall("```python\n(.*?)```", page(), flags=re.DOTALL)
    exec(compile(code, "export.md", "exec"), {})
    assert "['lin']" in capsys.readouterr().out
    told = json.loads(Path("exported-int8", "export.json").read_text())["int8"]
    assert told["learned_from"] == 9 and told["accuracy"]["fp32"] in (0, 1)


def test_a_script_reads_where_an_export_is_and_how_large_its_files_are(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    told = json.loads(printed("export", "relations", "-o", str(tmp_path / "out"), "--json"))
    assert (told["path"], told["class"]) == (str(tmp_path / "out"), "KAdapterForEntityPairClassification")
    assert told["adapters"] == ["fac"]
    assert told["files"] == {name: (tmp_path / "out" / name).stat().st_size for name in told["files"]}


def test_of_an_artifact_of_several_heads_the_one_that_is_named_is_exported_and_none_is_left_out(
    folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(folder)
    assert "heads holds the heads ['pairs']; choose by --head" in sentence("export", "heads", "-o", tmp_path / "out")
    assert "relations holds no heads by name; leave out --head" in sentence(
        "export", "relations", "-o", tmp_path / "out", "--head", "pairs"
    )
    told = json.loads(printed("export", "heads", "-o", tmp_path / "out", "--head", "pairs", "--json"))
    assert (told["class"], told["adapters"]) == ("KAdapterForEntityPairClassification", ["fac"])
    answers = [printed("predict", name, MARKED, "--json") for name in ("relations", tmp_path / "out")]
    ours, theirs = (json.loads(answer)["answers"][0] for answer in answers)
    assert ours["label"] == theirs["label"] and abs(ours["score"] - theirs["score"]) < 1e-5


def test_a_head_that_this_package_does_not_know_is_not_left_out_in_silence(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    config = json.loads((shutil.copytree("relations", tmp_path / "own") / "config.json").read_text())
    (tmp_path / "own" / "config.json").write_text(json.dumps({**config, "architectures": ["MyHead"]}))
    said = sentence("export", tmp_path / "own", "-o", tmp_path / "out")
    assert "holds a MyHead, not known here, so it has no exported form" in said


def test_predict_answers_of_an_exported_directory_what_it_answers_of_the_artifact(folder, monkeypatch):
    monkeypatch.chdir(folder)
    if not Path("exported").is_dir():
        printed("export", "relations", "-o", "exported")
    expected, found = (
        json.loads(printed("predict", name, MARKED, "--top", "2", "--json")) for name in ("relations", "exported")
    )
    assert [each["label"] for each in found["answers"]] == [each["label"] for each in expected["answers"]]
    for ours, theirs in zip(found["answers"], expected["answers"], strict=True):
        assert abs(ours["score"] - theirs["score"]) < 1e-5
    mixed = ["predict", MARKED, MARKED, "--adapters", "fac", "--adapters", "__base__", "--json"]
    of_both = [printed(mixed[0], name, *mixed[1:]).splitlines() for name in ("relations", "exported")]
    for ours, theirs in (map(json.loads, pair) for pair in zip(*of_both, strict=True)):
        assert ours["adapter_names"] == theirs["adapter_names"]
        assert abs(ours["answers"][0]["score"] - theirs["answers"][0]["score"]) < 1e-5
    assert "--adapters names the adapter 'lin', and exported has" in sentence(
        "predict", "exported", MARKED, "--adapters", "lin"
    )
    for flag, value, words in (
        ("--device", "cuda:7", "can't run exported, which holds exported graphs for the CPU; leave it out"),
        ("--backbone", "/nowhere", "has no use, since exported holds its encoder as a graph; leave it out"),
    ):
        assert f"{flag} {value} {words}" in sentence("predict", "exported", MARKED, flag, value)
    assert "has 1 mentions in double square brackets" in sentence("predict", "exported", "[[Mira]] sang.")
    Path("long.txt").write_text(f"{MARKED}\n{MARKED} {'Mira sang. ' * 40}\n")
    refusal = sentence("predict", "exported", "--file", "long.txt")
    assert re.search(r"text 2 has \d+ tokens, more than the \d+ that", refusal), refusal
    done = run_python(FRESH, folder, folder / "exported", TEXT, package=True, bare=True)
    loaded, answers = json.loads(done.stdout)
    assert loaded == []
    assert answers[0][0]["label"] == found["answers"][0]["label"]


def test_what_the_command_can_not_do_is_said_before_torch_is_imported(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    out = tmp_path / "out"
    assert "give --calibration FILE" in sentence("export", "relations", "-o", out, "--precision", "int8")
    assert "there is no file 'nowhere.txt'" in sentence(
        "export", "relations", "-o", out, "--precision", "int8", "--calibration", "nowhere.txt"
    )
    Path("wrong.jsonl").write_text('{"text": "a"}\n')
    said = sentence(
        *("export", "relations", "-o", out, "--precision", "int8", "--calibration", "sentences.txt"),
        *("--labelled", "wrong.jsonl"),
    )
    assert "wrong.jsonl, line 1:" in said and 'write {"text": ..., "label": ...}' in said
    Path("nothing.jsonl").write_text("\n")
    said = sentence(
        *("export", "relations", "-o", out, "--precision", "int8", "--calibration", "sentences.txt"),
        *("--labelled", "nothing.jsonl"),
    )
    assert "nothing.jsonl has no labelled texts" in said
    assert "labelled texts measure int8; give --precision int8 and --calibration, too" in sentence(
        "export", "relations", "-o", out, "--labelled", "labelled.jsonl"
    )
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "runtime 'openvino' needs openvino, which is not installed" in sentence(
        "export", "relations", "-o", out, "--runtime", "openvino"
    )
    assert "means nothing for precision fp32" in sentence(
        "export", "relations", "-o", out, "--calibration", "sentences.txt"
    )
    assert "it is the directory that the backbone or the code is read from" in sentence(
        "export", "relations", "-o", "backbone", "--overwrite"
    )
    assert "no config.json of a K-Adapter artifact at 'nowhere'" in sentence("export", "nowhere", "-o", out)
    assert not out.exists()
