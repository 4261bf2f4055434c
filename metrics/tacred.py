"""The score of TACRED: micro precision, recall and F1 of relations, without "no relation" (Zhang et al., 2017)."""

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
    """Return for each example whether a relation is correctly predicted, is predicted, is true.

    Args:
        predictions: one relation per example.
        references: one relation per example.
        negative: the label that means no relation.

    Returns:
        (examples, 3).

    Raises:
        ValueError: as `Metric.per_example`.
    """
    check(predictions, references, TEXT, TEXT)
    pairs = zip(predictions, references, strict=True)
    rows = [[label == true != negative, label != negative, true != negative] for label, true in pairs]
    return np.array(rows, float)


def from_total(total: np.ndarray) -> dict[str, float]:
    """Return precision, recall and f1 from summed statistics, (..., 3); precision is 1 if nothing is predicted."""
    hits, predicted, true = np.moveaxis(total, -1, 0)
    precision, recall = ratio(hits, predicted, otherwise=1.0), ratio(hits, true)
    return {"precision": precision, "recall": recall, "f1": f1(precision, recall)}


def compute(
    predictions: Sequence[str], references: Sequence[str], *, negative: str = "no_relation"
) -> dict[str, float]:
    """Return precision, recall and f1 over all examples."""
    return from_total(per_example(predictions, references, negative=negative).sum(axis=0))


class Tacred(Face):
    """Micro precision, recall and f1 of relations without the label `negative`, by default "no_relation"."""

    prediction = reference = Value("string")
