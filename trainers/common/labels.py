"""Check that there is anything to learn from training labels."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["check_varied"]


def check_varied(what: str, labels: Iterable[object]) -> None:
    """Refuse training records that all have the same label: the loss would be 0 and every score perfect.

    Args:
        what: what a label is called, such as "relation".
        labels: the label of each training record, or each distinct label.

    Raises:
        ValueError: all are equal; the message names the label and the remedy.
    """
    labels = iter(labels)
    first = next(labels, None)
    if all(label == first for label in labels):
        shown = repr(sorted(first)) if isinstance(first, frozenset) else repr(first)
        raise ValueError(
            f"all training records have the same {what}, {shown}, so there is nothing to tell apart; add records "
            f"with another {what}, or choose a corpus that has several"
        )
