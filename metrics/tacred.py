"""TACRED's score: micro precision, recall and F1 of relations, where "no relation" is none (Zhang et al., 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Value

from ._common import TEXT, check, f1, ratio
from ._face import Face

__all__ = ["Tacred", "compute", "from_total", "per_example"]

SAMPLE = {
    "predictions": ["per:title", "no_relation", "per:age", "org:founded", "no_relation"],
    "references": ["per:title", "per:age", "no_relation", "per:title", "no_relation"],
}


def per_example(predictions: Sequence[str], references: Sequence[str], *, negative: str = "no_relation") -> np.ndarray:
    """Return of each example whether a relation is rightly found, is guessed, is there.

    Args:
        predictions: one relation an example.
        references: one relation an example.
        negative: the label that means no relation.

    Returns:
        (examples, 3).

    Raises:
        ValueError: as `Metric.per_example`.
    """
    check(predictions, references, TEXT, TEXT)
    pairs = zip(predictions, references, strict=True)
    return np.array([[one == true != negative, one != negative, true != negative] for one, true in pairs], float)


def from_total(total: np.ndarray) -> dict[str, float]:
    """Return precision, recall and f1 from summed statistics, (..., 3); precision is 1 where nothing is guessed."""
    found, guessed, there = np.moveaxis(total, -1, 0)
    precision, recall = ratio(found, guessed, otherwise=1.0), ratio(found, there)
    return {"precision": precision, "recall": recall, "f1": f1(precision, recall)}


def compute(
    predictions: Sequence[str], references: Sequence[str], *, negative: str = "no_relation"
) -> dict[str, float]:
    """Return precision, recall and f1 over all examples."""
    return from_total(per_example(predictions, references, negative=negative).sum(axis=0))


class Tacred(Face):
    """Micro precision, recall and f1 of relations without the label `negative`, by default "no_relation"."""

    prediction = reference = Value("string")
