"""A cache of the hidden states that adapters tap: the backbone reads every sentence once, whatever is trained on it.

Examples are known by their token ids, so what a changed corpus, tokenizer or length leaves as it was is found again.
The folder's name stands for all else that the states depend on: the backbone, the layers, the precision, the versions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .shards import PATTERN, Layout, Shard, read_shard, write_shard

__all__ = ["Examples", "FeatureStore"]

HEADER = 1000  # bytes of a shard, at most, beside its examples
SHARD_BYTES = 32 * 2**20  # what a kill costs at most to compute again, and what waits in memory
CONTIGUOUS = torch.contiguous_format
STALE_AFTER_SECONDS = 24 * 3600  # seconds after which a shard that was never completed is swept away


class Examples(NamedTuple):
    """The keys of different examples, sorted, with their lengths in tokens and their turn where room is short."""

    keys: np.ndarray
    lengths: np.ndarray
    priority: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, lengths: np.ndarray) -> tuple[Examples, np.ndarray]:
        """Return the different examples of a corpus, and for each example of it its place among them."""
        keys, first, places = np.unique(keys, return_index=True, return_inverse=True)
        return cls(keys, np.asarray(lengths)[first], np.argsort(first)), places.astype(np.int32)


class FeatureStore:
    """The states of a run's examples, each at its place: in shards on disk, in what waits to be written, or nowhere.

    Shards are verified as they are opened; one that is damaged is removed, told, and computed again. A shard that
    can't be written is told, and no more are.

    Args:
        folder: where the shards are, this run's and those of others with the same backbone and layers.
        layout: what is kept of a token.
        examples: the examples that there are.
        room: says how many bytes new shards may still take.
        log: what is told in sentences; None for nothing.
    """

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        examples: Examples,
        room: Callable[[], float] = lambda: np.inf,
        log: Callable[[str], None] | None = print,
    ) -> None:
        self.folder, self.layout, self.examples, self.log = folder, layout, examples, log or (lambda sentence: None)
        self.room = room
        self.shards: list[Shard] = []
        self.opened: set[str] = set()
        self.shard = np.full(len(examples.keys), -1, np.int32)  # which holds the example at each place
        self.row = np.zeros(len(examples.keys), np.int32)
        self.waiting: dict[int, dict[str, Tensor]] = {}
        self.writing = True
        self._sweep()
        self.refresh()
        needed = np.where(self.shard < 0, self.bytes_of(), 0)[examples.priority].cumsum()
        needed += HEADER * (2 + needed // SHARD_BYTES)
        self.wanted = self.shard >= 0
        self.wanted[examples.priority] |= needed <= room()

    def bytes_of(self) -> np.ndarray:
        """Return the bytes that each example takes."""
        return self.layout.bytes_of(self.examples.lengths)

    def missing(self) -> np.ndarray:
        """Return the places of the examples that are to be kept and are not on disk."""
        return np.flatnonzero(self.wanted & (self.shard < 0))

    def complete(self) -> bool:
        """Return whether every example is on disk, so that the backbone is not needed."""
        return bool((self.shard >= 0).all())

    def has(self, places: Sequence[int]) -> np.ndarray:
        """Return for each place whether its states are on disk."""
        return self.shard[places] >= 0

    def get(self, places: Sequence[int], length: int, pinned: bool = False) -> tuple[Tensor, np.ndarray]:
        """Return states (layers, batch, length, width) and which are on disk; others are zeros, as padding is.

        `pinned` memory can be copied to a GPU while it computes. Another thread may call this while shards come.
        """
        shape = (len(self.layout.layers), len(places), length, self.layout.width)
        states, there = torch.zeros(shape, dtype=self.layout.read, pin_memory=pinned), self.has(places)
        for number in np.flatnonzero(there):
            place = places[number]
            one = self.layout.decode(self.shards[self.shard[place]].example(self.row[place]))
            states[:, number, : len(one)] = one.transpose(0, 1)
        return states, there

    def put(self, places: Sequence[int], states: Tensor, lengths: Sequence[int]) -> Tensor:
        """Keep states (layers, batch, length, width), and return what `get` will make of them.

        Training sees the same numbers before and after they were stored, whatever is lost by their dtype.
        """
        stored = self.layout.encode(states)
        kept = {name: one.cpu() for name, one in stored.items()}
        for number, (place, length) in enumerate(zip(places, lengths, strict=True)):
            if self.writing and self.wanted[place] and self.shard[place] < 0:
                example = {name: one[:, number, :length].transpose(0, 1) for name, one in kept.items()}
                self.waiting[place] = {name: one.clone(memory_format=CONTIGUOUS) for name, one in example.items()}
        if sum(one.nbytes for example in self.waiting.values() for one in example.values()) >= SHARD_BYTES:
            self.flush()
        return self.layout.decode(stored)

    def flush(self) -> None:
        """Write what waits, but for what others have written by now."""
        if not self.waiting:
            return
        self.refresh()
        left = {place: example for place, example in self.waiting.items() if self.shard[place] < 0}
        self.waiting = {}
        if not left:
            return
        try:
            path = write_shard(self.folder, self.examples.keys[[*left]], [*left.values()], self.room)
        except OSError as error:
            self.stop(f"{error}; free some space for the next run")
            return
        if path is None:
            self.stop("others have taken the room; raise --cache_budget for the next run")
        else:
            self._open(path)

    def stop(self, reason: str) -> None:
        """Keep nothing more, and log why."""
        self.writing, self.waiting = False, {}
        self.log(
            f"features: nothing more can be kept in {str(self.folder)!r}, and the backbone computes what is not "
            f"there: {reason}"
        )

    def refresh(self) -> None:
        """Open the shards that have come since the last time."""
        for path in sorted(self.folder.glob(PATTERN)):
            if path.name not in self.opened:
                self._open(path)

    def _open(self, path: Path) -> None:
        self.opened.add(path.name)
        try:
            shard = read_shard(path, self.layout)
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError):  # removed by another process, which told it
                self.log(f"features: shard {str(path)!r} is not used: {error}; its examples are computed again")
            if isinstance(error, ValueError):
                with suppress(OSError):
                    path.unlink()
            return
        self._take(shard)

    def _take(self, shard: Shard) -> None:
        """Note which of our examples a shard holds."""
        places = np.searchsorted(self.examples.keys, shard.keys)
        known = places < len(self.examples.keys)
        known[known] = self.examples.keys[places[known]] == shard.keys[known]
        known[known] = self.examples.lengths[places[known]] == np.diff(shard.starts)[known]
        known[known] = self.shard[places[known]] < 0  # what is there stays where another thread may be looking
        if known.any():
            self.shards.append(shard)
            self.row[places[known]] = np.flatnonzero(known)
            self.shard[places[known]] = len(self.shards) - 1

    def _sweep(self) -> None:
        """Remove what kills left half written."""
        for path in self.folder.glob(".*.partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_AFTER_SECONDS:
                    path.unlink()
