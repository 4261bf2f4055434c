"""The command `kadapter train`."""

import typer

from ._launching import PASSED_ON, launch

__all__ = ["SETTINGS", "run"]

SETTINGS = PASSED_ON


def run(context: typer.Context) -> None:
    """Train a knowledge adapter, through Accelerate.

    Example: kadapter train --objective factual --corpus trex --data_dir DIR --backbone roberta-large --adapter_name
    fac --output_dir OUT --do_train --do_eval

    It prints and runs `accelerate launch -m kadapter.trainers.run_adapter` with all flags; settings such as the number
    of processes are those of `accelerate config`. The program's flags:
    """
    launch("run_adapter", context)
