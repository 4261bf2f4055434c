"""The encoded examples of several objectives, and batches that are each of one objective."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import ConcatDataset, Sampler

from ..common.collator import PadToBatch
from ..common.encoding import column
from ..common.sampler import GlobalBatchSampler

__all__ = ["Labelled", "MixedExamples", "MixedSampler", "PadToObjective"]

OBJECTIVE = "objective"  # names the objective of a batch


class MixedExamples(ConcatDataset):
    """The encoded examples of all objectives, each with the name of its own."""

    def __init__(self, examples: dict[str, Dataset]) -> None:
        super().__init__([Labelled(name, one) for name, one in examples.items()])
        self.lengths = [column(one, "length") for one in examples.values()]


class Labelled(torch.utils.data.Dataset):
    """The encoded examples of one objective, each with its name."""

    def __init__(self, objective: str, examples: Dataset) -> None:
        self.objective, self.examples = objective, examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.examples[index], OBJECTIVE: self.objective}

    def column(self, name: str) -> Any:
        """Return a column of scalars as an array."""
        return column(self.examples, name)


class PadToObjective:
    """Pad the examples of one batch, which are of one objective, by its own padding values."""

    def __init__(self, objectives: dict[str, Any]) -> None:
        self.collators = {name: PadToBatch(one.padding) for name, one in objectives.items()}

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return one tensor for each column, and the objective's name."""
        name = examples[0][OBJECTIVE]
        return {**self.collators[name](examples), OBJECTIVE: name}


class MixedSampler(Sampler[int]):
    """Global batches, each of one objective, spread evenly over the epoch: of two equal corpora they alternate.

    Args:
        samplers: the order of each objective's examples.
        starts: where the examples of each objective begin.
    """

    def __init__(self, samplers: Sequence[GlobalBatchSampler], starts: Sequence[int]) -> None:
        self.samplers, self.starts = samplers, starts

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn."""
        for one in self.samplers:
            one.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(map(len, self.samplers))

    def __iter__(self) -> Iterator[int]:
        batches = []
        for place, (sampler, start) in enumerate(zip(self.samplers, self.starts, strict=True)):
            size, order = sampler.batch_size, [start + one for one in sampler]
            number = len(order) // size
            batches += [((n + 0.5) / number, place, order[n * size : (n + 1) * size]) for n in range(number)]
        return iter([one for *_, batch in sorted(batches) for one in batch])
