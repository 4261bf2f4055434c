"""CosmosQA: which of four answers does a story suggest (Huang et al., EMNLP 2019)? Accuracy.

accelerate launch trainers/run_task.py --recipe recipes/cosmosqa_roberta_large.yaml --data_dir DIR
    --backbone FacebookAI/roberta-large --adapters OUT_FAC OUT_LIN --output_dir OUT
Published (K-Adapter, test accuracy): RoBERTa 80.59, +multitask 81.19, F 80.93, L 80.76, F+L 81.83. Ours: not measured
at that size; docs/results.md has a small part of the data in five folds.
"""

from __future__ import annotations

from ._choices import ChoiceTask


class Task(ChoiceTask):
    """Accuracy over questions of four choices."""

    corpus = "cosmosqa"
