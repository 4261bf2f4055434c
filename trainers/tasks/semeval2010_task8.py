"""SemEval-2010 Task 8: nine directed relations of two nominals, and Other (Hendrickx et al., 2010).

accelerate launch trainers/run_task.py --task semeval2010_task8 --data_dir DIR --backbone ID_OR_PATH
    --adapters OUT_FAC OUT_LIN --output_dir OUT --do_train --do_eval --learning_rate 1e-3 --num_train_epochs 20
Published: none for K-Adapter. Ours: docs/results.md, the official macro-F1.
"""

from __future__ import annotations

from ...data_builders.semeval2010_task8 import RELATIONS
from ._relations import RelationTask


class Task(RelationTask):
    """The official score: macro-F1 over the nine relations, direction counted, Other left out."""

    corpus = "semeval2010_task8"
    metric, headline = "semeval", "macro_f1"

    def _measure_by(self) -> None:
        """Pass the nine relations, so that a label of another is refused."""
        self.settings = {"relations": list(RELATIONS)}

    def wrong(self, gold: str) -> str:
        """Return Other, or a relation if Other is right, since the official score accepts no other labels."""
        return "Other" if gold != "Other" else "Cause-Effect(e1,e2)"
