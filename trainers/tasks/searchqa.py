"""SearchQA: Jeopardy clues and the snippets a search engine found (Dunn et al., 2017); exact match and F1.

accelerate launch trainers/run_task.py --recipe recipes/searchqa_roberta_large.yaml --data_dir DIR
    --backbone FacebookAI/roberta-large --adapters OUT_FAC OUT_LIN --output_dir OUT
Published (K-Adapter, test EM and F1): RoBERTa 59.01, 65.62; +multitask 59.92, 66.67; F 61.85, 67.17; L 61.15, 66.82;
F+L 61.96, 67.31. Ours: not measured, the retrieved passages are not freely available.

The official code for this task is not released; inputs and head are as the paper says.
"""

from __future__ import annotations

from ._answers import AnswerTask


class Task(AnswerTask):
    """Exact match over questions, each with its retrieved passages."""

    corpus = "searchqa"
