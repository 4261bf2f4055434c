"""Accuracy of single labels, and their F1: macro over the classes that occur, and micro."""

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
    """Return of each example 1, whether it is right, and for each class whether it is hit, predicted, true.

    Args:
        predictions: one label an example.
        references: one label an example.
        classes: those over which F1 is taken; by default all that occur.

    Returns:
        (examples, 2 + 3 * classes).

    Raises:
        ValueError: as `Metric.per_example`, or some labels are names and others numbers.
    """
    check(predictions, references, LABEL, LABEL)
    if len({isinstance(one, str) for one in (*predictions, *references)}) > 1:
        raise ValueError("some labels are names and others are numbers, so they can't agree; give one of both")
    index = {name: number for number, name in enumerate(classes or sorted({*predictions, *references}, key=str))}
    one_hot = np.vstack([np.eye(len(index)), np.zeros(len(index))])  # the last row is for labels outside
    predicted, true = (one_hot[[index.get(one, -1) for one in labels]] for labels in (predictions, references))
    right = [[1, one == other] for one, other in zip(predictions, references, strict=True)]
    return np.hstack([right, predicted * true, predicted, true])


def from_total(total: np.ndarray) -> dict[str, float]:
    """Return accuracy, macro_f1 and micro_f1 from summed statistics, (..., 2 + 3 * classes).

    A class that is neither predicted nor true has no part in macro_f1. Over all classes micro_f1 is accuracy.
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
    """Accuracy, macro_f1 over the classes that occur, and micro_f1, of one label an example."""

    prediction = reference = (Value("string"), Value("int64"))
