"""The `kadapter` command: one file a subcommand, found by its name, with a function `run`.

Expected errors end it with one sentence and exit code 1.
"""

from typing import Annotated, Any

import typer
from huggingface_hub.errors import StrictDataclassError
from typer.core import TyperGroup

from .. import __version__, discovery

__all__ = ["app"]


class OneSentenceErrors(TyperGroup):
    """Commands whose expected errors, bad input of any kind, are printed as one sentence and without a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, TypeError, StrictDataclassError) as error:
            typer.echo(f"kadapter: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=OneSentenceErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kadapter {__version__}")
        raise typer.Exit


@app.callback()
def kadapter(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Knowledge adapters beside a frozen encoder: convert official checkpoints, compose adapters, report on runs."""


for _name in discovery.available(__name__):
    app.command(_name)(discovery.find(__name__, "command", _name).run)
