"""What training holds beside the weights: the states of its optimizer, and gradients until they are used."""

from __future__ import annotations

from typing import Any

from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from transformers import Trainer

__all__ = ["check_free_gradients", "check_optimizer", "step_as_gradients_come", "unwrapped"]

COMPILED = ("adamw_torch_4bit", "adamw_torch_8bit")  # torchao's, whose steps PyTorch compiles
WITHOUT_ARGUMENTS = ("adamw_torch", "adamw_torch_fused", "adafactor")  # Trainer passes them no --optim_args
TAKEN = ("block_size", "bf16_stochastic_round")  # of torchao's arguments
PLAIN = ("sgd", "adagrad", "rmsprop")  # and these only those of some names
BY_TENSOR = (*WITHOUT_ARGUMENTS, *PLAIN, *COMPILED)


def check_optimizer(run: Any) -> None:
    """Look for the library of an optimizer, and for a compiler if it needs one, before anything costs time.

    Raises:
        ValueError: a library is not installed, PyTorch can't compile here, or --optim_args can't be read or has a
            name that has no effect.
    """
    from .backbone_options import check_compiler  # which imports the flags, which import this

    try:
        _, arguments = Trainer.get_optimizer_cls_and_kwargs(run)
    except ImportError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"--optim {run.optim.value} needs a library that is not installed ({reason}); install it, or take "
            "adamw_torch_fused, the default, or adafactor, which need none"
        ) from error
    except ValueError as error:
        if not run.optim_args:
            raise
        raise ValueError(
            f"--optim_args {run.optim_args!r} does not go with --optim {run.optim.value} ({error}); write "
            "NAME=VALUE,NAME=VALUE with names that this optimizer has"
        ) from error
    for name in _ignored(run, arguments):
        raise ValueError(
            f"--optim_args {run.optim_args!r} names {name!r}, which Trainer does not pass to --optim "
            f"{run.optim.value}; leave it out (AdamW has --adam_beta1, --adam_beta2 and --adam_epsilon)"
        )
    if isinstance(arguments.get("block_size"), str):  # Trainer leaves it a text, which torchao computes with
        raise ValueError(
            f"--optim_args {run.optim_args!r} names 'block_size', which can't be chosen for --optim "
            f"{run.optim.value}; leave it out for blocks of 256"
        )
    if run.optim in COMPILED:
        check_compiler(run, f"--optim {run.optim.value}")


def _ignored(run: Any, arguments: dict[str, Any]) -> list[str]:
    """Return the names in --optim_args of which nothing is among the arguments of the optimizer."""
    names = [pair.partition("=")[0].strip() for pair in run.optim_args.split(",")] if run.optim_args else []
    if run.optim in WITHOUT_ARGUMENTS:
        return names
    taken = {**dict.fromkeys(PLAIN, arguments), **dict.fromkeys(COMPILED, TAKEN)}
    return [name for name in names if name not in taken.get(run.optim, names)]


def check_free_gradients(run: Any) -> None:
    """Refuse flags with which a gradient is needed after the weight that it belongs to was updated.

    Raises:
        ValueError: gradients are clipped, accumulated, scaled or exchanged between processes, or the optimizer may
            look at several.
    """
    clipped, accumulated = run.max_grad_norm, run.gradient_accumulation_steps
    needs = (
        (clipped > 0, f"--max_grad_norm {clipped} clips by the norm of all; give --max_grad_norm 0"),
        (accumulated > 1, f"--gradient_accumulation_steps {accumulated} sums them over batches; leave it out"),
        (run.fp16, "--fp16 scales them, and looks at all before a step; give --bf16 or neither"),
        (run.world_size > 1, f"{run.world_size} processes exchange them after the backward pass; use one process"),
        (run.optim not in BY_TENSOR, f"--optim {run.optim.value} may need all; take one of {', '.join(BY_TENSOR)}"),
    )
    for needed, why in needs:
        if needed:
            raise ValueError(f"--free_gradients uses each gradient as soon as it is there, and {why}")


def step_as_gradients_come(optimizer: Optimizer) -> list[RemovableHandle]:
    """Let an optimizer update each weight when its gradient is complete, and free the gradient; return the hooks.

    All other weights have no gradient at that moment, so a step updates this one alone: to the same bits as a step
    after the backward pass, by an optimizer that updates tensor by tensor.
    """

    def update(weight: Tensor) -> None:
        optimizer.step()
        weight.grad = None

    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return [weight.register_post_accumulate_grad_hook(update) for weight in weights]


def unwrapped(optimizer: Any) -> Any:
    """Return an optimizer without accelerate's wrappers."""
    return unwrapped(optimizer.optimizer) if isinstance(optimizer, AcceleratedOptimizer) else optimizer
