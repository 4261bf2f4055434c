"""A resumed run is the run it was: compared with what it resumes, at the step where it stood, wherever it lies."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import NO_DROPOUT, digest, flags, losses, same_tensors, tensors, write_ground
from tiny_tasks import task_flags, write_task_ground

from kadapter.trainers import run_adapter, run_multitask, run_task
from kadapter.trainers.common.checkpoints import MANIFEST, last_complete_checkpoint

pytestmark = pytest.mark.slow

LAST = ("--resume_from_checkpoint", "last")
SHORT = (
    "--report_to",
    "none",
    "--max_steps",
    "7",
    "--save_steps",
    "2",
    "--lr_scheduler_type",
    "constant",
    *NO_DROPOUT,
)


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return write_task_ground(tmp_path_factory.mktemp("tasks"), "relation_classification")


@pytest.fixture(scope="module")
def whole(ground, tmp_path_factory):
    """A run of 7 steps, of which an epoch has 5, with checkpoints at 2, 4, 6 and 7."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    run(ground, output)
    return output


def run(ground, output, *more, objective="factual"):
    return run_adapter.main(flags(ground, objective, output, *SHORT, *more))


def multitask(ground, output, *more):
    given = ["--objectives", "factual", "linguistic", "--corpora", "trex", "conllu", "--backbone", ground / "backbone"]
    given += ["--data_dirs", ground / "trex", ground / "conllu", "--output_dir", output, "--max_length", "40"]
    given += ["--do_train", "--report_to", "none", "--max_steps", "3", "--save_steps", "2", *more]
    return run_multitask.main(list(map(str, given)))


def killed_at(step, whole, folder):
    """The run as it stood after so many steps."""
    for path in whole.glob("checkpoint-*"):
        if int(path.name.removeprefix("checkpoint-")) <= step:
            shutil.copytree(path, folder / path.name)
    return folder


def steps_of(folder):
    return json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]


# ---- the end of a run -----------------------------------------------------------------------------------------------


def test_a_run_that_has_had_all_its_steps_trains_none_when_it_is_resumed(ground, whole, tmp_path):
    killed = killed_at(7, whole, tmp_path / "out")
    run(ground, killed, *LAST)
    assert steps_of(killed) == 7 and not (killed / "checkpoint-8").exists()
    assert same_tensors(killed, whole) and same_tensors(killed / "pretraining_head", whole / "pretraining_head")
    assert losses(killed) == losses(whole)


def test_a_finished_run_that_is_resumed_says_so_and_changes_no_byte(ground, whole, tmp_path, capsys):
    output = shutil.copytree(whole, tmp_path / "moved")
    before, times = digest(output), {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    for _ in range(2):
        results = run(ground, output, *LAST)
        assert "moved' has finished; it is left unchanged" in capsys.readouterr().out
    assert digest(output) == before and times == {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert results == json.loads((output / "all_results.json").read_text(encoding="utf-8"))


def test_a_finished_run_goes_on_where_more_steps_are_asked_for(ground, whole, tmp_path):
    output = shutil.copytree(whole, tmp_path / "out")
    run(ground, output, "--max_steps", "9", *LAST)
    assert steps_of(output) == 9 and not same_tensors(output, whole)
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    with pytest.raises(
        ValueError, match="has finished after 9 steps and left no checkpoint, so it can't go on to 11 st"
    ):
        run(ground, output, "--max_steps", "11", *LAST)


def test_other_programs_too_end_where_they_ended(ground, tasks, tmp_path, capsys):
    multitask(ground, tmp_path / "encoder")
    given = ["--max_steps", "3", "--save_strategy", "steps", "--save_steps", "2"]
    run_task.main(task_flags(tasks, tmp_path / "task", *given))
    before = digest(tmp_path)
    multitask(ground, tmp_path / "encoder", *LAST)
    run_task.main(task_flags(tasks, tmp_path / "task", *given, *LAST))
    assert capsys.readouterr().out.count("has finished; it is left unchanged") == 2
    assert digest(tmp_path) == before
    weights = {name: tensors(tmp_path / name) for name in ("encoder", "task")}
    for path in [*tmp_path.glob("*/finished.json"), *tmp_path.glob("*/run.json")]:
        path.unlink()
    multitask(ground, tmp_path / "encoder", *LAST)
    run_task.main(task_flags(tasks, tmp_path / "task", *given, *LAST))
    for name, known in weights.items():
        assert steps_of(tmp_path / name) == 3
        assert all(torch.equal(one, known[key]) for key, one in tensors(tmp_path / name).items())


# ---- which run it is ------------------------------------------------------------------------------------------------


def renamed_relations(ground, folder):
    shutil.copytree(ground / "trex", folder)
    for path in folder.glob("*.json"):
        path.write_text(path.read_text(encoding="utf-8").replace("P19", "P999"), encoding="utf-8")
    return ["--data_dir", folder]


def other_order(ground, folder):
    shutil.copytree(ground / "trex", folder)
    records = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    (folder / "train.json").write_text(json.dumps(records[::-1]), encoding="utf-8")
    return ["--data_dir", folder]


def other_encoder(ground, folder):
    shutil.copytree(ground / "backbone", folder)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][7, 0] += 0.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return ["--backbone", folder]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (renamed_relations, "id2label 0 was 'P19' and is 'P20'"),
        (other_order, "training examples fingerprint was '.*' and is '.*'"),
        (other_encoder, "backbone was '.*' and is '.*'"),
        (lambda *_: ["--seed", "5"], "--seed was 0 and is 5|--seed was 42 and is 5"),
        (lambda *_: ["--learning_rate", "0.5"], "--learning_rate was 0.01 and is 0.5"),
        (lambda *_: ["--adapter_hidden_size", "24"], "adapters fac hidden_size was 12 and is 24"),
        (lambda *_: ["--max_train_samples", "20"], "training examples number was 40 and is 20"),
        (lambda *_: ["--per_device_train_batch_size", "4"], "examples in a step was 8 and is 4"),
        (lambda *_: ["--label_smoothing_factor", "0.1"], "--label_smoothing_factor was 0.0 and is 0.1"),
        (lambda *_: ["--fusion", "gated"], "--fusion was 'concat' and is 'gated'"),
    ],
)
def test_a_run_is_resumed_by_no_other_run_and_the_difference_is_named(ground, whole, tmp_path, change, sentence):
    killed = killed_at(4, whole, tmp_path / "out")
    before = digest(killed)
    with pytest.raises(ValueError, match=rf"checkpoint-4' was made with other flags or other data: .*({sentence})"):
        run(ground, killed, *change(ground, tmp_path / "other"), *LAST)
    assert digest(killed) == before


