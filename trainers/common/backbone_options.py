"""Options of the frozen backbone: its dtype, attention, quantization and compilation."""

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

__all__ = [
    "backbone_options",
    "check_attention",
    "check_compiler",
    "compile_blocks",
    "eight_bits",
]

KERNELS = "TORCHINDUCTOR_CACHE_DIR"  # where PyTorch keeps compiled kernels
RESTRICTIONS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")  # restrict the instructions that a process uses


def backbone_options(adapter: AdapterArguments, run: RunArguments) -> dict[str, Any]:
    """Return keywords of `from_pretrained`: in float32 on a CPU, attention whose bits do not depend on the batch."""
    dtype = torch.bfloat16 if run.bf16 else torch.float16 if run.fp16 else torch.float32
    options: dict[str, Any] = {"dtype": dtype}
    if adapter.attn_implementation is not None:
        options["attn_implementation"] = adapter.attn_implementation
    elif run.device.type == "cpu" and dtype == torch.float32:
        options["attn_implementation"] = "eager"
    if adapter.quantize_backbone:
        options["quantization_config"] = TorchAoConfig(eight_bits(run.device))
    return options


def eight_bits(device: torch.device) -> Any:
    """Return torchao's configuration of 8-bit products: one scale for each token and each row of weights."""
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig
    from torchao.utils import should_reduce_range

    return Int8DynamicActivationInt8WeightConfig(
        set_inductor_config=False,  # it would change the whole process
        reduce_range=should_reduce_range(device),  # sums of full range overflow in a CPU without VNNI
    )


def check_compiler(run: RunArguments, flag: str = "--compile_backbone") -> None:
    """Compile a one-line function, so that a compiler that `flag` needs is missed before anything costs time.

    Raises:
        ValueError: PyTorch can't compile here.
    """
    keep_kernels_apart()
    try:
        torch.compile(lambda tensor: tensor + 1)(torch.ones(1, device=run.device))
    except Exception as error:  # whatever a compiler, or its absence, raises
        reason = " ".join(str(error).partition("\n\n")[0].split())
        # PyTorch hands its folders to the compiler without quotes.
        spaced = [folder for folder in (os.path.dirname(torch.__file__), os.environ.get(KERNELS, "")) if " " in folder]
        advice = (
            f"there is a space in {spaced[0]!r}, which PyTorch's calls of the compiler can't take; move that folder"
            if spaced
            else "install a C++ compiler such as g++"
        )
        raise ValueError(f"{flag}: PyTorch can't compile here ({reason}); {advice}, or leave the flag out") from error


def compile_blocks(backbone: PreTrainedModel) -> None:
    """Compile a backbone's blocks, once for all since they are alike; hooks and callers outside the blocks stay eager.

    Raises:
        ValueError: no list of modules is as long as the backbone has blocks.
    """
    number = backbone.config.num_hidden_layers
    lists = (module for module in backbone.modules() if isinstance(module, nn.ModuleList) and len(module) == number)
    blocks = next(lists, None)
    if blocks is None:
        raise ValueError(
            f"--compile_backbone: {type(backbone).__name__} has no list of its {number} blocks; leave the flag out"
        )
    keep_kernels_apart()
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=True)


def keep_kernels_apart() -> None:
    """Keep compiled kernels in a separate folder for each set of instructions that the environment allows.

    PyTorch caches kernels on disk for later processes without recording which instructions they use: a kernel that was
    compiled under another restriction gives NaN or crashes the process.
    """
    allowed = [os.environ[name] for name in RESTRICTIONS if name in os.environ]
    if allowed and KERNELS not in os.environ:
        folder = f"torchinductor_{getpass.getuser()}_{'_'.join(allowed).lower()}"
        os.environ[KERNELS] = os.path.join(tempfile.gettempdir(), folder)


def check_attention(adapter: AdapterArguments, backbone: PreTrainedConfig, run: RunArguments) -> None:
    """Refuse an attention implementation that this backbone or this machine does not have.

    Raises:
        ValueError: it is unknown, not installed, not available for the backbone, or not for 32 bits.
    """
    name = adapter.attn_implementation
    if name is None:
        return
    if "flash" in name and not (run.bf16 or run.fp16):
        raise ValueError(f"--attn_implementation {name!r} reads in 16 bits only; give --bf16 or --fp16, or sdpa")
    try:
        with torch.device("meta"):  # no weights, but every check that loading makes
            AutoModel.from_config(copy.deepcopy(backbone), attn_implementation=name, dtype=torch.bfloat16)
    except (ImportError, ValueError, OSError) as error:
        raise ValueError(
            f"--attn_implementation {name!r} can't be used with {adapter.backbone!r} here ({error}); give another, "
            "such as sdpa or eager, or leave it out"
        ) from error
