"""Several processes train as one: the same loss curve and result, and nothing more is saved."""

from types import SimpleNamespace

import pytest
from elsewhere import fail_together, leave_together
from processes import SECONDS, start_processes
from tiny_runs import (
    NO_DROPOUT,
    ROOT,
    backbone_tensors_in,
    digest,
    flags,
    losses,
    results,
    results_alike,
    run_command,
    tensors,
    tool,
    write_ground,
)

from kadapter.trainers import run_adapter
from kadapter.trainers.common.trainer import KAdapterTrainer

pytestmark = pytest.mark.slow

LAUNCHERS = {
    "torchrun": (["--nproc_per_node", "2"], {}),
    # With --cpu, accelerate silently runs one process.
    "accelerate": (["launch", "--multi_gpu", "--num_processes", "2"], {"ACCELERATE_USE_CPU": "1"}),
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.mark.parametrize(
    ("launcher", "objective", "order"),
    [
        ("torchrun", "linguistic", "group_by_length"),
        pytest.param("accelerate", "factual", "random", marks=pytest.mark.thorough),
    ],
)
def test_two_processes_equal_one(ground, tmp_path, launcher, objective, order):
    before = digest(ground / "backbone")
    given = [*NO_DROPOUT, "--train_sampling_strategy", order, "--learning_rate", "1e-3"]
    run_adapter.main(flags(ground, objective, tmp_path / "one", *given))
    halves = ["--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "3"]
    options, environment = LAUNCHERS[launcher]
    command = [tool(launcher), *options, ROOT / "trainers" / "run_adapter.py"]
    printed = run_command([*command, *flags(ground, objective, tmp_path / "two", *given, *halves)], **environment)
    assert printed.count("processes: 2, device: cpu, examples in one step: 8") == 1
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys() == set(range(1, 11))
    assert max(abs(one[step] - two[step]) for step in one) < 1e-4
    assert results_alike(tmp_path / "one", tmp_path / "two")  # 13 examples, no multiple of 2 x 3: each counts once
    ours, theirs = (tensors(tmp_path / run / "pretraining_head") for run in ("one", "two"))
    assert ours.keys() == theirs.keys()
    assert (tmp_path / "two" / "checkpoint-10" / "rng_state_1.pth").is_file()
    assert not backbone_tensors_in(tmp_path / "two", ground)
    assert digest(ground / "backbone") == before


def test_accumulated_steps_equal_whole_ones(ground, tmp_path):
    given = [*NO_DROPOUT, "--learning_rate", "1e-3", "--report_to", "none"]
    run_adapter.main(flags(ground, "linguistic", tmp_path / "whole", *given))
    halves = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    run_adapter.main(flags(ground, "linguistic", tmp_path / "halves", *given, *halves))
    whole, two = losses(tmp_path / "whole"), losses(tmp_path / "halves")
    assert whole.keys() == two.keys() and max(abs(whole[step] - two[step]) for step in whole) < 1e-4


def test_the_evaluation_does_not_depend_on_the_size_of_its_batches(ground, tmp_path):
    given = flags(ground, "linguistic", tmp_path / "out", "--report_to", "none", "--max_steps", "2")
    run_adapter.main(given)
    first = results(tmp_path / "out")
    for size in ("1", "13"):
        alone = [one for one in given if one != "--do_train"]
        again = run_adapter.main([*alone, "--per_device_eval_batch_size", size])
        assert again["eval_uas"] == first["eval_uas"]
        assert again["eval_loss"] == pytest.approx(first["eval_loss"], abs=1e-5)


def test_fewer_examples_than_one_step_of_several_processes_are_refused():
    args = SimpleNamespace(train_batch_size=4, gradient_accumulation_steps=2, world_size=2)
    with pytest.raises(ValueError, match="15 training examples are fewer than the 16 of one step of 2 processes"):
        KAdapterTrainer._get_train_sampler(SimpleNamespace(args=args), [None] * 15)


@pytest.mark.parametrize(
    ("function", "ends_well", "told"),
    [(leave_together, True, "left\nleft\n"), (fail_together, False, "meet_and_fail: no data")],
)
def test_processes_leave_their_group_before_they_end(tmp_path, function, ends_well, told):
    """One that ends within its group aborts now and then, after all is done."""
    printed = tmp_path / "printed"
    printed.write_text("", encoding="utf-8")
    processes = start_processes(function, [], printed, number=2)
    for one in processes:
        one.join(SECONDS)
    assert [one.exitcode == 0 for one in processes] == [ends_well] * 2
    assert told in printed.read_text(encoding="utf-8") and "in it" not in printed.read_text(encoding="utf-8")
