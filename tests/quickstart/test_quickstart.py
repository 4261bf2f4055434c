"""The quickstart as `make quickstart` runs it: the real corpora and recipes, a small random encoder, few steps."""

import json
import runpy
import sys
from contextlib import redirect_stdout
from io import StringIO
from statistics import mean

import pytest
from helpers import run_python
from tiny_runs import ROOT, tokenizer_of, write_backbone

from kadapter import KAdapterModel
from kadapter.quickstart import __main__ as quickstart

pytestmark = pytest.mark.slow

ENVIRONMENT = {"COLUMNS": "100"}
TASKS = {"relation micro-F1", "head UAS"}
AS_A_MODULE = "import runpy\nrunpy.run_module('kadapter.quickstart', run_name='__main__')"  # python -m


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """Two runs into one directory, the second with a single step: folder, outputs, first scores and picture."""
    folder = tmp_path_factory.mktemp("quickstart")
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "quickstart" / "facts").glob("*.txt"))]
    backbone = write_backbone(folder / "backbone", tokenizer_of(texts, vocab_size=2000), longest=128)
    given = ["--backbone", backbone, "--output-dir", folder / "run", "--max-steps", "3", "--seeds", "2"]
    first = run_python(AS_A_MODULE, folder, *given, package=True, **ENVIRONMENT).stdout
    scores = json.loads((folder / "run" / "scores.json").read_text(encoding="utf-8"))
    picture = (folder / "run" / "scores.png").read_bytes()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as second:  # in this process, for time
        patch.setenv("COLUMNS", ENVIRONMENT["COLUMNS"])
        quickstart.main(str(backbone), folder / "run", max_steps=1, seeds=1)
    return folder / "run", (first, second.getvalue()), scores, picture


def test_it_trains_two_adapters_and_scores_all_four_models_on_both_tasks(twice):
    _, (output, _), scores, _ = twice
    assert list(scores) == ["backbone", "+ fac", "+ lin", "+ fac+lin"]
    for row, values in scores.items():
        assert values.keys() == TASKS
        assert all(0 <= value <= 1 for seeds in values.values() for value in seeds)
        assert all(f"{mean(seeds):.3f}" in output for seeds in values.values()), row


def test_it_writes_a_picture_and_adapters_that_compose(twice):
    folder, *_ = twice
    assert (folder / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert KAdapterModel.from_pretrained(f"{folder}/kadapter-fac+lin").active_adapters() == ["fac", "lin"]


def test_it_can_be_run_again_in_the_same_directory(twice):
    folder, (_, again), _, first_picture = twice
    results = json.loads((folder / "kadapter-fac" / "trainer_state.json").read_text(encoding="utf-8"))
    assert results["global_step"] == 1
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert {len(seeds) for values in scores.values() for seeds in values.values()} == {1}  # and not the two of before
    assert all(f"{score:.3f}" in again for values in scores.values() for (score,) in values.values())
    assert (folder / "scores.png").read_bytes() != first_picture


def test_an_encoder_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    given = ["--backbone", str(tmp_path / "none"), "--output-dir", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["quickstart", *given])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(quickstart.__file__, run_name="__main__")  # as python -m does, in this process, for time
    assert ended.value.code.startswith("quickstart: ") and str(tmp_path / "none") in ended.value.code.splitlines()[-1]
