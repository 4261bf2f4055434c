"""Relation classification on the user's own files, in TACRED's layout: which relation do two marked mentions have?

accelerate launch trainers/run_task.py --task relation_classification --data_dir DIR --backbone ID_OR_PATH
    --adapters OUT_FAC OUT_LIN --output_dir OUT --do_train --do_eval --learning_rate 1e-3 --num_train_epochs 20
Published: none, the data is yours. Ours: none.

`--corpus NAME` reads any other corpus of relation records. Accuracy counts all relations equally; for a corpus with a
class for no relation, the task `tacred` has the right metric.
"""

from __future__ import annotations

from ._relations import RelationTask


class Task(RelationTask):
    """Accuracy over all relations of the files."""

    corpus = "relation_classification"
