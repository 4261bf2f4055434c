"""The order of training examples, the same for one process and for many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

__all__ = ["GlobalBatchSampler", "InOrder"]

POOL = 50  # batches that are sorted by length together: enough for similar lengths, few enough to stay random


class GlobalBatchSampler(Sampler[int]):
    """Random order, cut into global batches (all processes and accumulation steps), of similar length if requested.

    Examples that do not fill a global batch are left out of that epoch; each epoch leaves out others. Consecutive
    examples of the order belong to one optimizer step, whatever the number of processes that share it.

    Args:
        lengths: length of each example in tokens.
        batch_size: number of examples in an optimizer step.
        group_by_length: whether a batch holds examples of similar length.
        seed: seed of the order, together with the epoch.
        in_order: whether every epoch takes the examples as they come, so that the last ones may be left out.
    """

    def __init__(
        self,
        lengths: Sequence[int] | np.ndarray,
        batch_size: int,
        group_by_length: bool,
        seed: int,
        in_order: bool = False,
    ) -> None:
        self.lengths = torch.as_tensor(lengths)
        self.batch_size, self.group_by_length, self.seed, self.epoch = batch_size, group_by_length, seed, 0
        self.in_order = in_order

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        number = len(self.lengths)
        return number - number % self.batch_size if number >= self.batch_size else number

    def __iter__(self) -> Iterator[int]:
        if self.in_order:
            return iter(range(len(self)))
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator)[: len(self)]
        if self.group_by_length and len(order) >= self.batch_size:
            pools = order.split(POOL * self.batch_size)
            order = torch.cat([pool[self.lengths[pool].argsort(descending=True, stable=True)] for pool in pools])
            batches = order.view(-1, self.batch_size)
            order = batches[torch.randperm(len(batches), generator=generator)].flatten()
        return iter(order.tolist())


class InOrder(Sampler[int]):
    """Indices in a given order."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = order

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Any:
        return iter(self.order)
