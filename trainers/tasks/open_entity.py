"""Open Entity: nine types of a marked mention (Choi et al., ACL 2018, as in ERNIE); loose micro-F1.

accelerate launch trainers/run_task.py --recipe recipes/open_entity_roberta_large.yaml --data_dir DIR
    --backbone FacebookAI/roberta-large --adapters OUT_FAC OUT_LIN --output_dir OUT
Published (K-Adapter, test F1): RoBERTa 76.23, +multitask 76.97, without knowledge 76.17, F 77.53, L 76.89, F+L 77.61.
Ours: not measured, the prepared data is not freely available.

Inputs are those of the official script, including its marker: " @", a token with a leading space, which a trained
model's own `encode_entities(tokenizer, texts, spans)` also puts around a mention.
"""

from __future__ import annotations

from ...data_builders.open_entity import LABELS
from ._typing import TypingTask


class Task(TypingTask):
    """Loose micro-F1; a type is predicted where its logit is above 0, possibly none."""

    corpus = "open_entity"
    order = LABELS
