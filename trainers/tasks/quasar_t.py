"""Quasar-T: trivia questions and passages from the web (Dhingra et al., 2017); exact match and F1.

accelerate launch trainers/run_task.py --recipe recipes/quasar_t_roberta_large.yaml --data_dir DIR
    --backbone FacebookAI/roberta-large --adapters OUT_FAC OUT_LIN --output_dir OUT
Published (K-Adapter, test EM and F1): RoBERTa 40.83, 48.84; +multitask 44.62, 51.17; F 46.20, 52.86; L 45.66, 52.39;
F+L 46.32, 53.00. Ours: not measured, the retrieved passages are not freely available.

The official code for this task is not released; inputs and head are as the paper says.
"""

from __future__ import annotations

from ._answers import AnswerTask


class Task(AnswerTask):
    """Exact match over questions, each with its retrieved passages."""

    corpus = "quasar_t"
