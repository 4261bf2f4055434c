"""What labels must be for anything to be learned from them."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["check_varied"]


def check_varied(what: str, labels: Iterable[object]) -> None:
    """Refuse training records that all have the same label: the loss would be 0 and every score perfect.

    Args:
        what: what a label is called, such as "relation".
        labels: the label of each training record, or of each different one.

    Raises:
        ValueError: all are alike; the sentence says which label it is, and the remedy.
    """
    labels = iter(labels)
    first = next(labels, None)
    if all(label == first for label in labels):
        shown = repr(sorted(first)) if isinstance(first, frozenset) else repr(first)
        raise ValueError(
            f"all training records have the same {what}, {shown}, so there is nothing to tell apart; add records "
            f"with another {what}, or choose a corpus that has several"
        )
