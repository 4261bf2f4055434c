"""Predicting files by run_task.py: where answers are written, in sweeps too, and after training has ended."""

import pytest
from tiny_tasks import predictions, task_flags, write_task_ground

from kadapter.trainers import run_task

pytestmark = pytest.mark.slow

SWEEP = ("--seeds", "0", "1", "--do_eval", "false")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_task_ground(tmp_path_factory.mktemp("ground"), "relation_classification")


@pytest.fixture(scope="module")
def sweep(ground, tmp_path_factory):
    output = tmp_path_factory.mktemp("sweep") / "out"
    run_task.main(task_flags(ground, output, *SWEEP))
    return output


def file_of(ground):
    return ground / "relation_classification" / "test.json"


def test_every_trial_of_a_sweep_writes_its_answers_and_says_where(ground, sweep, capsys):
    run_task.main(task_flags(ground, sweep, *SWEEP, "--do_train", "false", "--do_predict", file_of(ground)))
    printed = capsys.readouterr().out
    for seed in ("seed-0", "seed-1"):
        path = sweep / seed / "predicted.jsonl"
        assert len(predictions(path.parent, path.name)) == 11
        assert f"predictions: 11 records of {file_of(ground)} in {path}" in printed


def test_a_finished_sweep_that_is_resumed_predicts_and_trains_nothing(ground, sweep, capsys):
    weights = {seed: (sweep / seed / "model.safetensors").read_bytes() for seed in ("seed-0", "seed-1")}
    for seed in weights:
        (sweep / seed / "predicted.jsonl").unlink(missing_ok=True)
    run_task.main(
        task_flags(ground, sweep, *SWEEP, "--do_predict", file_of(ground), "--resume_from_checkpoint", "last")
    )
    assert "examples are trained on" not in capsys.readouterr().out
    for seed, before in weights.items():
        assert len(predictions(sweep / seed, "predicted.jsonl")) == 11
        assert (sweep / seed / "model.safetensors").read_bytes() == before


def test_the_folder_above_a_sweep_names_its_trials(ground, sweep):
    with pytest.raises(ValueError, match=r"no trained model in .*name the --seeds .*\['seed-0', 'seed-1'\]"):
        run_task.main(task_flags(ground, sweep, "--do_train", "0", "--do_eval", "0", "--do_predict", file_of(ground)))
