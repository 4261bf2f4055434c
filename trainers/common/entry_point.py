"""Run a trainer as a program: its errors are sentences, and its processes part in order."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState


def run_program(main: Callable[[], Any]) -> None:
    """Run a trainer's `main`; a failure that has a sentence ends with it.

    A process that ends with its group of processes open may abort after all is done and written, about once in forty
    runs: gloo's threads outlive the interpreter (pytorch/pytorch, issue 190489). After a failure the group is left
    alone: who waits in it for one that failed would wait on.

    Raises:
        SystemExit: after a failure that has a sentence.
    """
    try:
        main()
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")
    PartialState().destroy_process_group()
