"""TACRED: 41 relations and no_relation between subject and object (Zhang et al., EMNLP 2017); micro-F1.

accelerate launch trainers/run_task.py --recipe recipes/tacred_roberta_large.yaml --data_dir DIR
    --backbone FacebookAI/roberta-large --adapters OUT_FAC OUT_LIN --output_dir OUT
Published (K-Adapter, test F1): RoBERTa 71.25, +multitask 71.62, F 71.89, L 71.96, F+L 72.04. Ours: not measured, the
data is not freely available (LDC2018T24).

`--negative_sample N` keeps the first N - 1 training records of no_relation, as the official code does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset

from ._relations import RelationTask

NO_RELATION = "no_relation"


class Task(RelationTask):
    """Micro precision, recall and F1 that leave out no_relation."""

    corpus = "tacred"
    metric, headline = "tacred", "f1"

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        super().__init__(tokenizer, max_length, arguments)
        self.negative_sample = arguments.negative_sample

    def select(self, train: Dataset) -> Dataset:
        """Return the training records, with only the first `negative_sample` - 1 of no_relation."""
        if self.negative_sample is None:
            return train
        negative = np.asarray([relation == NO_RELATION for relation in train["relation"]])
        return train.select(np.flatnonzero(~negative | (negative.cumsum() < self.negative_sample)))
