"""Metrics as pure functions: each metric is a file in this folder and is loaded by the name of that file.

A metric computes statistics of each example separately and turns their sum into results, so that resampling examples
amounts to weighting rows. Each file also has a class derived from `evaluate.Metric`, for the evaluate library, which
names a metric after its class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from .. import discovery

__all__ = ["Metric", "available", "load"]


class Metric(Protocol):
    """The functions and constants of a metric file.

    Attributes:
        SAMPLE: keywords of `compute` for a small invented case, on which the shared tests run.
    """

    SAMPLE: dict[str, Any]

    def per_example(self, predictions: Sequence, references: Sequence, **settings: Any) -> np.ndarray:
        """Return the statistics of each example, (examples, k).

        Raises:
            ValueError: predictions and references differ in number, are empty, or have a type that the metric doesn't
                take.
        """

    def from_total(self, total: np.ndarray) -> dict[str, Any]:
        """Return the results, numbers or arrays (...), of summed statistics, (k,) or (..., k)."""

    def compute(self, predictions: Sequence, references: Sequence, **settings: Any) -> dict[str, float]:
        """Return the results over all examples."""


def available() -> list[str]:
    """Return the names of all metrics."""
    return discovery.available(__name__)


def load(name: str) -> Metric:
    """Return the metric of this name.

    Raises:
        ValueError: there is no metric of this name; the message lists the available metrics.
    """
    return discovery.find(__name__, "metric", name)
