"""FIGER: 113 fine types of a marked mention (Ling and Weld, AAAI 2012, as in ERNIE); loose micro-F1.

accelerate launch trainers/run_task.py --recipe recipes/figer_roberta_large.yaml --data_dir DIR
    --backbone FacebookAI/roberta-large --adapters OUT_FAC OUT_LIN --output_dir OUT
Published (K-Adapter, test accuracy, macro-F1, micro-F1): RoBERTa 56.31, 82.43, 77.83; +multitask 59.86, 84.45, 78.84;
without knowledge 56.93, 82.56, 77.90; F 59.50, 84.52, 80.42; L 61.10, 83.61, 79.18; F+L 61.81, 84.87, 80.54.
Ours: not measured, the prepared data is not freely available.

The official script counts a test example as often as batches follow it, so that macro and micro depend on batch size
and order, and leaves out test examples that are too long. Ours counts every example once; a long one is cut around
its mention.
"""

from __future__ import annotations

from ._typing import TypingTask


class Task(TypingTask):
    """Loose micro-F1; a type is predicted where its logit is above 0, and the likeliest always."""

    corpus = "figer"
    at_least_one = True
