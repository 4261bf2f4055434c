"""Base class for tasks that predict the relation between two marked mentions."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from ...configuration_kadapter import KAdapterConfig
from ...heads_kadapter import KAdapterForEntityPairClassification
from ._classes import ClassTask, check_labels
from ._mentions import mark_within

__all__ = ["RelationTask"]


class RelationTask(ClassTask):
    """Markers "@" and "#" around head and tail, representation at the opening markers, as in the official code.

    The official code moves a marker that was cut off to an arbitrary token (or fails). Ours cuts long inputs around
    the mentions; a record whose mentions still do not fit is dropped in training and counts as wrong in evaluation.
    """

    record_type = "relation"
    model_class = KAdapterForEntityPairClassification
    tag = "text-classification"
    what = column = "relation"
    metric, headline = "accuracy", "accuracy"

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        super().__init__(tokenizer, max_length, arguments)
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "entity_positions": 0, "labels": 0}

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Number the relations of the training records by name."""
        fields = super().learn(train)
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

    def encode(self, rows: dict[str, list], training: bool = False, labelled: bool = True) -> dict[str, list]:
        """Mark, tokenise and label records.

        Raises:
            ValueError: a relation is unknown to the model; the message names record and relation.
        """
        if labelled:
            check_labels(self.what, rows["id"], [[relation] for relation in rows["relation"]], self.label2id)
        spans = [
            [(head["start"], head["end"]), (tail["start"], tail["end"])]
            for head, tail in zip(rows["head"], rows["tail"], strict=True)
        ]
        columns = ("record", "input_ids", "entity_positions", "truncated", *(["labels"] if labelled else []))
        examples: dict[str, list] = {name: [] for name in columns}
        for record, marked in enumerate(mark_within(self.tokenizer, rows["text"], spans, self.max_length)):
            if marked is None:
                continue
            examples["record"].append(record)
            for name, value in marked._asdict().items():
                examples[name].append(value)
            if labelled:
                examples["labels"].append(self.label2id[rows["relation"][record]])
        return examples
