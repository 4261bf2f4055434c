"""Base class of all tasks, and helpers for those whose answers are classes or choices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from ...configuration_kadapter import KAdapterConfig
from ..common.knowledge import COLUMNS, Knowledge

__all__ = ["BaseTask", "check_labels", "numbered", "probabilities"]


def numbered(names: Iterable[str]) -> dict[str, Any]:
    """Return names, in order, as the label fields of a configuration."""
    label2id = {name: number for number, name in enumerate(names)}
    return {"id2label": {number: name for name, number in label2id.items()}, "label2id": label2id}


def check_labels(what: str, records: Sequence[str], labels: Sequence[Iterable[str]], known: Iterable[str]) -> None:
    """Refuse labels that the model does not know.

    Raises:
        ValueError: there is one; the message names record, label and remedy.
    """
    for record, names in zip(records, labels, strict=True):
        for name in names:
            if name not in known:
                raise ValueError(
                    f"record {record!r} has the {what} {name!r}, which no training record has and the model does not "
                    "know; remove the record, or add training records of it"
                )


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the softmax of each row, rounded for a file."""
    return torch.as_tensor(logits).double().softmax(dim=-1).numpy().round(6)


class BaseTask:
    """A task that trains on all records, cuts records to fit, and chooses one of several classes or choices."""

    reads_all_tokens = False
    id_columns: ClassVar[tuple[str, ...]] = ()  # the ids of the entities of mentions, where it puts them into texts
    ids_are_rows: ClassVar[bool] = False  # whether ids of digits are rows of the table
    knowledge: Knowledge | None = None
    padding: dict[str, int | float]
    label2id: dict[str, int]
    settings: dict[str, Any]

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.label2id, self.settings = {}, {}

    def use(self, knowledge: Knowledge) -> None:
        """Put the entities of a table beside the mentions of all records that are encoded from now on."""
        self.knowledge, self.padding = knowledge, {**self.padding, **COLUMNS}

    def complete(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Look up the entities of a batch, if there are any."""
        return batch if self.knowledge is None else self.knowledge.complete(batch)

    def records(self, split: str, rows: Dataset, labelled: bool = True) -> tuple[Dataset, list[str]]:
        """Return the records of a split as they are."""
        return rows, []

    def select(self, train: Dataset) -> Dataset:
        """Return all training records."""
        return train

    def recall(self, config: KAdapterConfig) -> None:
        """Take the numbered labels from a trained model."""
        label2id: Any = config.label2id
        self.label2id = dict(label2id)

    def left_out(self, rows: Dataset) -> list[str]:
        """Return nothing: records that do not fit are counted by their missing examples."""
        return []

    def judge(self, output: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the logits (batch, classes) and the loss of each example."""
        logits, labels = output.logits.float(), batch.get("labels")
        if labels is None:
            return logits, None
        return logits, F.cross_entropy(logits, labels.to(logits.device), reduction="none")

    def wrong(self, gold: Any) -> Any:
        """Return no answer."""
        return ""
