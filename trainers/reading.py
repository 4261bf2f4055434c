"""How a run has its frozen backbone read: in which precision, with which attention, with weights of how many bits."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import AutoModel, PreTrainedConfig, TorchAoConfig

from .arguments import AdapterArguments, RunArguments

__all__ = ["check_attention", "reading"]


def reading(adapter: AdapterArguments, run: RunArguments) -> dict[str, Any]:
    """Return what `from_pretrained` is told: in float32 on a CPU attention whose bits do not depend on the batch."""
    dtype = torch.bfloat16 if run.bf16 else torch.float16 if run.fp16 else torch.float32
    told: dict[str, Any] = {"dtype": dtype}
    if adapter.attn_implementation is not None:
        told["attn_implementation"] = adapter.attn_implementation
    elif run.device.type == "cpu" and dtype == torch.float32:
        told["attn_implementation"] = "eager"
    if adapter.quantize_backbone:
        from torchao.quantization import Int8WeightOnlyConfig

        told["quantization_config"] = TorchAoConfig(Int8WeightOnlyConfig())
    return told


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
