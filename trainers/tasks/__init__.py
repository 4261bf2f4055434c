"""Downstream tasks: one task, one file, found by its name.

A file holds one class `Task`: what a record becomes for the model, which head answers it, what the answer is and by
which metric it is judged. Its docstring says the command, the published number and ours.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
from datasets import Dataset
from torch import Tensor

from ... import discovery
from ...configuration_kadapter import KAdapterConfig

__all__ = ["Task", "available", "load"]


class Task(Protocol):
    """What every task file provides.

    Attributes:
        record_type: kind of corpus record, as data_builders name it.
        corpus: name of the corpus, if none is asked for.
        model_class: head model.
        tag: the Hub's name for tasks of this kind.
        metric: name of the module in metrics/, and `headline` the result of it by which runs are compared.
        reads_all_tokens: whether the head reads every token, so that its states are too many to keep.
        padding: columns of an encoded example and their padding values, a float for columns of floats.
        settings: keyword arguments of the metric, plain values; known after `learn` or `recall`.
    """

    record_type: str
    corpus: str
    model_class: type
    tag: str
    metric: str
    headline: str
    reads_all_tokens: ClassVar[bool]
    padding: dict[str, int | float]
    settings: dict[str, Any]

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None: ...

    def select(self, train: Dataset) -> Dataset:
        """Return the training records that the task's protocol uses."""

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Learn from training records what the head must know, as fields of `KAdapterConfig`."""

    def recall(self, config: KAdapterConfig) -> None:
        """Take from a trained model's configuration what `learn` put there.

        Raises:
            ValueError: the model was trained for something else.
        """

    def strata(self, rows: Dataset) -> list[str]:
        """Return for each record the group of which every fraction of the training records has its share."""

    def encode(self, rows: dict[str, list], training: bool = False, labelled: bool = True) -> dict[str, list]:
        """Turn a batch of records into examples, with columns `record` (its place in the batch) and `truncated`.

        Records that do not fit are left out. Without `labelled` there is no column of labels.

        Raises:
            ValueError: a record is unfit or has an unknown label; the sentence names it.
        """

    def left_out(self, rows: Dataset) -> list[str]:
        """Return what of the records the task did not read, besides what examples tell; a sentence each."""

    def judge(self, output: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return for each example what it is decided by (batch, n), and its loss (batch,), NaN where it has none."""

    def answers(self, decided: np.ndarray, rows: Dataset) -> list[tuple[Any, Any]]:
        """Return (prediction, scores) of each record from what `judge` decided it by."""

    def gold(self, rows: Dataset) -> list[Any]:
        """Return the gold answer of each record, in the metric's form."""

    def wrong(self, gold: Any) -> Any:
        """Return the prediction for a record that can't be encoded: one that the metric counts as wrong."""


def available() -> list[str]:
    """Return the names of all tasks."""
    return discovery.available(__name__)


def load(name: str) -> type[Task]:
    """Return the task of that name.

    Raises:
        ValueError: there is no such file.
    """
    return discovery.find(__name__, "task", name).Task
