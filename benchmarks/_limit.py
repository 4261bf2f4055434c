"""Time, and the arithmetic limit of this machine, here and now: how fast it multiplies matrices of one dtype."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

TRIALS = 12
GPU_SIDE, GPU_PRODUCTS = 8192, 8  # so large and many that starting them and waiting weigh nothing


class Time(NamedTuple):
    """A moment or a span, by the clock on the wall, and by what the cores of a CPU worked for this process.

    The second tells what a step costs even where other jobs or a hypervisor take turns on the cores.
    """

    wall: float
    cpu: float


def now(device: str) -> Time:
    """Return the moment at which the device is done with all that it was told."""
    if device != "cpu":
        torch.cuda.synchronize()
    return Time(time.perf_counter(), time.process_time())


def since(begin: Time, device: str) -> Time:
    """Return the span from a moment to the one at which the device is done."""
    end = now(device)
    return Time(end.wall - begin.wall, end.cpu - begin.cpu)


def span(run: Callable[[], object], device: str) -> Time:
    """Return how long something takes, until the device is done with it."""
    begin = now(device)
    run()
    return since(begin, device)


def matrix_peak(side: int, dtype: torch.dtype, device: str) -> Time:
    """Return the operations a second of the fastest of several trials, by either clock.

    A trial is a product of square matrices, on a GPU of several larger ones between two waits for it.
    """
    side, products = (side, 1) if device == "cpu" else (GPU_SIDE, GPU_PRODUCTS)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    spans = [span(lambda: [left @ right for _ in range(products)], device) for _ in range(TRIALS)]
    return Time(*(2 * side**3 * products / max(min(one), 1e-9) for one in zip(*spans, strict=True)))


def fractions(operations: float, taken: Time, peaks: list[Time]) -> dict[str, float]:
    """Return which part of the highest peak so many operations in such a span are, by either clock."""
    wall, cpu = (max(one) for one in zip(*peaks, strict=True))
    return {
        "matrix_peak_gflops": wall / 1e9,
        "fraction_of_limit": operations / taken.wall / wall,
        "fraction_of_limit_by_cpu": operations / max(taken.cpu, 1e-9) / cpu,
    }
