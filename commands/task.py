"""The command `kadapter task`."""

import typer

from ._launching import PASSED_ON, launch

__all__ = ["SETTINGS", "run"]

SETTINGS = PASSED_ON


def run(context: typer.Context) -> None:
    """Train and evaluate a task on adapters, through Accelerate.

    Example: kadapter task --task semeval2010_task8 --data_dir DIR --backbone roberta-large --adapters
    org/kadapter-fac org/kadapter-lin --output_dir OUT --do_train --do_predict

    It prints and runs `accelerate launch -m kadapter.trainers.run_task` with all flags; settings such as the number
    of processes are those of `accelerate config`. The program's flags:
    """
    launch("run_task", context)
