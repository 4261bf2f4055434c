"""A run that is killed at any moment goes on as if it had not been: every saved bit is the same."""

import os
import random
import shutil
import signal

import pytest
import torch
from processes import kill_processes, run_processes, start_processes
from tiny_runs import digest, flags, losses, results_alike, same_tensors, write_ground

from kadapter.trainers import run_adapter
from kadapter.trainers.common.checkpoints import last_complete_checkpoint

pytestmark = pytest.mark.slow

STEPS = 24
LONG = ("--report_to", "none", "--max_steps", STEPS, "--save_steps", "3", "--save_total_limit", "2")
RESUME = ("--resume_from_checkpoint", "last")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


def kill_at(step, number, pipe, given):
    """Train in so many processes and kill -9 them all when they have logged so many steps."""
    os.mkfifo(pipe)
    processes = start_processes(run_adapter.main, given, pipe, number)
    with open(pipe, encoding="utf-8") as printed:
        logged = 0
        for line in printed:
            logged += line.startswith("{'loss'")
            if logged == step:
                break
        kill_processes(processes)
    assert logged == step, "the run ended before it was killed"
    assert [one.exitcode for one in processes] == [-signal.SIGKILL] * number


def leave_wreckage(output):
    """What a kill in the midst of writing leaves, wherever it strikes."""
    last = last_complete_checkpoint(output)
    if last is not None:
        shutil.copytree(last, output / "checkpoint-999", ignore=shutil.ignore_patterns("trainer_state.json"))
    (output / ".partial" / "checkpoint-4").mkdir(parents=True, exist_ok=True)


def optimizer_alike(one, other):
    states = [torch.load(run / f"checkpoint-{STEPS}" / "optimizer.pt")["state"] for run in (one, other)]
    assert states[0].keys() == states[1].keys() and len(states[0]) > 20
    return all(torch.equal(states[0][key][name], states[1][key][name]) for key in states[0] for name in states[0][key])


def assert_same_run(whole, resumed):
    assert same_tensors(whole, resumed)
    assert same_tensors(whole / "pretraining_head", resumed / "pretraining_head")
    assert optimizer_alike(whole, resumed)
    assert losses(whole) == losses(resumed)
    assert results_alike(whole, resumed)
    assert not list(resumed.rglob("*partial*")) and not (resumed / "checkpoint-999").exists()


def test_one_process_killed_at_a_random_step_goes_on_bit_for_bit(ground, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    step = random.SystemRandom().randint(1, 14)
    kill_at(step, 1, tmp_path / "pipe", flags(ground, "linguistic", killed, *LONG))
    assert not (killed / "model.safetensors").exists()
    leave_wreckage(killed)
    run_adapter.main(flags(ground, "linguistic", killed, *LONG, *RESUME))
    run_adapter.main(flags(ground, "linguistic", whole, *LONG))
    assert_same_run(whole, killed)
    before = digest(killed)
    run_adapter.main(flags(ground, "linguistic", killed, *LONG, *RESUME))
    assert digest(killed) == before  # it had finished


@pytest.mark.thorough
def test_two_processes_killed_at_a_random_step_go_on_bit_for_bit(ground, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    step = random.SystemRandom().randint(1, 14)
    small = [*LONG, "--per_device_train_batch_size", "4"]
    kill_at(step, 2, tmp_path / "pipe", flags(ground, "factual", killed, *small))
    assert not (killed / "model.safetensors").exists()
    leave_wreckage(killed)
    given = flags(ground, "factual", killed, *small, *RESUME)
    printed = run_processes(run_adapter.main, given, tmp_path / "printed", number=2)
    assert "processes: 2, device: cpu, examples in one step: 8" in printed
    run_processes(run_adapter.main, flags(ground, "factual", whole, *small), tmp_path / "printed", number=2)
    assert_same_run(whole, killed)


def test_the_tail_of_a_run_that_was_cut_short_is_written_again(ground, tmp_path):
    output = tmp_path / "out"
    more = ["--report_to", "none", "--max_steps", "4"]
    run_adapter.main(flags(ground, "linguistic", output, *more))
    (output / "all_results.json").unlink()
    shutil.rmtree(output / "pretraining_head")
    run_adapter.main(flags(ground, "linguistic", output, *more, *RESUME))
    assert (output / "all_results.json").is_file() and (output / "pretraining_head" / "model.safetensors").is_file()
