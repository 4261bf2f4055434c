"""The `kadapter` command. Each file here without an underscore is a subcommand of that name.

It has a function `run`, or, where it is a group of commands, these as an `app`.

Underscores in its name are hyphens in that of the subcommand. A class `Command` in it parses options in its own way.
Expected errors end a command with a single line on stderr and exit code 1.
"""

from typing import Annotated, Any

import typer
from huggingface_hub.errors import StrictDataclassError
from typer.core import TyperGroup

from .. import __version__, discovery

__all__ = ["app"]


class OneLineErrors(TyperGroup):
    """A group of commands that prints errors caused by bad input on a single line, without a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run a command, and exit with code 1 after an expected error."""
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, TypeError, StrictDataclassError) as error:
            typer.echo(f"kadapter: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
    """Knowledge adapters for frozen encoders: convert, compose, probe, report, and entity embeddings."""


for _name in discovery.available(__name__):
    _module = discovery.find(__name__, "command", _name)
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name)
    else:
        app.command(_name.replace("_", "-"), cls=getattr(_module, "Command", None))(_module.run)
