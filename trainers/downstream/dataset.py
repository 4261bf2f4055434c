"""The records of a downstream run: the splits, encoded once, and the share that a trial trains on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from ..common.encoding import build_corpus, column, encode, sample
from .arguments import TaskCorpusArguments, TaskRunArguments

__all__ = ["Split", "draw_fraction", "encoded", "load_task_splits", "print_left_out"]


@dataclass
class Split(torch.utils.data.Dataset):
    """Records, their encoded examples, and the states of the examples if these are kept.

    Args:
        rows: all records, including those that could not be encoded.
        examples: encoded examples; their column `record` is the index in `rows`.
        indices: the examples in use, as indices in `examples`.
        states: the states of each source of a head's features, (examples, n, hidden).
        columns: the columns that a head needs in addition to states.
    """

    rows: datasets.Dataset
    examples: datasets.Dataset
    indices: np.ndarray
    states: dict[str, Tensor] | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: datasets.Dataset, examples: datasets.Dataset) -> Split:
        """Return a split with all its examples in use."""
        return cls(rows, examples, np.arange(len(examples)))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = int(self.indices[index])
        if self.states is None:
            return self.examples[number]
        values = {name: column[number] for name, column in self.columns.items()}
        return {**values, "states": {name: states[number] for name, states in self.states.items()}}

    def column(self, name: str) -> np.ndarray:
        """Return a column of scalars of the examples in use."""
        return column(self.examples, name)[self.indices]

    def with_states(self, states: dict[str, Tensor], columns: Sequence[str]) -> Split:
        """Return the split with kept states instead of token ids."""
        columns = [name for name in columns if name != "input_ids" and name in self.examples.column_names]
        return replace(self, states=states, columns={name: column(self.examples, name) for name in columns})

    def encoded_rows(self) -> datasets.Dataset:
        """Return the records of the examples in use, in their order."""
        return self.rows.select(self.column("record"))


def load_task_splits(
    corpus: TaskCorpusArguments, run: TaskRunArguments, evaluate: bool, verbose: bool
) -> dict[str, datasets.Dataset]:
    """Build the corpus and return the splits that the run needs, by their own names.

    Raises:
        ValueError: the corpus is malformed, or has no split that is needed.
    """
    needed = {"train": "--do_train"} if run.do_train else {}
    if run.do_train and run.eval_strategy != "no":
        needed["validation"] = "--eval_strategy"
    if evaluate:
        needed[corpus.eval_split] = f"--eval_split {corpus.eval_split}"
    options = {"fold": corpus.fold, "exclude": _named(corpus.exclude)}
    splits = build_corpus(corpus, verbose, **options) if needed else {}
    for split, flag in needed.items():
        if split not in splits:
            raise ValueError(
                f"{corpus.data_dir!r} has the splits {sorted(splits)}, and {flag} needs {split!r}, which is missing "
                "or empty; add its file or choose other flags"
            )
    return {split: splits[split] for split in needed}


def _named(exclude: Sequence[str]) -> dict[str, str]:
    for pair in exclude:
        if "=" not in pair:
            raise ValueError(f"--exclude {pair!r} must be CORPUS=DIR, such as fewrel=DIR")
    return dict(pair.split("=", 1) for pair in exclude)


def encoded(split: str, rows: datasets.Dataset, task: Any, corpus: TaskCorpusArguments, verbose: bool) -> Split:
    """Encode a split, or a sample of it if the flags limit it, and print what did not fit.

    Raises:
        ValueError: no record fits, or a record is malformed or has an unknown label.
    """
    limit = corpus.max_train_samples if split == "train" else corpus.max_eval_samples
    rows = sample(rows, limit)
    examples = encode(split, rows, task, corpus, verbose)
    print_left_out(split, rows, task, verbose)
    lost = len(rows) - len(examples)
    if verbose and lost and split != "train":
        print(f"{split}: {lost} records do not fit into --max_length {corpus.max_length} and count as wrong")
    return Split.of(rows, examples)


def print_left_out(split: str, rows: datasets.Dataset, task: Any, verbose: bool) -> None:
    """Print which contents of the records the task did not read."""
    for message in task.left_out(rows) if verbose else ():
        print(f"{split}: {message}")


def draw_fraction(split: Split, strata: Sequence[str], fraction: float, seed: int) -> Split:
    """Draw a share of the examples in use by the seed: the same share of each stratum, but at least one example.

    A smaller fraction is a subset of a larger one of the same seed.
    """
    if fraction >= 1:
        return split
    groups = defaultdict(list)
    for index, record in zip(split.indices, split.column("record"), strict=True):
        groups[strata[record]].append(index)
    drawn: list[int] = []
    for number, name in enumerate(sorted(groups)):
        order = np.random.default_rng([seed, number]).permutation(groups[name])
        drawn.extend(order[: max(1, round(fraction * len(order)))])
    return replace(split, indices=np.sort(np.asarray(drawn)))
