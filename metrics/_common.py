"""What the metrics share: which values they take, and ratios of counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

__all__ = ["HEADS", "LABEL", "LABELS", "TEXT", "TEXTS", "Kind", "check", "f1", "ratio"]


class Kind(NamedTuple):
    """A kind of prediction or reference: how it is recognised, and how it is called in a sentence."""

    matches: Callable[[Any], bool]
    description: str


def _all(value: Any, kind: type) -> bool:
    return isinstance(value, (list, tuple, set, np.ndarray)) and all(isinstance(one, kind) for one in value)


LABEL = Kind(lambda value: isinstance(value, (str, Integral)), "the name or number of a label")
LABELS = Kind(lambda value: _all(value, str), "a list of label names")
TEXT = Kind(lambda value: isinstance(value, str), "text")
TEXTS = Kind(lambda value: _all(value, str) and len(value) > 0, "a list of one or more acceptable answers")
HEADS = Kind(lambda value: _all(value, Integral), "a list of the heads of a sentence's words")


def check(predictions: Sequence, references: Sequence, prediction: Kind, reference: Kind) -> None:
    """Refuse what can't be compared.

    Raises:
        ValueError: predictions and references are of unequal number, none, or one of them is of another kind.
    """
    if len(predictions) != len(references) or not len(predictions):
        raise ValueError(
            f"{len(predictions)} predictions and {len(references)} references can't be compared; "
            "give one of each for every example, and at least one example"
        )
    for name, values, kind in (("prediction", predictions, prediction), ("reference", references, reference)):
        for number, value in enumerate(values):
            if not kind.matches(value):
                raise ValueError(f"{name} {number} is {value!r}; it must be {kind.description}")


def ratio(numerator: Any, denominator: Any, otherwise: float = 0.0) -> Any:
    """Return numerator / denominator element by element, and `otherwise` where there is nothing to divide by."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    result = np.full(numerator.shape, otherwise)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result if result.ndim else float(result)


def f1(precision: Any, recall: Any) -> Any:
    """Return the harmonic mean of precision and recall, 0 where both are 0."""
    return ratio(2 * precision * recall, precision + recall)
