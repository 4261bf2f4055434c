"""The command `kadapter probe-text`."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand

__all__ = ["Command", "run"]

SEVERAL = "--adapters"


class Command(TyperCommand):
    """A command whose option `--adapters` takes several values, as that of the trainers does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its values."""
        repeated: list[str] = []
        inside = False
        for argument in args:
            option = argument.startswith("-")
            repeated += [SEVERAL] * (inside and not option and repeated[-1:] != [SEVERAL])
            repeated.append(argument)
            inside = argument == SEVERAL or (inside and not option)
        return super().parse_args(ctx, repeated)


Text = Annotated[str, typer.Argument(help="Sentence with <mask> or [MASK] where the answer belongs.")]
Adapters = Annotated[
    list[str] | None,
    typer.Option(SEVERAL, help="Artifacts of adapters, one or several; without any, the backbone alone is asked."),
]
Backbone = Annotated[
    str | None,
    typer.Option(help="Hub id or directory of the backbone.", show_default="that of the first adapter"),
]
LMHead = Annotated[
    str | None,
    typer.Option("--lm-head", "--lm_head", help="Artifact of a trained LM head.", show_default="the backbone's own"),
]
Top = Annotated[int, typer.Option(min=1, help="How many answers are shown.")]


def run(
    text: Text, adapters: Adapters = None, backbone: Backbone = None, lm_head: LMHead = None, top: Top = 5
) -> None:
    """Show what a model answers with and without adapters, side by side.

    There is a column for the backbone, for each adapter alone and, if there are several, for all together.

    Example: kadapter probe-text "Dante was born in <mask>." --adapters org/kadapter-fac org/kadapter-lin
    """
    from ._preflight import check_prompt

    check_prompt(text, adapters or [], backbone)
    from ._probing import probe_text  # after the checks, since torch takes seconds to import

    probe_text(text, adapters or [], backbone, lm_head, top, log=typer.echo)
