"""Entity typing: strict accuracy, loose macro and loose micro precision, recall and F1 (Ling and Weld, 2012).

Each example counts exactly once. In the FIGER script of the official K-Adapter code, an example is counted again with
every batch that follows it, so that the macro and micro scores of that script depend on batch size and order.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from datasets import List, Value

from ._common import LABELS, check, f1, ratio
from ._face import Face

__all__ = ["EntityTyping", "compute", "from_total", "per_example"]

SAMPLE = {
    "predictions": [["person"], ["person", "artist"], [], ["place"]],
    "references": [["person"], ["person"], ["event"], ["place", "city"]],
}


def per_example(predictions: Sequence[Collection[str]], references: Sequence[Collection[str]]) -> np.ndarray:
    """Return for each example 1, whether all its labels are right, its precision and recall, and its counts.

    The counts are those of labels that are correctly predicted, predicted, true. Precision is 0 for an example
    without predicted labels, and recall is 0 for an example without true labels.

    Args:
        predictions: the label names of each example, in any order.
        references: the label names of each example.

    Returns:
        (examples, 7).

    Raises:
        ValueError: as `Metric.per_example`.
    """
    check(predictions, references, LABELS, LABELS)
    pairs = [(set(predicted), set(true)) for predicted, true in zip(predictions, references, strict=True)]
    counts = np.array([[len(predicted & true), len(predicted), len(true)] for predicted, true in pairs], float)
    strict = [[1, predicted == true] for predicted, true in pairs]
    shares = np.stack([ratio(counts[:, 0], counts[:, 1]), ratio(counts[:, 0], counts[:, 2])], axis=1)
    return np.hstack([strict, shares, counts])


def from_total(total: np.ndarray) -> dict[str, float]:
    """Return strict_accuracy and macro_ and micro_ precision, recall and f1 from summed statistics, (..., 7)."""
    examples, right, precisions, recalls, hits, predicted, true = np.moveaxis(total, -1, 0)
    results = {"strict_accuracy": ratio(right, examples)}
    macro = (ratio(precisions, examples), ratio(recalls, examples))
    micro = (ratio(hits, predicted), ratio(hits, true))
    for name, (precision, recall) in (("macro", macro), ("micro", micro)):
        results |= {f"{name}_precision": precision, f"{name}_recall": recall, f"{name}_f1": f1(precision, recall)}
    return results


def compute(predictions: Sequence[Collection[str]], references: Sequence[Collection[str]]) -> dict[str, float]:
    """Return strict accuracy and loose macro and micro scores over all examples."""
    return from_total(per_example(predictions, references).sum(axis=0))


class EntityTyping(Face):
    """Strict accuracy, loose macro and loose micro precision, recall and f1 of label sets."""

    prediction = reference = List(Value("string"))
