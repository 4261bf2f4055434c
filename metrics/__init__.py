"""Metrics as pure functions of arrays: one metric, one file, found by its name.

A file gives additive statistics of each example on its own and turns their total into results, so that resampling
examples is a weighting of rows. Its class deriving from `evaluate.Metric` says the same to the evaluate library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .. import discovery

__all__ = ["Metric", "available", "load"]


class Metric(Protocol):
    """What every metric file provides.

    Attributes:
        SAMPLE: keywords of `compute` for a small invented case, by which the shared tests know the metric.
    """

    SAMPLE: dict[str, Any]

    def per_example(self, predictions: Sequence, references: Sequence, **settings: Any) -> np.ndarray:
        """Return the statistics of each example, (examples, k).

        Raises:
            ValueError: predictions and references are of unequal number, none, or not of the metric's kind.
        """

    def from_total(self, total: np.ndarray) -> dict[str, Any]:
        """Return results, numbers or arrays (...), from the summed statistics, (k,) or (..., k)."""

    def compute(self, predictions: Sequence, references: Sequence, **settings: Any) -> dict[str, float]:
        """Return the results over all examples."""


def available() -> list[str]:
    """Return the names of all metrics."""
    return discovery.available(__name__)


def load(name: str) -> Metric:
    """Return the metric of that name.

    Raises:
        ValueError: there is no such file.
    """
    return discovery.find(__name__, "metric", name)
