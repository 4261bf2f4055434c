"""Choose the precision of a run: the requested one, or bfloat16 where it is faster on this machine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from time import perf_counter
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from .memory import limit_native_caches

__all__ = ["bfloat16_pays", "bfloat16_time", "precision_context", "precision_line"]

SHAPE = (256, 384)  # of a product that takes a fraction of a millisecond, or tens of them where bfloat16 is emulated
ROUNDS, MAX_SECONDS = 12, 0.15  # the fastest round counts; rounds stop after MAX_SECONDS
WORTHWHILE = 0.8  # share of float32's time: autocasting costs some of what the products save


def bfloat16_pays(device: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32 here; all processes of a run use the first one's answer."""
    agreed = [_has_units(device) and (device.type != "cpu" or bfloat16_time() < WORTHWHILE)]
    if PartialState().num_processes > 1:
        broadcast_object_list(agreed)
    return agreed[0]


@cache
def bfloat16_time() -> float:
    """Measure, once, the time of a matrix product in bfloat16 relative to float32 on this CPU.

    On a busy machine a single product says little, so the fastest of several counts.
    """
    limit_native_caches()  # oneDNN reads it before the first product of a process only
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    rows, side = SHAPE
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        factors = {dtype: (torch.randn(rows, side).to(dtype), torch.randn(side, side).to(dtype)) for dtype in seconds}
        began = perf_counter()
        while len(seconds[torch.bfloat16]) < ROUNDS and perf_counter() - began < MAX_SECONDS:
            for dtype, (left, right) in factors.items():
                begin = perf_counter()
                left @ right
                seconds[dtype].append(perf_counter() - begin)
    return min(seconds[torch.bfloat16]) / min(seconds[torch.float32])


def precision_context(run: Any) -> AbstractContextManager:
    """Return the context in which training would encode examples."""
    if not (run.bf16 or run.fp16):
        return nullcontext()
    return torch.autocast(run.device.type, dtype=torch.bfloat16 if run.bf16 else torch.float16)


def precision_line(bf16: bool, fp16: bool, asked: bool, device: torch.device) -> str:
    """Describe in one line the precision of a run and the reason for it, with a warning where it costs time."""
    name = "bfloat16" if bf16 else "float16" if fp16 else "float32"
    if device.type != "cpu":
        reason = "as asked" if asked else f"this {device.type} device has {'' if bf16 else 'no '}units for bfloat16"
        return f"precision: {name} ({reason})"
    if asked and not bf16:
        return f"precision: {name} (as asked)"
    measured = f"a product in bfloat16 takes {bfloat16_time():.2g} times as long as in float32 here"
    if not _has_units(device):
        measured += ", since this CPU has no units for it"
    if bf16 and not (_has_units(device) and bfloat16_time() < 1):
        return f"precision: {name}, as asked; warning: {measured}, so this run is slower: leave --bf16 out"
    return f"precision: {name} ({measured})"


def _has_units(device: torch.device) -> bool:
    """Return whether the device multiplies in bfloat16 rather than only storing it.

    oneDNN knows what the environment disables. The CPU is asked too, because oneDNN says yes for every CPU with
    AVX-512, even where there are no instructions for such products and they take four times as long as in float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    capabilities = torch.cpu.get_capabilities()
    return capabilities.get("architecture") != "x86_64" or any(
        capabilities.get(name) for name in ("avx512_bf16", "amx_bf16")
    )
