"""Multiple choice on the user's own files, with the keys of CosmosQA: which choice answers the question?

accelerate launch trainers/run_task.py --task multiple_choice --data_dir DIR --backbone ID_OR_PATH
    --adapters OUT_FAC OUT_LIN --output_dir OUT --do_train --do_eval --learning_rate 1e-3 --num_train_epochs 10
Published: none, the data is yours. Ours: none.
"""

from __future__ import annotations

from ._choices import ChoiceTask


class Task(ChoiceTask):
    """Accuracy over the questions of the files."""

    corpus = "multiple_choice"
