"""Accuracy and F1 of single labels: macro-F1 over the classes that occur, and micro-F1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import Value

from ._common import LABEL, check, ratio
from ._face import Face

__all__ = ["Accuracy", "compute", "from_total", "per_example"]

SAMPLE = {"predictions": ["a", "b", "b", "c"], "references": ["a", "b", "c", "c"], "classes": ["a", "b", "c", "d"]}


def per_example(
    predictions: Sequence[str | int], references: Sequence[str | int], *, classes: Sequence[str | int] | None = None
) -> np.ndarray:
    """Return for each example 1, whether it is right, and for each class whether it is hit, predicted, true.

    Args:
        predictions: one label per example.
        references: one label per example.
        classes: the classes over which F1 is computed; by default all that occur.

    Returns:
        (examples, 2 + 3 * classes).

    Raises:
        ValueError: as `Metric.per_example`, or some labels are names and others are numbers.
    """
    check(predictions, references, LABEL, LABEL)
    if len({isinstance(label, str) for label in (*predictions, *references)}) > 1:
        raise ValueError("some labels are names and others are numbers, so they can't agree; use only one of them")
    index = {name: number for number, name in enumerate(classes or sorted({*predictions, *references}, key=str))}
    one_hot = np.vstack([np.eye(len(index)), np.zeros(len(index))])  # the last row is for labels outside the classes
    predicted, true = (one_hot[[index.get(label, -1) for label in labels]] for labels in (predictions, references))
    right = [[1, label == true_label] for label, true_label in zip(predictions, references, strict=True)]
    return np.hstack([right, predicted * true, predicted, true])


def from_total(total: np.ndarray) -> dict[str, float]:
    """Return accuracy, macro_f1 and micro_f1 from summed statistics, (..., 2 + 3 * classes).

    A class that is neither predicted nor true is left out of macro_f1. Over all classes, micro_f1 equals accuracy.
    """
    hits, predicted, true = np.moveaxis(total[..., 2:].reshape(*total.shape[:-1], 3, -1), -2, 0)
    occurring = (predicted + true > 0).sum(axis=-1)
    return {
        "accuracy": ratio(total[..., 1], total[..., 0]),
        "macro_f1": ratio(ratio(2 * hits, predicted + true).sum(axis=-1), occurring),
        "micro_f1": ratio(2 * hits.sum(axis=-1), (predicted + true).sum(axis=-1)),
    }


def compute(
    predictions: Sequence[str | int], references: Sequence[str | int], *, classes: Sequence[str | int] | None = None
) -> dict[str, float]:
    """Return accuracy, macro_f1 and micro_f1 over all examples."""
    return from_total(per_example(predictions, references, classes=classes).sum(axis=0))


class Accuracy(Face):
    """Accuracy, macro_f1 over the classes that occur, and micro_f1, for one label per example."""

    prediction = reference = (Value("string"), Value("int64"))
