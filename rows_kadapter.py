"""Mixed batches: which adapters each row of a batch goes through, and the same bits however many rows go with it.

And batches that several heads read: what they share runs once.

Dimensions: B batch, S sequence, n positions, D width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .configuration_kadapter import BASE

__all__ = ["Linear", "RowAdapters", "RowsOfLayer", "run_adapter", "sharing_runs"]

FEWEST = 16  # states below which a CPU multiplies in another order, so that the last bits depend on their number


@dataclass(frozen=True)
class RowAdapters:
    """The adapters that each row of a batch goes through.

    Args:
        names: of each row, in the order in which adapters were added to the model.
    """

    names: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, adapter_names: Any, batch: int, known: Sequence[str]) -> RowAdapters:
        """Return what PEFT's keyword says: of each row a name, "__base__" for none, or a list of names.

        Raises:
            TypeError: it is no list, or an entry is neither a name nor a list of names.
            ValueError: there are more or fewer entries than rows, or a row names an unknown adapter or one twice.
        """
        if isinstance(adapter_names, RowAdapters):
            adapter_names = adapter_names.names
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
        return cls(tuple(_names_of(row, entry, known) for row, entry in enumerate(adapter_names)))

    def repeated(self, number: int) -> RowAdapters:
        """Return the same where each row is there so many times, one after another."""
        return RowAdapters(tuple(names for names in self.names for _ in range(number)))

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """The rows of each adapter."""
        used = dict.fromkeys(name for names in self.names for name in names)
        return {name: [row for row, names in enumerate(self.names) if name in names] for name in used}

    @cached_property
    def groups(self) -> dict[tuple[str, ...], list[int]]:
        """The rows that go through the same adapters."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for row, names in enumerate(self.names):
            groups.setdefault(names, []).append(row)
        return groups

    def select(self, tensor: Any, rows: Sequence[int]) -> Any:
        """Return these rows of a tensor, which is itself where they are all; None stays None."""
        if tensor is None or len(rows) == len(self.names):
            return tensor
        return tensor.index_select(0, torch.tensor(rows, device=tensor.device))

    def spread(self, states: Tensor, rows: Sequence[int]) -> Tensor:
        """Return the states (rows, ...) of these rows in their places in the batch, and NaN in all others.

        NaN, since there is nothing: zeros could be taken for an answer.
        """
        if len(rows) == len(self.names):
            return states
        whole = states.new_full((len(self.names), *states.shape[1:]), math.nan)
        return whole.index_copy_(0, torch.tensor(rows, device=states.device), states)

    def joined(self, states: Sequence[Tensor], device: torch.device) -> Tensor:
        """Return the states of all groups, in their order, as those of the batch."""
        if len(states) == 1:
            return states[0]
        order = torch.tensor([row for rows in self.groups.values() for row in rows], device=device).argsort()
        return torch.cat([own.to(device) for own in states]).index_select(0, order)

    @contextmanager
    def only(self, rows: Sequence[int]) -> Iterator[None]:
        """Let `Linear` know, in a block, of which rows of the batch its states are."""
        token = SELECTED.set(None if len(rows) == len(self.names) else (len(self.names), rows))
        try:
            yield
        finally:
            SELECTED.reset(token)


def _names_of(row: int, entry: Any, known: Sequence[str]) -> tuple[str, ...]:
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


SELECTED: ContextVar[tuple[int, Sequence[int]] | None] = ContextVar("SELECTED", default=None)  # of each thread its own


class Linear(nn.Linear):
    """torch's Linear, which draws no weights where others are about to take their place.

    Some rows of a batch become the same bits as in the whole batch: fewer than 16 states are multiplied in their
    places in it, on a CPU and not in training.
    """

    def reset_parameters(self) -> None:
        """Draw new weights, unless they have no memory: on the meta device too that takes longer than a load."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, states: Tensor) -> Tensor:
        """Map (rows, ..., in) to (rows, ..., out)."""
        selected = None if torch.compiler.is_compiling() else SELECTED.get()
        few = states.shape[:-1].numel() < FEWEST
        if selected is None or self.training or not few or states.device.type != "cpu":
            return super().forward(states)
        batch, rows = selected
        index = torch.tensor(rows)
        whole = states.new_zeros(batch, *states.shape[1:]).index_copy_(0, index, states)
        return super().forward(whole).index_select(0, index)


class RowsOfLayer:
    """Some rows of a layer of a cache, which has all rows of the batch: so it can be reordered like all others."""

    def __init__(self, layer: Any, row_adapters: RowAdapters, rows: Sequence[int]) -> None:
        self.layer, self.row_adapters, self.rows = layer, row_adapters, rows

    def get_seq_length(self) -> int:
        """Return how many tokens it holds."""
        return self.layer.get_seq_length()

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (rows, heads, S, width), and return all there are of these rows."""
        both = self.layer.update(*(self.row_adapters.spread(own, self.rows) for own in (keys, values)))
        keys, values = (self.row_adapters.select(own, self.rows) for own in both)
        return keys, values


# ---- a batch that several heads read --------------------------------------------------------------------------------


# What each adapter that several heads have made of a batch, by the positions that were read; of each thread its own.
RUNS: ContextVar[dict[int, dict[tuple, Tensor]] | None] = ContextVar("RUNS", default=None)


@contextmanager
def sharing_runs(adapters: Sequence[Any]) -> Iterator[None]:
    """Let several heads read the same hidden states in a block, and run once those of their adapters that recur."""
    times = Counter(map(id, adapters))
    token = RUNS.set({adapter: {} for adapter, number in times.items() if number > 1})
    try:
        yield
    finally:
        RUNS.reset(token)


def run_adapter(
    adapter: Any, read: Sequence[Tensor], attention_mask: Tensor | None, at: Tensor | None, chosen: dict[str, Any]
) -> Tensor:
    """Return what an adapter makes of hidden states, or made of them for another head that reads the same positions.

    Other positions are another run, since fewer states can be multiplied in another order.
    """
    runs = None if torch.compiler.is_compiling() else (RUNS.get() or {}).get(id(adapter))
    if runs is None:
        return adapter(read, attention_mask, at, **chosen)
    key = (None if at is None else (*at.shape, *at.flatten().tolist()), *chosen)
    if key not in runs:
        runs[key] = adapter(read, attention_mask, at, **chosen)
    return runs[key]
