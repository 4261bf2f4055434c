"""One encoder under the heads of several pre-training objectives, and the order in which it learns them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import ConcatDataset, Sampler
from transformers import EvalPrediction

from .collators import PadToBatch
from .examples import column
from .lean_trainer import LeanTrainer
from .sampling import GlobalBatchSampler
from .trainer import InOrder, measured

__all__ = ["Labelled", "MixedExamples", "MultitaskModel", "MultitaskTrainer", "PadToObjective"]

OBJECTIVE = "objective"  # names the objective of a batch


class MultitaskModel(nn.Module):
    """An encoder that trains as a whole, with a head for each objective.

    Args:
        models: for each objective a head model without adapters; all stand on one encoder.
    """

    def __init__(self, models: dict[str, Any]) -> None:
        super().__init__()
        self.backbone = next(iter(models.values())).base_model.backbone
        self.models = nn.ModuleDict(models)
        self.requires_grad_(True)

    def forward(self, objective: str, labels: Any = None, **inputs: Any) -> Any:
        """Return what the head model of that objective does."""
        return self.models[objective](labels=labels, **inputs)


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


class MultitaskTrainer(LeanTrainer):
    """A trainer whose batches are each of one objective, and which measures each objective on its own.

    `objective` is a dict of objectives by name, `train_dataset` a `MixedExamples`, `eval_dataset` a dict of
    `Labelled`.
    """

    evaluated: Labelled

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        args, examples = self.args, self.train_dataset
        size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        for one in examples.datasets:
            if len(one) < size:
                raise ValueError(
                    f"the objective {one.objective!r} has {len(one)} training examples, fewer than the {size} of one "
                    "step; lower --per_device_train_batch_size or --gradient_accumulation_steps"
                )
        grouped, seed = args.train_sampling_strategy == "group_by_length", args.data_seed
        seed = args.seed if seed is None else seed
        samplers = [GlobalBatchSampler(lengths, size, grouped, seed) for lengths in examples.lengths]
        self.order = MixedSampler(samplers, [0, *examples.cumulative_sizes[:-1]])
        return self.order

    def _get_eval_sampler(self, eval_dataset: Labelled) -> Sampler[int]:
        self.evaluated = eval_dataset
        return InOrder((-eval_dataset.column("length")).argsort(kind="stable").tolist())

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the results of the objective that was evaluated, and its mean loss over all labels."""
        return measured(self.objective[self.evaluated.objective], prediction, self.evaluated.examples)
