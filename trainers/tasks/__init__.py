"""Downstream tasks: one file each, found by name.

A file holds one class `Task`, which defines the encoding of a record, the head that answers it, the form of the answer
and the metric. Its docstring names the command, the published result and ours.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
from datasets import Dataset
from torch import Tensor

from ... import discovery
from ..common.encoding import ExampleEncoder
from ..common.knowledge import Knowledge

__all__ = ["Task", "available", "load"]


class Task(ExampleEncoder, Protocol):
    """The interface of every task, beyond what it shares with objectives.

    Attributes:
        corpus: name of the default corpus.
        tag: the Hub's name for such tasks.
        metric: name of the module in metrics/; `headline` is its result by which runs are compared.
        reads_all_tokens: whether the head reads every token, so that its states are too many to keep.
        settings: keyword arguments of the metric, plain values; known after `learn` or `recall`.
        id_columns: columns of the ids of mentions' entities, none for a task without linked mentions.
        ids_are_rows: whether ids of digits are rows of a table of entity embeddings.
        knowledge: the table of a knowledge map, and how its entities are put into texts; None without a map.
    """

    corpus: str
    tag: str
    metric: str
    headline: str
    reads_all_tokens: ClassVar[bool]
    settings: dict[str, Any]
    id_columns: ClassVar[tuple[str, ...]]
    ids_are_rows: ClassVar[bool]
    knowledge: Knowledge | None

    def use(self, knowledge: Knowledge) -> None:
        """Put the entities of a table beside the mentions of all records that are encoded from now on."""

    def complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return a padded batch with the entities' vectors."""

    def records(self, split: str, rows: Dataset, labelled: bool = True) -> tuple[Dataset, list[str]]:
        """Return the task's own records, made of a split's, and a sentence for each thing that became of these.

        Without `labelled` they are of a file to be predicted.

        Raises:
            ValueError: there are none, or too few.
        """

    def select(self, train: Dataset) -> Dataset:
        """Return the training records that the task's protocol uses."""

    def strata(self, rows: Dataset) -> list[str]:
        """Return the group of each record; every fraction of the training records has its share of each group."""

    def encode(self, rows: dict[str, list], training: bool = False, labelled: bool = True) -> dict[str, list]:
        """Encode a batch of records as examples, with the columns `record` and `truncated`.

        Records that do not fit are left out. Without `labelled` there is no column of labels.

        Raises:
            ValueError: a record is malformed or has an unknown label; the message names it.
        """

    def left_out(self, rows: Dataset) -> list[str]:
        """Describe in a sentence each what the task did not read, apart from records without an example."""

    def judge(self, output: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the values that decide each example (batch, n), and its loss (batch,), NaN if it has none."""

    def answers(self, decided: np.ndarray, rows: Dataset) -> list[tuple[Any, Any]]:
        """Return (prediction, scores) of each record from the values that `judge` returned."""

    def gold(self, rows: Dataset) -> list[Any]:
        """Return the gold answer of each record, in the metric's form."""

    def wrong(self, gold: Any) -> Any:
        """Return a prediction that the metric counts as wrong, for a record that can't be encoded."""


def available() -> list[str]:
    """Return the names of all tasks."""
    return discovery.available(__name__)


def load(name: str) -> type[Task]:
    """Return the task of that name.

    Raises:
        ValueError: there is no such file.
    """
    return discovery.find(__name__, "task", name).Task
