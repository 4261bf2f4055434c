"""Relation classification on marked entity pairs: the factual adapter's objective (K-Adapter, section 3.2).

accelerate launch trainers/run_adapter.py --recipe recipes/fac_fewrel_minilm.yaml --data_dir DIR --output_dir OUT
Published: T-REx-rc, 430 relations, no number given. Ours: see the README's results table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.metrics import accuracy_score, f1_score

from ...configuration_kadapter import KAdapterConfig
from ...heads_kadapter import KAdapterForEntityPairClassification
from ...processing_kadapter import mark_entities
from ..common.labels import check_varied


class Objective:
    """Markers "@" and "#" around head and tail, representation at the opening markers (fac-adapter.py).

    An example whose opening marker does not fit into `max_length` is dropped and counted. Ours also drops an example
    whose marker would fall on the closing special token, where the official code points at that token.
    """

    record_type = "relation"
    model_class = KAdapterForEntityPairClassification
    metric = "micro_f1"

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "entity_positions": 0, "labels": 0}
        self.label2id: dict[str, int] = {}

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Number the relations of the training records by name.

        Raises:
            ValueError: there is only one relation.
        """
        check_varied("relation", train.unique("relation"))
        self.label2id = {name: number for number, name in enumerate(sorted(train.unique("relation")))}
        return {"id2label": {number: name for name, number in self.label2id.items()}, "label2id": self.label2id}

    def recall(self, config: KAdapterConfig) -> None:
        """Take the numbered relations from a trained model."""
        label2id: Any = config.label2id
        self.label2id = dict(label2id)

    def encode(self, rows: dict[str, list], training: bool = False) -> dict[str, list]:
        """Mark, tokenise and label records.

        Raises:
            ValueError: a relation does not occur in training; the message names record and relation.
        """
        self._check_relations(rows["id"], rows["relation"])
        spans = [
            [(head["start"], head["end"]), (tail["start"], tail["end"])]
            for head, tail in zip(rows["head"], rows["tail"], strict=True)
        ]
        examples: dict[str, list] = {"input_ids": [], "entity_positions": [], "labels": [], "truncated": []}
        marked = mark_entities(self.tokenizer, rows["text"], spans)
        for (ids, positions), relation in zip(marked, rows["relation"], strict=True):
            if max(positions) >= self.max_length - 1:
                continue
            examples["truncated"].append(len(ids) > self.max_length)
            examples["input_ids"].append(_cut(ids, self.max_length))
            examples["entity_positions"].append(positions)
            examples["labels"].append(self.label2id[relation])
        return examples

    def _check_relations(self, records: list[str], relations: list[str]) -> None:
        for record, relation in zip(records, relations, strict=True):
            if relation not in self.label2id:
                raise ValueError(
                    f"record {record!r} has the relation {relation!r}, which no training record has; remove the "
                    "record or add training records of that relation"
                )

    def measure(self, predictions: np.ndarray, labels: np.ndarray, evaluated: Dataset) -> dict[str, float]:
        """Return micro-F1, macro-F1 (over the relations that occur) and accuracy."""
        return {
            "micro_f1": float(f1_score(labels, predictions, average="micro")),
            "macro_f1": float(f1_score(labels, predictions, average="macro", labels=np.unique(labels))),
            "accuracy": float(accuracy_score(labels, predictions)),
        }


def _cut(ids: list[int], max_length: int) -> list[int]:
    return ids if len(ids) <= max_length else [*ids[: max_length - 1], ids[-1]]
