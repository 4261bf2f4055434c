"""Wiki80: 80 relations of Wikidata between two marked mentions (Han et al., EMNLP 2019), made from FewRel.

accelerate launch trainers/run_task.py --task wiki80 --data_dir DIR --backbone ID_OR_PATH --adapters OUT_FAC OUT_LIN
    --output_dir OUT --do_train --do_eval --learning_rate 1e-3 --num_train_epochs 20
Published: none for K-Adapter. Ours: docs/results.md, macro-F1.

Wiki80 and FewRel share sentences: an adapter that was pre-trained on FewRel has seen some of them, with their
relations. A comparison must leave these sentences out of the files.
"""

from __future__ import annotations

from ._relations import RelationTask


class Task(RelationTask):
    """Macro-F1 over the relations that occur in the gold labels."""

    corpus = "wiki80"
    headline = "macro_f1"
