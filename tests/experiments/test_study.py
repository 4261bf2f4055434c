"""experiments/study.py: one grid for all rows, chosen on validation and read once on test, in folds too."""

import importlib.util
import json
import sys

import pytest
from tiny_runs import ROOT
from tiny_tasks import run_of, write_corpus, write_task_ground
from typer import Typer
from typer.testing import CliRunner

from kadapter.reports.comparison import Resampling
from kadapter.reports.report import report
from kadapter.trainers import run_task

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


@pytest.fixture
def study(monkeypatch):
    spec = importlib.util.spec_from_file_location("study", ROOT / "experiments" / "study.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "study", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = write_task_ground(tmp_path_factory.mktemp("ground"), "semeval2010_task8")
    write_corpus(folder / "cosmosqa", "cosmosqa", {"train": 30})
    return folder


def command(study, ground, output, task, *more):
    """Run the command on small batches of short texts; returns what it printed."""
    app = Typer(pretty_exceptions_enable=False)
    app.command()(study.main)
    given = ["--task", task, "--data-dir", ground / task, "--backbone", ground / "backbone", "--fac", ground / "fac"]
    given += ["--lin", ground / "lin", "-o", output, "--share", "1.0", *more, "--", "--max_length", "40"]
    given += ["--max_steps", "2", "--states_dir", ground / "states"]
    return CliRunner().invoke(app, [*map(str, given)], catch_exceptions=False).output


def test_the_rate_that_is_best_on_validation_is_read_on_test_with_all_seeds(study, ground, tmp_path, monkeypatch):
    rows = ["--only", "backbone.gated", "--only", "fac+lin.gated", "--seeds", "2"]
    command(study, ground, tmp_path, "semeval2010_task8", *rows)
    chosen = json.loads((tmp_path / "chosen.json").read_text())
    assert list(chosen) == ["1/backbone.gated", "1/fac+lin.gated"]
    for place, choice in chosen.items():
        tried = {path.parts[-3]: run_of(path.parent) for path in (tmp_path / "grid" / place).rglob("run.json")}
        assert len(tried) == 3 and {one["split"] for one in tried.values()} == {"validation"}
        means = {
            one: json.loads((tmp_path / "grid" / place / one / "seed-0/all_results.json").read_text()) for one in tried
        }
        assert choice["validation"] == max(one["eval_macro_f1"] for one in means.values())
        final = [run_of(path.parent) for path in (tmp_path / "test" / place).rglob("run.json")]
        assert sorted((one["seed"], one["split"]) for one in final) == [(0, "test"), (1, "test")]
        assert {f"{one['learning_rate']:g}" for one in final} == {f"{float(choice['learning_rate']):g}"}
    monkeypatch.setattr(run_task, "_trial", None)  # what is done is not done again
    command(study, ground, tmp_path, "semeval2010_task8", *rows)


def test_the_rounds_of_a_cross_validation_are_reported_as_one_run(study, ground, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FROZEN_RATES", ("1e-2",))  # one alone needs no choice
    rows = ["--only", "fac.gated", "--seeds", "1", "--folds"]
    command(study, ground, tmp_path / "out", "cosmosqa", *rows)
    table = report(
        [tmp_path / "out" / "test"], tmp_path / "report", None, Resampling(resamples=50), log=lambda _: None
    )
    ((column, cells),) = table.items()
    assert column.task == "cosmosqa" and [row.name for row in cells] == ["fac"]
    assert [len(cell.runs[0].examples) for cell in cells.values()] == [30]  # every question, once


def test_the_encoder_trains_where_it_is_asked_for(study, ground, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "TRAINED_RATES", ("1e-3",))
    rows = ["--only", "random.gated", "--seeds", "1", "--train-backbone"]
    command(study, ground, tmp_path, "semeval2010_task8", *rows)
    (run,) = (run_of(path.parent) for path in (tmp_path / "test").rglob("run.json"))
    assert run["freeze_backbone"] is False and run["freeze_adapters"] is True and run["row"] == "random"


def test_a_share_without_a_number_of_epochs_is_refused(study, ground, tmp_path):
    assert "--share 0.3 has no number of epochs" in command(study, ground, tmp_path, "cosmosqa", "--share", "0.3")
