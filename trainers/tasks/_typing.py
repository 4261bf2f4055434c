"""Base class for tasks that predict all types of a marked mention."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from ...heads_kadapter import KAdapterForEntityClassification
from ..common.labels import check_varied
from ._base import check_labels, numbered
from ._mentions import MentionTask

__all__ = ["TypingTask"]


class TypingTask(MentionTask):
    """A marker "@" around the mention, representation at the opening marker, any number of types (official code).

    The official code fails on an input that is too long. Ours cuts it around the mention; a record whose mention does
    not fit is dropped in training and counts as wrong in evaluation.
    """

    record_type = "entity_typing"
    model_class = KAdapterForEntityClassification
    tag = "text-classification"
    metric, headline = "entity_typing", "micro_f1"
    id_columns: ClassVar[tuple[str, ...]] = ("entity_id",)
    order: tuple[str, ...] = ()  # labels that come first, in this order
    at_least_one: ClassVar[bool] = False  # whether the likeliest type is predicted if none is likely

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        super().__init__(tokenizer, max_length, arguments)
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "entity_positions": 0, "labels": 0.0}
        self.trained: frozenset[str] = frozenset()  # those of a published order may have no training record

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Number the types of the training records, those of a published order first.

        Raises:
            ValueError: all records have the same types, or none has any.
        """
        sets = {frozenset(labels) for batch in train.iter(1000) for labels in batch["labels"]}
        check_varied("types", sets)
        self.trained = frozenset().union(*sets)
        fields = numbered([*self.order, *sorted(self.trained - set(self.order))])
        self.label2id = fields["label2id"]
        return fields

    def strata(self, rows: Dataset) -> list[str]:
        """Return each record's rarest type."""
        counts = Counter(label for labels in rows["labels"] for label in labels)
        return [min(labels, key=lambda label: (counts[label], label), default="") for labels in rows["labels"]]

    def encode(self, rows: dict[str, list], training: bool = False, labelled: bool = True) -> dict[str, list]:
        """Mark, tokenise and label records.

        Raises:
            ValueError: a type is unknown to the model; the message names record and type.
        """
        if labelled:
            check_labels("type", rows["id"], rows["labels"], self.trained or self.label2id)
        spans = [[(mention["start"], mention["end"])] for mention in rows["mention"]]
        labels = [[int(name in own) for name in self.label2id] for own in rows["labels"]] if labelled else None
        return self.marked_examples(rows, spans, labels, training, markers=self.model_class.markers)

    def judge(self, output: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the logits and the mean loss over the types of each example."""
        logits, labels = output.logits.float(), batch.get("labels")
        if labels is None:
            return logits, None
        return logits, F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none").mean(dim=1)

    def answers(self, decided: np.ndarray, rows: Dataset) -> list[tuple[list[str], dict[str, float]]]:
        """Return the likely types of each example, and the probability of every type."""
        names = sorted(self.label2id, key=self.label2id.__getitem__)
        scores = torch.as_tensor(decided).double().sigmoid().numpy().round(6)
        return [
            (
                [name for name, chosen in zip(names, row, strict=True) if chosen],
                dict(zip(names, map(float, all_), strict=True)),
            )
            for row, all_ in zip(self.likely(decided), scores, strict=True)
        ]

    def likely(self, logits: np.ndarray) -> np.ndarray:
        """Return which types (examples, types) are predicted."""
        above = logits > 0
        return above | (logits == logits.max(axis=1, keepdims=True)) if self.at_least_one else above

    def gold(self, rows: Dataset) -> list[list[str]]:
        """Return each record's types."""
        return list(rows["labels"])

    def wrong(self, gold: list[str]) -> list[str]:
        """Return no type, or an unknown type if no type is right."""
        return [] if gold else ["(too long)"]