def test_a_finished_run_is_not_taken_for_another(ground, whole, tasks, tmp_path):
    with pytest.raises(ValueError, match=r"the run in '.*' was made with other flags .*: --seed was"):
        run(ground, whole, "--seed", "5", *LAST)
    run_task.main(task_flags(tasks, tmp_path / "task"))
    with pytest.raises(
        ValueError, match=r"the run in '.*task' was made with other flags .*--adapters lin was .* and is missing"
    ):
        run_task.main(task_flags(tasks, tmp_path / "task", *LAST, adapters=("fac",)))
    with pytest.raises(ValueError, match="objective was 'factual' and is 'linguistic'"):
        run(ground, whole, *LAST, objective="linguistic")


def test_a_checkpoint_of_an_earlier_version_goes_on_and_is_said_not_to_be_compared(ground, whole, tmp_path, capsys):
    killed = killed_at(4, whole, tmp_path / "out")
    for path in killed.glob(f"*/{MANIFEST}"):
        path.unlink()
    run(ground, killed, *LAST)
    assert "does not say which run it belongs to" in capsys.readouterr().out
    assert same_tensors(killed, whole)


# ---- where it lies --------------------------------------------------------------------------------------------------


def test_the_best_checkpoint_is_found_from_any_directory_and_after_a_move(tasks, tmp_path, monkeypatch):
    given = ["--save_strategy", "epoch", "--eval_strategy", "epoch", "--load_best_model_at_end", "--save_total_limit"]
    given += ["1", "--metric_for_best_model", "loss", "--learning_rate", "0.3"]

    def train(place, epochs, *more):
        run_task.main(task_flags(tasks, place, *given, "--num_train_epochs", epochs, *more))

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    train("out", 3)
    state = json.loads((tmp_path / "a" / "out" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_model_checkpoint"] is None and state["best_global_step"] < state["global_step"]
    best = f"checkpoint-{state['best_global_step']}"
    assert (tmp_path / "a" / "out" / best).is_dir()
    monkeypatch.chdir(tmp_path / "b")
    os.rename(tmp_path / "a" / "out", tmp_path / "b" / "renamed")
    train("renamed", 3.25, *LAST)
    assert (tmp_path / "b" / "renamed" / best).is_dir()


def test_a_clock_that_goes_back_costs_no_new_checkpoint(ground, whole, tmp_path):
    killed = killed_at(4, whole, tmp_path / "out")
    for path in killed.glob("checkpoint-*"):
        os.utime(path, (4e9, 4e9))  # in the far future, as the clock stood when they were written
    run(ground, killed, *LAST, "--save_total_limit", "2")
    assert sorted(path.name for path in killed.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-7"]


# ---- what is damaged ------------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 64
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("harm", [cut, flip, os.remove])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_a_damaged_last_checkpoint_is_named_and_the_one_before_it_is_taken(
    ground, whole, tmp_path, capsys, monkeypatch, file, harm, manifest
):
    if not manifest and harm is flip and file == "model.safetensors":
        pytest.skip("without checksums a changed number is a number")
    killed = killed_at(6, whole, tmp_path / "out")
    harm(killed / "checkpoint-6" / file)
    if not manifest:
        (killed / "checkpoint-6" / MANIFEST).unlink()
    taken = run_adapter.checkpoint_to_resume("last", str(killed))
    assert taken == str(killed / "checkpoint-4")
    assert f"{killed / 'checkpoint-6'} is damaged and not used" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"checkpoint-6' is (damaged|no complete checkpoint)"):
        run_adapter.checkpoint_to_resume(str(killed / "checkpoint-6"), str(killed))
    if (file, harm, manifest) == ("optimizer.pt", cut, True):  # one of them to the end
        run(ground, killed, *LAST)
        assert same_tensors(killed, whole) and last_complete_checkpoint(killed) == str(killed / "checkpoint-7")


def test_where_every_checkpoint_is_damaged_the_run_starts_anew(ground, whole, tmp_path, capsys):
    killed = killed_at(2, whole, tmp_path / "out")
    cut(killed / "checkpoint-2" / "optimizer.pt")
    run(ground, killed, *LAST)
    assert "the run starts again" in capsys.readouterr().out
    assert same_tensors(killed, whole)
