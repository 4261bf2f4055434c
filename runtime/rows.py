"""Mixed batches: which adapters each row of a batch goes through.

The words and sentences are those of `rows_kadapter.py`, which needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["BASE", "check_positions", "gathered", "names_of_rows", "present", "spread"]

BASE = "__base__"


def names_of_rows(adapter_names: Any, batch: int, known: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the adapters of each row, whose entry is a name, "__base__" for none, or a list of names.

    Raises:
        TypeError: it is no list, or an entry is neither a name nor a list of names.
        ValueError: there are more or fewer entries than rows, or a row names an unknown adapter or one twice.
    """
    if isinstance(adapter_names, str) or not isinstance(adapter_names, Sequence):
        raise TypeError(
            f"adapter_names is {adapter_names!r}; give a list with an entry for each row: a name, {BASE!r}, or a "
            "list of names. set_adapter chooses for all rows"
        )
    if len(adapter_names) != batch:
        raise ValueError(
            f"adapter_names has {len(adapter_names)} entries and the batch {batch} rows; give an entry for each "
            f"row, {BASE!r} where it goes through no adapter"
        )
    return [_names(row, entry, known) for row, entry in enumerate(adapter_names)]


def _names(row: int, entry: Any, known: Sequence[str]) -> tuple[str, ...]:
    names = [entry] if isinstance(entry, str) else entry
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"adapter_names[{row}] is {entry!r}; give a name, {BASE!r}, or a list of names")
    if BASE in names and len(names) > 1:
        raise ValueError(f"adapter_names[{row}] = {list(names)} names adapters beside {BASE!r}, which is none; choose")
    for name in names:
        if name not in (*known, BASE):
            raise ValueError(f"adapter_names[{row}] names {name!r}, and there are {[*known, BASE]}")
        if list(names).count(name) > 1:
            raise ValueError(f"adapter_names[{row}] = {list(names)} names {name!r} twice; name it once")
    return tuple(name for name in known if name in names)


def present(rows: Sequence[tuple[str, ...]], adapters: Sequence[str]) -> np.ndarray:
    """Return which adapters each row goes through, (adapters, batch), 1 or 0."""
    return np.array([[name in names for names in rows] for name in adapters], dtype=np.float32)


def gathered(states: np.ndarray, positions: np.ndarray | None) -> np.ndarray:
    """Return states (batch, sequence, hidden) at positions (batch, n), those below 0 at 0; None for all of them.

    Raises:
        ValueError: a position lies outside the sequence.
    """
    if positions is None:
        return states
    check_positions(positions, states.shape[1])
    return np.take_along_axis(states, np.maximum(positions, 0)[..., None], axis=1)


def check_positions(positions: np.ndarray, tokens: int) -> None:
    """Raise ValueError for a position outside the tokens of a batch."""
    if positions.size and int(positions.max()) >= tokens:
        raise ValueError(f"position {int(positions.max())} lies outside the {tokens} tokens of the batch; was it cut?")


def spread(states: np.ndarray, rows: np.ndarray, batch: int, fill: float) -> np.ndarray:
    """Return states (rows, ...) in their places in the batch, with `fill` in all other rows."""
    if len(rows) == batch:
        return states
    whole = np.full((batch, *states.shape[1:]), fill, dtype=states.dtype)
    whole[rows] = states
    return whole
