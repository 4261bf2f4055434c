"""The official score of SemEval-2010 Task 8 (Hendrickx et al., 2010): macro-F1 of nine relations and their directions.

As in the scorer's "(9+1)-way evaluation taking directionality into account", both directions of a relation are scored
together, but a relation predicted in the wrong direction is both missed and wrongly predicted. "Other" is not a
relation. The mean is over the relations that occur in the references.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from datasets import Value

from ._common import TEXT, check, f1, ratio
from ._face import Face

__all__ = ["Semeval", "compute", "from_total", "per_example"]

NEGATIVE = "Other"
DIRECTED = re.compile(r"(.+)\((?:e1,e2|e2,e1)\)")
SAMPLE = {
    "predictions": ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Other", "Message-Topic(e1,e2)", "Other"],
    "references": ["Cause-Effect(e1,e2)", "Cause-Effect(e1,e2)", "Other", "Other", "Message-Topic(e2,e1)"],
    "relations": ["Cause-Effect", "Message-Topic"],
}


def per_example(
    predictions: Sequence[str], references: Sequence[str], *, relations: Sequence[str] | None = None
) -> np.ndarray:
    """Return for each example 1, whether it is right, and for each relation whether it is hit, predicted, true.

    Args:
        predictions: one label per example, such as "Cause-Effect(e1,e2)" or "Other".
        references: one label per example.
        relations: the names of the task's relations, without direction; by default those that occur.

    Returns:
        (examples, 2 + 3 * relations).

    Raises:
        ValueError: as `Metric.per_example`, or a label is neither "Other" nor a relation with its direction.
    """
    check(predictions, references, TEXT, TEXT)
    names = {label: _relation(label, relations) for label in (*predictions, *references)}
    columns = sorted({*names.values(), *(relations or ())} - {NEGATIVE})
    one_hot = np.vstack([np.eye(len(columns)), np.zeros((1, len(columns)))])  # the last row is for "Other"
    rows = {label: columns.index(name) if name in columns else -1 for label, name in names.items()}
    predicted, true = (one_hot[[rows[label] for label in labels]] for labels in (predictions, references))
    right = np.array([[label == gold] for label, gold in zip(predictions, references, strict=True)], float)
    return np.hstack([np.ones_like(right), right, predicted * true * right, predicted, true])


def _relation(label: str, relations: Sequence[str] | None) -> str:
    """Return the name of a label's relation without its direction, or "Other"."""
    if label == NEGATIVE:
        return label
    directed = DIRECTED.fullmatch(label)
    if not directed or directed[1] == NEGATIVE or (relations is not None and directed[1] not in relations):
        names = "the name of a relation" if relations is None else f"one of {', '.join(relations)}"
        raise ValueError(
            f"label {label!r} is none of SemEval-2010 task 8; it must be {NEGATIVE!r} or {names}, with (e1,e2) or "
            "(e2,e1)"
        )
    return directed[1]


def from_total(total: np.ndarray) -> dict[str, float]:
    """Return accuracy and macro and micro precision, recall and F1 from summed statistics, (..., 2 + 3 * relations).

    The official score is macro_f1.
    """
    hits, predicted, true = np.moveaxis(total[..., 2:].reshape(*total.shape[:-1], 3, -1), -2, 0)
    occurring = true > 0
    precision, recall = ratio(hits, predicted), ratio(hits, true)
    macro = {"macro_precision": precision, "macro_recall": recall, "macro_f1": f1(precision, recall)}
    micro = (ratio(hits.sum(axis=-1), (predicted * occurring).sum(axis=-1)), ratio(hits.sum(-1), true.sum(-1)))
    return {
        "accuracy": ratio(total[..., 1], total[..., 0]),
        **{name: ratio((score * occurring).sum(axis=-1), occurring.sum(axis=-1)) for name, score in macro.items()},
        "micro_precision": micro[0],
        "micro_recall": micro[1],
        "micro_f1": f1(*micro),
    }


def compute(
    predictions: Sequence[str], references: Sequence[str], *, relations: Sequence[str] | None = None
) -> dict[str, float]:
    """Return accuracy and macro and micro precision, recall and F1 over all examples."""
    return from_total(per_example(predictions, references, relations=relations).sum(axis=0))


class Semeval(Face):
    """SemEval-2010 task 8: the official macro_f1 of nine relations in their directions, without "Other"."""

    prediction = reference = Value("string")
