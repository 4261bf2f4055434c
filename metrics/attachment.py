"""Unlabelled attachment score: the share of words with the right head, including punctuation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from datasets import List, Value

from ._common import HEADS, check, ratio
from ._face import Face

__all__ = ["Attachment", "compute", "from_total", "per_example"]

SAMPLE = {"predictions": [[2, 0, 2], [0]], "references": [[2, 0, 1], [2, 0]]}


def per_example(predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> np.ndarray:
    """Return for each sentence the number of words with the right head, and the number of words.

    Args:
        predictions: the heads of the words of each sentence; words missing at the end count as wrong.
        references: the heads of all words of each sentence.

    Returns:
        (sentences, 2).

    Raises:
        ValueError: as `Metric.per_example`, or a sentence has more predictions than words.
    """
    check(predictions, references, HEADS, HEADS)
    rows = []
    for number, (predicted, heads) in enumerate(zip(predictions, references, strict=True)):
        if len(predicted) > len(heads):
            raise ValueError(
                f"sentence {number} has {len(predicted)} predicted heads and {len(heads)} words; "
                "give one head for each word"
            )
        right = sum(guess == head for guess, head in zip(predicted, heads, strict=False))
        rows.append([right, len(heads)])
    return np.array(rows, float)


def from_total(total: np.ndarray) -> dict[str, float]:
    """Return uas from summed statistics, (..., 2)."""
    return {"uas": ratio(total[..., 0], total[..., 1])}


def compute(predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> dict[str, float]:
    """Return uas over the words of all sentences."""
    return from_total(per_example(predictions, references).sum(axis=0))


class Attachment(Face):
    """Unlabelled attachment score of the heads of the words of each sentence."""

    prediction = reference = List(Value("int64"))
