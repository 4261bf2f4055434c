"""Run a trainer as a program: expected errors end it with their message, and its processes shut down in order."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from safetensors import SafetensorError


def run_program(main: Callable[[], Any]) -> None:
    """Run a trainer's `main`; an expected error ends the program with its message.

    A process that exits while its process group is open may abort after everything is written, about once in forty
    runs: gloo's threads outlive the interpreter (pytorch/pytorch, issue 190489). After a failure the group is left
    open: destroying it would block on the process that failed.

    Raises:
        SystemExit: an expected error occurred.
    """
    try:
        main()
    except (ValueError, TypeError, OSError, FloatingPointError, SafetensorError) as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")
    PartialState().destroy_process_group()
