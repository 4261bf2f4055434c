"""Run a program of `trainers/` through Accelerate, with all flags passed on."""

from __future__ import annotations

import shlex
import subprocess
import sys

import typer

from ..trainers.common.usage import answer

__all__ = ["PASSED_ON", "launch"]

# Nothing is parsed here: all flags are the program's, --help too.
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def launch(program: str, context: typer.Context) -> None:
    """Print the command that this stands for, run it, and exit with its exit code.

    Help and unknown flags are answered before, without starting anything.
    """
    flags = context.args
    if {"-h", "--help"} & set(flags):
        typer.echo(context.command.get_help(context))
    answer(program, flags)
    # --quiet: a program's own sentence ends it, and Accelerate adds no traceback of its launcher
    command = ["launch", "--quiet", "-m", f"kadapter.trainers.{program}", *flags]
    typer.echo(f"running: {shlex.join(['accelerate', *command])}", err=True)
    done = subprocess.run([sys.executable, "-m", "accelerate.commands.accelerate_cli", *command], check=False)
    raise typer.Exit(done.returncode)
