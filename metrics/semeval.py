"""The official score of SemEval-2010 task 8 (Hendrickx et al., 2010): macro-F1 of nine relations and their directions.

As the scorer's "(9+1)-way evaluation taking directionality into account": a relation counts as one whatever its
direction, but found in the wrong direction it is both missed and wrongly guessed. "Other" is no relation. The mean is
over the relations that the references hold.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from datasets import Value

from ._common import TEXT, check, f1, ratio
from ._face import Face

__all__ = ["RELATIONS", "Semeval", "compute", "from_total", "per_example"]

RELATIONS = (
    "Cause-Effect",
    "Component-Whole",
    "Content-Container",
    "Entity-Destination",
    "Entity-Origin",
    "Instrument-Agency",
    "Member-Collection",
    "Message-Topic",
    "Product-Producer",
)
NEGATIVE = "Other"
DIRECTED = re.compile(r"(.+)\((?:e1,e2|e2,e1)\)")
SAMPLE = {
    "predictions": ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Other", "Message-Topic(e1,e2)", "Other"],
    "references": ["Cause-Effect(e1,e2)", "Cause-Effect(e1,e2)", "Other", "Other", "Message-Topic(e2,e1)"],
}


def per_example(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return of each example 1, whether it is right, and for each relation whether it is found, guessed, there.

    Args:
        predictions: one label an example, such as "Cause-Effect(e1,e2)" or "Other".
        references: one label an example.

    Returns:
        (examples, 2 + 3 * 9).

    Raises:
        ValueError: as `Metric.per_example`, or a label is none of the task's nineteen.
    """
    check(predictions, references, TEXT, TEXT)
    one_hot = np.vstack([np.eye(len(RELATIONS)), np.zeros(len(RELATIONS))])  # the last row is for "Other"
    guessed, there = (one_hot[[_relation(one) for one in labels]] for labels in (predictions, references))
    right = np.array([[one == true] for one, true in zip(predictions, references, strict=True)], float)
    return np.hstack([np.ones_like(right), right, guessed * there * right, guessed, there])


def _relation(label: str) -> int:
    """Return the number of a label's relation, and -1 for "Other"."""
    if label == NEGATIVE:
        return -1
    found = DIRECTED.fullmatch(label)
    if not found or found[1] not in RELATIONS:
        raise ValueError(
            f"label {label!r} is none of SemEval-2010 task 8; it has {NEGATIVE!r} and {', '.join(RELATIONS)}, each "
            "with (e1,e2) or (e2,e1)"
        )
    return RELATIONS.index(found[1])


def from_total(total: np.ndarray) -> dict[str, float]:
    """Return accuracy, the official macro_f1 and its like from summed statistics, (..., 2 + 3 * 9)."""
    found, guessed, there = np.moveaxis(total[..., 2:].reshape(*total.shape[:-1], 3, -1), -2, 0)
    occurring = there > 0
    precision, recall = ratio(found, guessed), ratio(found, there)
    macro = {"macro_precision": precision, "macro_recall": recall, "macro_f1": f1(precision, recall)}
    micro = (ratio(found.sum(axis=-1), (guessed * occurring).sum(axis=-1)), ratio(found.sum(-1), there.sum(-1)))
    return {
        "accuracy": ratio(total[..., 1], total[..., 0]),
        **{name: ratio((one * occurring).sum(axis=-1), occurring.sum(axis=-1)) for name, one in macro.items()},
        "micro_precision": micro[0],
        "micro_recall": micro[1],
        "micro_f1": f1(*micro),
    }


def compute(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return accuracy and macro and micro precision, recall and F1 over all examples."""
    return from_total(per_example(predictions, references).sum(axis=0))


class Semeval(Face):
    """SemEval-2010 task 8: the official macro_f1 of nine relations in their directions, without "Other"."""

    prediction = reference = Value("string")
