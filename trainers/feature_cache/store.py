"""A store of what frozen models make of examples: each example is encoded once, whatever is trained on it.

Pre-training keeps the hidden states that adapters tap, of every token; tasks keep what a head reads, at few positions.
Examples are identified by what the model reads of them, so those that a change of corpus, tokenizer or length leaves
unchanged are found again. The folder's name stands for everything else that the states depend on: the backbone, the
layers or the adapter, the precision, the versions.
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

HEADER = 1000  # maximum bytes of a shard in addition to its examples
SHARD_BYTES = 32 * 2**20  # the most that waits in memory, and that is computed again after a kill
CONTIGUOUS = torch.contiguous_format
STALE_AFTER_SECONDS = 24 * 3600  # age at which incomplete shards are removed


class Examples(NamedTuple):
    """The sorted keys of distinct examples, their lengths in tokens, and their priority when room is short.

    Where the number of states of an example is known only when it is encoded, the length is 0.
    """

    keys: np.ndarray
    lengths: np.ndarray
    priority: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, lengths: np.ndarray) -> tuple[Examples, np.ndarray]:
        """Return the distinct examples of a corpus, and for each example of the corpus its index among them."""
        keys, first, indices = np.unique(keys, return_index=True, return_inverse=True)
        return cls(keys, np.asarray(lengths)[first], np.argsort(first)), indices.astype(np.int32)


class FeatureStore:
    """The states of a run's examples by index: in shards on disk, waiting in memory to be written, or absent.

    Shards are verified when they are opened; a damaged one is removed, reported, and computed again. If a shard can't
    be written, this is reported, and no more are written.

    Args:
        folder: directory of the shards, of this run and of others with the same backbone and layers.
        layout: what is kept of a token.
        examples: the examples of the run.
        room: returns how many bytes new shards may still take.
        log: prints messages; None prints nothing.
        again: what happens to the examples of a damaged shard, in its message.
    """

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        examples: Examples,
        room: Callable[[], float] = lambda: np.inf,
        log: Callable[[str], None] | None = print,
        again: str = "computed",
    ) -> None:
        self.folder, self.layout, self.examples, self.log = folder, layout, examples, log or (lambda message: None)
        self.room, self.again = room, again
        self.shards: list[Shard] = []
        self.opened: set[str] = set()
        self.shard = np.full(len(examples.keys), -1, np.int32)  # the shard of each example, and its index there
        self.index_in_shard = np.zeros(len(examples.keys), np.int32)
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
        """Return the indices of the examples that are to be kept and are not on disk."""
        return np.flatnonzero(self.wanted & (self.shard < 0))

    def complete(self) -> bool:
        """Return whether every example is on disk, so that the backbone is not needed."""
        return bool((self.shard >= 0).all())

    def has(self, indices: Sequence[int]) -> np.ndarray:
        """Return for each index whether its states are on disk."""
        return self.shard[indices] >= 0

    def stored(self, index: int) -> dict[str, Tensor]:
        """Return the stored tensors of an example that is on disk, (tokens, layers, ...) each."""
        return self.shards[self.shard[index]].example(self.index_in_shard[index])

    def get(self, indices: Sequence[int], length: int, pinned: bool = False) -> tuple[Tensor, np.ndarray]:
        """Return states (layers, batch, length, width), and which of them are on disk; the others are zeros.

        `pinned` memory can be copied to a GPU while it computes. Another thread may call this while shards are added.
        """
        shape = (len(self.layout.layers), len(indices), length, self.layout.width)
        states, there = torch.zeros(shape, dtype=self.layout.read, pin_memory=pinned), self.has(indices)
        for number in np.flatnonzero(there):
            example = self.layout.decode(self.layout.chosen(self.stored(indices[int(number)])))
            states[:, number, : len(example)] = example.transpose(0, 1)
        return states, there

    def put(self, indices: Sequence[int], states: Tensor, lengths: Sequence[int]) -> Tensor:
        """Keep states (layers, batch, length, width), and return what `get` will make of them.

        Training sees the same numbers before and after they were stored, even if the stored dtype loses precision.
        """
        stored = self.layout.encode(states)
        on_host = {name: tensor.cpu() for name, tensor in stored.items()}
        for number, (index, length) in enumerate(zip(indices, lengths, strict=True)):
            if self.writing and self.wanted[index] and self.shard[index] < 0:
                example = {name: tensor[:, number, :length].transpose(0, 1) for name, tensor in on_host.items()}
                copies = {name: tensor.clone(memory_format=CONTIGUOUS) for name, tensor in example.items()}
                self.waiting[index] = copies
        if sum(tensor.nbytes for example in self.waiting.values() for tensor in example.values()) >= SHARD_BYTES:
            self.flush()
        return self.layout.decode(stored)

    def flush(self) -> None:
        """Write the waiting examples, except those that others have written in the meantime."""
        if not self.waiting:
            return
        self.refresh()
        left = {index: example for index, example in self.waiting.items() if self.shard[index] < 0}
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
        """Stop keeping states, and report why."""
        self.writing, self.waiting = False, {}
        self.log(
            f"features: nothing more can be kept in {str(self.folder)!r}, and the backbone computes what is not "
            f"there: {reason}"
        )

    def refresh(self) -> None:
        """Open the shards that were added since the last call."""
        for path in sorted(self.folder.glob(PATTERN)):
            if path.name not in self.opened:
                self._open(path)

    def _open(self, path: Path) -> None:
        self.opened.add(path.name)
        try:
            shard = read_shard(path, self.layout)
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError):  # another process removed and reported it
                self.log(f"features: shard {str(path)!r} is not used: {error}; its examples are {self.again} again")
            if isinstance(error, ValueError):
                with suppress(OSError):
                    path.unlink()
            return
        self._index(shard)

    def _index(self, shard: Shard) -> None:
        """Record which of our examples a shard holds."""
        indices = np.searchsorted(self.examples.keys, shard.keys)
        ours = indices < len(self.examples.keys)
        ours[ours] = self.examples.keys[indices[ours]] == shard.keys[ours]
        ours[ours] = self.shard[indices[ours]] < 0  # another thread may be reading the examples that we have
        if ours.any():
            self.shards.append(shard)
            self.index_in_shard[indices[ours]] = np.flatnonzero(ours)
            self.shard[indices[ours]] = len(self.shards) - 1

    def _sweep(self) -> None:
        """Remove old files that a kill left incomplete."""
        for path in self.folder.glob(".*.partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_AFTER_SECONDS:
                    path.unlink()
