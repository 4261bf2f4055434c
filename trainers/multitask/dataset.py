"""The encoded examples of several objectives, and batches that each belong to one objective."""

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

OBJECTIVE = "objective"  # the column with the name of a batch's objective


class MixedExamples(ConcatDataset):
    """The encoded examples of all objectives, each with the name of its objective."""

    def __init__(self, examples: dict[str, Dataset]) -> None:
        self.labelled = [Labelled(name, encoded) for name, encoded in examples.items()]
        super().__init__(self.labelled)
        self.lengths = [column(encoded, "length") for encoded in examples.values()]


class Labelled(torch.utils.data.Dataset):
    """The encoded examples of one objective, each with the name of the objective."""

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
    """Pad the examples of a batch with the padding values of its objective."""

    def __init__(self, objectives: dict[str, Any]) -> None:
        self.collators = {name: PadToBatch(objective.padding) for name, objective in objectives.items()}

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return one tensor for each column, and the objective's name."""
        name = examples[0][OBJECTIVE]
        return {**self.collators[name](examples), OBJECTIVE: name}


class MixedSampler(Sampler[int]):
    """Global batches of one objective each, spread evenly over the epoch: those of two equal corpora alternate.

    Args:
        samplers: the order of each objective's examples.
        starts: the index of each objective's first example.
    """

    def __init__(self, samplers: Sequence[GlobalBatchSampler], starts: Sequence[int]) -> None:
        self.samplers, self.starts = samplers, starts

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is drawn."""
        for sampler in self.samplers:
            sampler.set_epoch(epoch)

    def __len__(self) -> int:
        return sum(map(len, self.samplers))

    def __iter__(self) -> Iterator[int]:
        batches = []
        for objective, (sampler, start) in enumerate(zip(self.samplers, self.starts, strict=True)):
            size, order = sampler.batch_size, [start + index for index in sampler]
            number = len(order) // size
            batches += [((n + 0.5) / number, objective, order[n * size : (n + 1) * size]) for n in range(number)]
        return iter([index for *_, batch in sorted(batches) for index in batch])
