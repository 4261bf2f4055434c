"""In which precision a run multiplies: as it is asked to, or in bfloat16 where this machine is faster in it."""

from __future__ import annotations

from functools import cache
from time import perf_counter

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from .memory import spare_memory

__all__ = ["bfloat16_pays", "bfloat16_time", "precision_line"]

SHAPE = (256, 384)  # of a product that takes a fraction of a millisecond, and tens where bfloat16 is emulated
ROUNDS, ENOUGH = 12, 0.15  # the fastest counts, of so many or of those in so many seconds
WORTHWHILE = 0.8  # of float32's time: autocasting costs some of what the products save


def bfloat16_pays(device: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32 on this machine; all processes of a run agree on the first's."""
    agreed = [_has_units(device) and (device.type != "cpu" or bfloat16_time() < WORTHWHILE)]
    if PartialState().num_processes > 1:
        broadcast_object_list(agreed)
    return agreed[0]


@cache
def bfloat16_time() -> float:
    """Return how many times as long as in float32 a matrix product takes in bfloat16 on this CPU, measured once.

    On a busy machine one product says little, so the fastest of several counts.
    """
    spare_memory()  # heard before the first product of a process only
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    rows, side = SHAPE
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        factors = {dtype: (torch.randn(rows, side).to(dtype), torch.randn(side, side).to(dtype)) for dtype in seconds}
        began = perf_counter()
        while len(seconds[torch.bfloat16]) < ROUNDS and perf_counter() - began < ENOUGH:
            for dtype, (left, right) in factors.items():
                begin = perf_counter()
                left @ right
                seconds[dtype].append(perf_counter() - begin)
    return min(seconds[torch.bfloat16]) / min(seconds[torch.float32])


def precision_line(bf16: bool, fp16: bool, asked: bool, device: torch.device) -> str:
    """Return in one line the precision of a run and why it is that one, with a warning where it costs time."""
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
    """Return whether the device multiplies in bfloat16, not just stores it.

    oneDNN knows what the environment denies it. The CPU is asked too, for oneDNN says yes on every one with AVX-512,
    also where products take four times as long as in float32 since there are no instructions for them.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    known = torch.cpu.get_capabilities()
    return known.get("architecture") != "x86_64" or any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))
