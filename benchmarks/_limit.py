"""Measure time, and the current arithmetic limit of this machine: how fast it multiplies matrices of a dtype."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

TRIALS = 12
GPU_SIDE, GPU_PRODUCTS = 8192, 8  # enough work to make launching and waiting negligible


class Time(NamedTuple):
    """A moment or a span, as wall-clock time and as CPU time of this process.

    CPU time shows what a step costs even if other jobs or a hypervisor share the cores.
    """

    wall: float
    cpu: float


def now(device: str) -> Time:
    """Return the moment at which the device has finished all its work."""
    if device != "cpu":
        torch.cuda.synchronize()
    return Time(time.perf_counter(), time.process_time())


def since(begin: Time, device: str) -> Time:
    """Return the span from a moment until the device has finished."""
    end = now(device)
    return Time(end.wall - begin.wall, end.cpu - begin.cpu)


def span(run: Callable[[], object], device: str) -> Time:
    """Return how long a function takes, until the device has finished."""
    begin = now(device)
    run()
    return since(begin, device)


def matrix_peak(side: int, dtype: torch.dtype, device: str) -> Time:
    """Return the operations a second of the fastest of several trials, by wall-clock and CPU time.

    A trial is a product of square matrices on a CPU, and several products of larger matrices on a GPU.
    """
    side, products = (side, 1) if device == "cpu" else (GPU_SIDE, GPU_PRODUCTS)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    spans = [span(lambda: [left @ right for _ in range(products)], device) for _ in range(TRIALS)]
    return Time(*(2 * side**3 * products / max(min(times), 1e-9) for times in zip(*spans, strict=True)))


def fractions(operations: float, taken: Time, peaks: list[Time]) -> dict[str, float]:
    """Return the highest peak, and which fraction of it operations in a span reach by wall-clock and CPU time."""
    wall, cpu = (max(rates) for rates in zip(*peaks, strict=True))
    return {
        "matrix_peak_gflops": wall / 1e9,
        "fraction_of_limit": operations / taken.wall / wall,
        "fraction_of_limit_by_cpu": operations / max(taken.cpu, 1e-9) / cpu,
    }
