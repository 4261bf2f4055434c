"""How a run has its frozen backbone read: in which precision, with which attention, compiled or as it is."""

from __future__ import annotations

import copy
import getpass
import os
import tempfile
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, TorchAoConfig

from .arguments import AdapterArguments, RunArguments

__all__ = ["check_attention", "check_compiler", "compile_blocks", "eight_bits", "keep_kernels_apart", "reading"]

KERNELS = "TORCHINDUCTOR_CACHE_DIR"  # where PyTorch keeps what it compiled
RESTRICTIONS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")  # of the instructions that a process uses


def reading(adapter: AdapterArguments, run: RunArguments) -> dict[str, Any]:
    """Return what `from_pretrained` is told: in float32 on a CPU attention whose bits do not depend on the batch."""
    dtype = torch.bfloat16 if run.bf16 else torch.float16 if run.fp16 else torch.float32
    told: dict[str, Any] = {"dtype": dtype}
    if adapter.attn_implementation is not None:
        told["attn_implementation"] = adapter.attn_implementation
    elif run.device.type == "cpu" and dtype == torch.float32:
        told["attn_implementation"] = "eager"
    if adapter.quantize_backbone:
        told["quantization_config"] = TorchAoConfig(eight_bits(run.device))
    return told


def eight_bits(device: torch.device) -> Any:
    """Return torchao's configuration of products in 8 bits: a scale for each token and for each row of weights."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    from torchao.utils import should_reduce_range

    return Int8DynamicActivationInt8WeightConfig(
        set_inductor_config=False,  # which is the whole process's
        reduce_range=should_reduce_range(device),  # sums of full range overflow in a CPU without VNNI
    )


def check_compiler(run: RunArguments) -> None:
    """Compile a function of one line, so that a missing compiler is known before anything costs time.

    Raises:
        ValueError: it can't be compiled here.
    """
    try:
        torch.compile(lambda given: given + 1)(torch.ones(1, device=run.device))
    except Exception as error:  # whatever a compiler, or the want of one, raises
        said = " ".join(str(error).partition("\n\n")[0].split())
        raise ValueError(
            f"--compile_backbone: PyTorch can't compile here ({said}); install a C++ compiler such as g++, or leave "
            "the flag out"
        ) from error


def compile_blocks(backbone: PreTrainedModel) -> None:
    """Compile a backbone's blocks, one for all since they are alike, and leave what looks at them from outside.

    Raises:
        ValueError: no list of modules is as long as the backbone has blocks.
    """
    number = backbone.config.num_hidden_layers
    lists = (one for one in backbone.modules() if isinstance(one, nn.ModuleList) and len(one) == number)
    blocks = next(lists, None)
    if blocks is None:
        raise ValueError(
            f"--compile_backbone: {type(backbone).__name__} has no list of its {number} blocks; leave the flag out"
        )
    keep_kernels_apart()
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=True)


def keep_kernels_apart() -> None:
    """Keep compiled kernels in a folder for each set of instructions that the environment allows.

    PyTorch keeps them on disk for later processes, and does not ask what a process may use: one that was compiled
    under another restriction gives NaN, or breaks the process.
    """
    allowed = [os.environ[name] for name in RESTRICTIONS if name in os.environ]
    if allowed and KERNELS not in os.environ:
        folder = f"torchinductor_{getpass.getuser()}_{'_'.join(allowed).lower()}"
        os.environ[KERNELS] = os.path.join(tempfile.gettempdir(), folder)


def check_attention(adapter: AdapterArguments, backbone: PreTrainedConfig, run: RunArguments) -> None:
    """Refuse an attention that this backbone, or this machine, does not have.

    Raises:
        ValueError: it is unknown, not installed, not made for the backbone or not for 32 bits.
    """
    name = adapter.attn_implementation
    if name is None:
        return
    if "flash" in name and not (run.bf16 or run.fp16):
        raise ValueError(f"--attn_implementation {name!r} reads in 16 bits only; give --bf16 or --fp16, or sdpa")
    try:
        with torch.device("meta"):  # no weights, but every check that loading them would make
            AutoModel.from_config(copy.deepcopy(backbone), attn_implementation=name, dtype=torch.bfloat16)
    except (ImportError, ValueError, OSError) as error:
        raise ValueError(
            f"--attn_implementation {name!r} can't be used with {adapter.backbone!r} here ({error}); give another, "
            "such as sdpa or eager, or leave it out"
        ) from error
