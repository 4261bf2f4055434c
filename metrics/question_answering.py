"""Exact match and F1 of answers, normalised as in the official script of SQuAD (Rajpurkar et al., 2016)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
from datasets import List, Value

from ._common import TEXT, TEXTS, check, ratio
from ._face import Face

__all__ = ["QuestionAnswering", "compute", "from_total", "normalise", "per_example"]

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
SAMPLE = {
    "predictions": ["the Nile", "Lake Victoria", "1858"],
    "references": [["Nile", "River Nile"], ["Victoria"], ["in 1862"]],
}


def normalise(answer: str) -> str:
    """Return an answer in lower case, without punctuation and articles, with a single space between words."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(WITHOUT_PUNCTUATION)).split())


def per_example(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return for each question 1, whether the answer matches, and the F1 of its words with the best reference.

    An answer that is empty after normalisation only matches a reference that is empty too.

    Args:
        predictions: one answer per question.
        references: the acceptable answers of each question.

    Returns:
        (questions, 3).

    Raises:
        ValueError: as `Metric.per_example`, or a question has no acceptable answer.
    """
    check(predictions, references, TEXT, TEXTS)
    rows = []
    for answer, accepted in zip(predictions, references, strict=True):
        predicted, true = normalise(answer), [normalise(reference) for reference in accepted]
        overlap = max(_overlap(predicted.split(), reference.split()) for reference in true)
        rows.append([1, predicted in true, overlap])
    return np.array(rows, float)


def _overlap(predicted: list[str], true: list[str]) -> float:
    if not predicted or not true:
        return float(predicted == true)
    common = (Counter(predicted) & Counter(true)).total()
    return 2 * common / (len(predicted) + len(true))


def from_total(total: np.ndarray) -> dict[str, float]:
    """Return exact_match and f1, both from 0 to 1, from summed statistics, (..., 3)."""
    return {"exact_match": ratio(total[..., 1], total[..., 0]), "f1": ratio(total[..., 2], total[..., 0])}


def compute(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return exact_match and f1 over all questions."""
    return from_total(per_example(predictions, references).sum(axis=0))


class QuestionAnswering(Face):
    """exact_match and f1, from 0 to 1, of an answer and the best of its acceptable answers."""

    prediction, reference = Value("string"), List(Value("string"))
