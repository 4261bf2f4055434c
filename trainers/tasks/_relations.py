"""Base class for tasks that predict the relation between two marked mentions."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from datasets import Dataset

from ...configuration_kadapter import KAdapterConfig
from ...heads_kadapter import KAdapterForEntityPairClassification
from ..common.labels import check_varied
from ._base import check_labels, numbered, probabilities
from ._mentions import MentionTask

__all__ = ["RelationTask"]


class RelationTask(MentionTask):
    """Markers "@" and "#" around head and tail, representation at the opening markers, as in the official code.

    The official code moves a marker that was cut off to an arbitrary token (or fails). Ours cuts long inputs around
    the mentions; a record whose mentions still do not fit is dropped in training and counts as wrong in evaluation.
    """

    record_type = "relation"
    model_class = KAdapterForEntityPairClassification
    tag = "text-classification"
    metric, headline = "accuracy", "accuracy"
    id_columns: ClassVar[tuple[str, ...]] = ("head_id", "tail_id")

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        super().__init__(tokenizer, max_length, arguments)
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "entity_positions": 0, "labels": 0}

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Number the relations of the training records by name.

        Raises:
            ValueError: there is only one relation.
        """
        relations = train.unique("relation")
        check_varied("relation", relations)
        fields = numbered(sorted(relations))
        self.label2id = fields["label2id"]
        self._measure_by()
        return fields

    def recall(self, config: KAdapterConfig) -> None:
        """Take the numbered relations from a trained model."""
        super().recall(config)
        self._measure_by()

    def _measure_by(self) -> None:
        """Pass the relations to accuracy and F1, so that a missing prediction does not add a class."""
        if self.metric == "accuracy":
            self.settings = {"classes": sorted(self.label2id)}

    def strata(self, rows: Dataset) -> list[str]:
        """Return each record's relation."""
        return list(rows["relation"])

    gold = strata

    def encode(self, rows: dict[str, list], training: bool = False, labelled: bool = True) -> dict[str, list]:
        """Mark, tokenise and label records.

        Raises:
            ValueError: a relation is unknown to the model; the message names record and relation.
        """
        if labelled:
            check_labels("relation", rows["id"], [[relation] for relation in rows["relation"]], self.label2id)
        spans = [
            [(head["start"], head["end"]), (tail["start"], tail["end"])]
            for head, tail in zip(rows["head"], rows["tail"], strict=True)
        ]
        labels = [self.label2id[relation] for relation in rows["relation"]] if labelled else None
        return self.marked_examples(rows, spans, labels, training)

    def answers(self, decided: np.ndarray, rows: Dataset) -> list[tuple[str, dict[str, float]]]:
        """Return the likeliest relation of each example, and the probability of every relation."""
        names = sorted(self.label2id, key=self.label2id.__getitem__)
        return [
            (names[int(best)], dict(zip(names, map(float, row), strict=True)))
            for best, row in zip(decided.argmax(axis=-1), probabilities(decided), strict=True)
        ]
