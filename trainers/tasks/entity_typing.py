"""Entity typing on the user's own files, in the layout of Open Entity: which types has a marked mention?

accelerate launch trainers/run_task.py --task entity_typing --data_dir DIR --backbone ID_OR_PATH
    --adapters OUT_FAC OUT_LIN --output_dir OUT --do_train --do_eval --learning_rate 1e-3 --num_train_epochs 20
Published: none, the data is yours. Ours: none.
"""

from __future__ import annotations

from ._typing import TypingTask


class Task(TypingTask):
    """Loose micro-F1 over the types of the files; a type is predicted where it is likelier than not."""

    corpus = "entity_typing"
