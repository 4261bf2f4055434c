"""Base class and helpers for tasks whose answer is one of several classes, known to the model by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from ...configuration_kadapter import KAdapterConfig
from ..common.labels import check_varied

__all__ = ["check_labels", "cross_entropies", "numbered", "probabilities"]


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


def cross_entropies(logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """Return the loss of each example, from logits (batch, classes) and labels (batch,)."""
    if labels is None:
        return None
    return F.cross_entropy(logits.float(), labels.to(logits.device), reduction="none")


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the softmax of each row, rounded for a file."""
    return torch.as_tensor(logits).double().softmax(dim=-1).numpy().round(6)


class ClassTask:
    """A task whose labels are the names that occur in training."""

    what: str  # what a label is called in messages
    column: str  # the column of a record that holds it
    settings: dict[str, Any]
    reads_all_tokens = False

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.label2id: dict[str, int] = {}
        self.settings = {}

    def select(self, train: Dataset) -> Dataset:
        """Return all training records."""
        return train

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Number the labels of the training records by name.

        Raises:
            ValueError: there is only one label.
        """
        check_varied(self.what, train.unique(self.column))
        fields = numbered(sorted(train.unique(self.column)))
        self.label2id = fields["label2id"]
        return fields

    def recall(self, config: KAdapterConfig) -> None:
        """Take the numbered labels from a trained model."""
        label2id: Any = config.label2id
        self.label2id = dict(label2id)

    def strata(self, rows: Dataset) -> list[str]:
        """Return each record's label."""
        return list(rows[self.column])

    def gold(self, rows: Dataset) -> list[str]:
        """Return each record's label."""
        return list(rows[self.column])

    def wrong(self, gold: str) -> str:
        """Return no label."""
        return ""

    def left_out(self, rows: Dataset) -> list[str]:
        """Return nothing: records that do not fit are counted by their missing examples."""
        return []

    def judge(self, output: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the logits and the loss of each example."""
        return output.logits.float(), cross_entropies(output.logits, batch.get("labels"))

    def answers(self, decided: np.ndarray, rows: Dataset) -> list[tuple[str, dict[str, float]]]:
        """Return the likeliest label of each example, and the probability of every label."""
        names = sorted(self.label2id, key=self.label2id.__getitem__)
        return [
            (names[int(best)], dict(zip(names, map(float, row), strict=True)))
            for best, row in zip(decided.argmax(axis=-1), probabilities(decided), strict=True)
        ]
