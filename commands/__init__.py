"""The `kadapter` command. Each file here without an underscore is a subcommand of that name.

It has a function `run`, or, where it is a group of commands, these as an `app`; `SETTINGS` are those of its context.
Underscores in its name are hyphens in that of the subcommand. Expected errors end a command with a single line on
stderr and exit code 1.
"""

import functools
import os
from collections.abc import Callable
from typing import Annotated, Any

import typer
from huggingface_hub.errors import HTTPError, StrictDataclassError
from huggingface_hub.utils import logging as hub_logging

from .. import __version__, discovery
from ._hub import no_answer

__all__ = ["app"]


def in_one_line(run: Callable[..., None]) -> Callable[..., None]:
    """Let a command print errors caused by bad input on a single line, without a traceback, and exit with code 1."""

    @functools.wraps(run)
    def run_or_refuse(*args: Any, **kwargs: Any) -> None:
        try:
            run(*args, **kwargs)
        except BrokenPipeError:  # who reads has seen enough, which typer ends quietly
            raise
        except HTTPError as error:
            typer.echo(f"kadapter: {no_answer(error)}", err=True)
            raise typer.Exit(1) from error
        except (ValueError, OSError, TypeError, ImportError, StrictDataclassError) as error:  # an extra is missing
            typer.echo(f"kadapter: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from error

    return run_or_refuse


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _show_version(requested: bool) -> None:
    if requested:
        typer.echo(f"kadapter {__version__}")
        raise typer.Exit


@app.callback()
def kadapter(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Knowledge adapters for frozen encoders: train, compose, inspect, predict and share them."""
    if "HF_HUB_VERBOSITY" not in os.environ:
        hub_logging.set_verbosity_error()  # a Hub that fails is told in one line at the end, not at each retry


for _name in discovery.available(__name__):
    _module = discovery.find(__name__, "command", _name)
    if hasattr(_module, "app"):
        for _command in _module.app.registered_commands:
            _command.callback = in_one_line(_command.callback)
        app.add_typer(_module.app, name=_name)
    else:
        _settings = getattr(_module, "SETTINGS", None)
        app.command(_name.replace("_", "-"), context_settings=_settings)(in_one_line(_module.run))
