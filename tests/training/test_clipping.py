"""A CPU's fused optimizer clips gradients to what transformers would, in one pass over them less."""

import json
from pathlib import Path

import pytest
from tiny_runs import flags, losses, tensors, write_ground

from kadapter.trainers import run_adapter

pytestmark = pytest.mark.slow

QUIET = ("--report_to", "none", "--save_strategy", "no", "--max_steps", "6", "--do_eval", "False")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def runs(ground, tmp_path_factory):
    """Finished runs by optimizer and the norm that gradients may have."""
    folder = tmp_path_factory.mktemp("runs")
    asked = [("adamw_torch_fused", "0.05"), ("adamw_torch", "0.05"), ("adamw_torch_fused", "1e9")]
    for optimizer, norm in asked:
        more = ("--optim", optimizer, "--max_grad_norm", norm, "--adam_epsilon", "1e-3", *QUIET)
        run_adapter.main(flags(ground, "linguistic", folder / optimizer / norm, *more))
    return folder


def norms(folder):
    """The logged norms of gradients, step by step."""
    state = json.loads((Path(folder) / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry["grad_norm"] for entry in state["log_history"] if "grad_norm" in entry]


def apart(one, other):
    """The largest difference of two runs' weights."""
    one, other = tensors(one), tensors(other)
    return max((one[key] - other[key]).abs().max().item() for key in one)


def test_the_fused_optimizer_clips_to_the_weights_that_clipping_before_it_gives(runs):
    ours, theirs, not_clipped = (
        runs / part for part in ("adamw_torch_fused/0.05", "adamw_torch/0.05", "adamw_torch_fused/1e9")
    )
    assert apart(ours, theirs) < 1e-4 * apart(ours, not_clipped)
    assert list(losses(ours).values()) == pytest.approx(list(losses(theirs).values()), rel=1e-4)


def test_the_norm_that_is_logged_is_that_before_clipping(runs):
    ours, theirs = norms(runs / "adamw_torch_fused/0.05"), norms(runs / "adamw_torch/0.05")
    assert len(ours) == 6 and min(ours) > 0.05 and ours == pytest.approx(theirs, rel=1e-3)
