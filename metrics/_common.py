"""Checks of predictions and references, and ratios of counts, for all metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

__all__ = ["HEADS", "LABEL", "LABELS", "TEXT", "TEXTS", "ValueType", "check", "f1", "ratio"]


class ValueType(NamedTuple):
    """A type of predictions or references: how to recognise it, and how to describe it in an error message."""

    matches: Callable[[Any], bool]
    description: str


def _all(value: Any, item_type: type) -> bool:
    return isinstance(value, (list, tuple, set, np.ndarray)) and all(isinstance(item, item_type) for item in value)


LABEL = ValueType(lambda value: isinstance(value, (str, Integral)), "the name or number of a label")
LABELS = ValueType(lambda value: _all(value, str), "a list of label names")
TEXT = ValueType(lambda value: isinstance(value, str), "text")
TEXTS = ValueType(lambda value: _all(value, str) and len(value) > 0, "a list of one or more acceptable answers")
HEADS = ValueType(lambda value: _all(value, Integral), "a list of the heads of a sentence's words")


def check(predictions: Sequence, references: Sequence, prediction: ValueType, reference: ValueType) -> None:
    """Check that predictions and references can be compared.

    Raises:
        ValueError: predictions and references differ in number, are empty, or a value does not have the right type.
    """
    if len(predictions) != len(references) or not len(predictions):
        raise ValueError(
            f"{len(predictions)} predictions and {len(references)} references can't be compared; "
            "give one of each for every example, and at least one example"
        )
    for name, values, value_type in (("prediction", predictions, prediction), ("reference", references, reference)):
        for number, value in enumerate(values):
            if not value_type.matches(value):
                raise ValueError(f"{name} {number} is {value!r}; it must be {value_type.description}")


def ratio(numerator: Any, denominator: Any, otherwise: float = 0.0) -> Any:
    """Return numerator / denominator element by element, and `otherwise` where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    result = np.full(numerator.shape, otherwise)
    np.divide(numerator, denominator, out=result, where=denominator != 0)
    return result if result.ndim else float(result)


def f1(precision: Any, recall: Any) -> Any:
    """Return the harmonic mean of precision and recall, 0 where both are 0."""
    return ratio(2 * precision * recall, precision + recall)
