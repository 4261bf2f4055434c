"""Unlabelled attachment score of dependency heads."""

from __future__ import annotations

import numpy as np

__all__ = ["unlabelled_attachment_score"]


def unlabelled_attachment_score(
    predictions: np.ndarray, references: np.ndarray, counted: np.ndarray, words: int
) -> float:
    """Return the share of all words whose head is right.

    `predictions`, `references` and the boolean `counted` have one shape, (sentences, words); `words` is the number of
    all words of all sentences, punctuation included, so that words lost to truncation count as wrong.

    Raises:
        ValueError: there are no words, or fewer than are counted.
    """
    if words < 1 or int(counted.sum()) > words:
        raise ValueError(f"words={words} is fewer than the {int(counted.sum())} counted, or none; count all words")
    return float(((predictions == references) & counted).sum() / words)
