"""Optimizers with smaller states, and gradients that are freed as they are used: the same bits, resumed ones too."""

import importlib.util
import json

import pytest
import torch
from tiny_runs import flags, losses, same_tensors, tensors, write_ground

from kadapter.trainers import run_adapter

pytestmark = pytest.mark.slow

QUIET = ("--report_to", "none", "--max_steps", "6", "--do_eval", "False", "--logging_steps", "1")
FREED = ("--max_grad_norm", "0", "--free_gradients")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


def train(ground, output, *more):
    run_adapter.main(flags(ground, "linguistic", output, *QUIET, *more))
    return output


def refusal(ground, output, *more):
    with pytest.raises(ValueError) as refused:
        train(ground, output, *more)
    assert not output.exists()
    return str(refused.value)


@pytest.mark.parametrize("optimizer", ["adamw_torch_fused", "adafactor"])
def test_weights_that_are_updated_as_gradients_come_are_those_of_a_step_after_all(ground, tmp_path, optimizer):
    more = ("--optim", optimizer, "--save_strategy", "no")
    after = train(ground, tmp_path / "after", *more, "--max_grad_norm", "0")
    freed = train(ground, tmp_path / "freed", *more, *FREED)
    assert same_tensors(after, freed) and losses(after) == losses(freed)
    logged = json.loads((freed / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert not any("grad_norm" in entry for entry in logged)  # 0 would be wrong, and no more is known


def test_no_gradient_is_left_when_a_backward_pass_ends(ground, tmp_path, monkeypatch):
    held, step = [], run_adapter.FeatureTrainer.training_step

    def looked_at(self, model, *arguments, **keywords):
        loss = step(self, model, *arguments, **keywords)
        held.append(sum(weight.grad is not None for weight in model.parameters()))
        return loss

    monkeypatch.setattr(run_adapter.FeatureTrainer, "training_step", looked_at)
    train(ground, tmp_path / "freed", *FREED, "--save_strategy", "no")
    assert held == [0] * 6
    train(ground, tmp_path / "held", "--save_strategy", "no")
    assert min(held[6:]) > 20


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("--optim", "adafactor"), marks=pytest.mark.thorough),
        pytest.param(FREED, marks=pytest.mark.thorough),
        ("--optim", "adafactor", *FREED),
    ],
    ids=" ".join,
)
def test_a_run_with_less_memory_goes_on_bit_for_bit(ground, tmp_path, more):
    saved = ("--save_steps", "3", *more)
    whole = train(ground, tmp_path / "whole", *saved)
    part = train(ground, tmp_path / "part", *saved)
    (part / "model.safetensors").unlink()
    for path in (part / "pretraining_head").iterdir():
        path.unlink()
    (part / "checkpoint-6" / "optimizer.pt").unlink()  # so that it goes on from step 3
    resumed = train(ground, part, *saved, "--resume_from_checkpoint", "last")
    assert same_tensors(whole, resumed) and losses(whole) == losses(resumed)


def test_adafactor_keeps_a_row_and_a_column_where_adam_keeps_two_matrices(ground, tmp_path):
    sizes = {}
    for optimizer in ("adamw_torch_fused", "adafactor"):
        run = train(ground, tmp_path / optimizer, "--optim", optimizer, "--save_steps", "6")
        state = torch.load(run / "checkpoint-6" / "optimizer.pt", weights_only=True)["state"].values()
        sizes[optimizer] = sum(value.numel() for each in state for value in each.values() if torch.is_tensor(value))
    weights = sum(tensor.numel() for tensor in tensors(tmp_path / "adafactor" / "pretraining_head").values())
    assert sizes["adamw_torch_fused"] > 1.9 * weights and sizes["adafactor"] < 0.5 * weights


def test_what_needs_all_gradients_together_is_refused_in_a_sentence(ground, tmp_path):
    out = tmp_path / "out"
    assert "and --max_grad_norm 1.0 clips by the norm of all; give --max_grad_norm 0" in refusal(
        ground, out, "--free_gradients"
    )
    assert "--gradient_accumulation_steps 2 sums them over batches; leave it out" in refusal(
        ground, out, *FREED, "--gradient_accumulation_steps", "2"
    )


def test_arguments_of_an_optimizer_that_are_no_pairs_are_shown_with_their_flag(ground, tmp_path):
    said = refusal(ground, tmp_path / "out", "--optim", "adafactor", "--optim_args", "warm")
    assert said.startswith("--optim_args 'warm' does not go with --optim adafactor (")
    assert said.endswith("write NAME=VALUE,NAME=VALUE with names that this optimizer has")


@pytest.mark.parametrize(("argument", "words"), [("blocksize", "Trainer does not pass"), ("block_size", "of 256")])
def test_arguments_that_torchaos_optimizers_do_not_take_are_refused(ground, tmp_path, argument, words):
    pytest.importorskip("torchao", reason="an extra: pip install 'kadapter[quantization]'")
    said = refusal(ground, tmp_path / "out", "--optim", "adamw_torch_8bit", "--optim_args", f"{argument}=128")
    assert said.startswith(f"--optim_args '{argument}=128' names '{argument}', which ") and words in said


def test_an_optimizer_whose_library_is_missing_is_a_sentence_before_anything_is_read(ground, tmp_path):
    for optimizer, library in (
        ("adamw_torch_8bit", "torchao"),
        ("lomo", "lomo_optim"),
        ("adamw_bnb_8bit", "bitsandbytes"),
    ):
        if importlib.util.find_spec(library) is None:
            said = refusal(ground, tmp_path / "out", "--optim", optimizer)
            assert said.startswith(f"--optim {optimizer} needs a library that is not installed (")
            assert said.endswith("take adamw_torch_fused, the default, or adafactor, which need none")


@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns of its own ways
def test_states_in_eight_bits_train_and_go_on_where_torchao_is_installed(ground, tmp_path):
    pytest.importorskip("torchao", reason="an extra: pip install 'kadapter[quantization]'")
    large = ("--adapter_hidden_size", "64", "--adapter_intermediate_size", "64")  # smaller matrices stay in float32
    more = ("--optim", "adamw_torch_8bit", "--save_steps", "3", *large)
    run = train(ground, tmp_path / "run", *more)
    import torchao.optim  # noqa: F401 (by which a checkpoint with its states may be read)

    states = torch.load(run / "checkpoint-6" / "optimizer.pt", weights_only=True)["state"].values()
    assert {type(value).__name__ for each in states for value in each.values()} == {"Tensor", "OptimState8bit"}
    before = tensors(run)
    (run / "checkpoint-6" / "optimizer.pt").unlink()
    (run / "model.safetensors").unlink()
    resumed = train(ground, run, *more, "--resume_from_checkpoint", "last")
    assert all(torch.equal(before[name], value) for name, value in tensors(resumed).items())
