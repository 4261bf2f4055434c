"""The command `kadapter probe-text`."""

import json
from typing import Annotated

import typer

from ._flags import AsJson

__all__ = ["run"]

Text = Annotated[
    str, typer.Argument(help="Sentence with <mask> or [MASK] where the answer belongs; for a decoder at its end.")
]
Adapters = Annotated[
    list[str] | None,
    typer.Argument(help="Artifacts of adapters, one or several; without any, the backbone alone is asked."),
]
AsInPrograms = Annotated[
    list[str] | None, typer.Option("--adapters", help="The same as a flag, as the training programs have it.")
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
    text: Text,
    artifacts: Adapters = None,
    adapters: AsInPrograms = None,
    backbone: Backbone = None,
    lm_head: LMHead = None,
    top: Top = 5,
    as_json: AsJson = False,
) -> None:
    """Show what a model answers with and without adapters, side by side.

    Example: kadapter probe-text "Dante was born in <mask>." org/kadapter-fac org/kadapter-lin

    There is a column for the backbone, for each adapter alone and, if there are several, for all together.
    """
    from ._preflight import check_prompt
    from ._printing import printable

    names = [*(adapters or []), *(artifacts or [])]
    check_prompt(text, names, backbone)
    typer.echo(f"loading {printable(' + '.join(names) or backbone)}", err=True)
    from ._probing import probe_text  # after the checks, since torch takes seconds to import

    answers = probe_text(text, names, backbone, lm_head, top, log=(lambda table: None) if as_json else typer.echo)
    if as_json:
        rows = {
            row: [[{"label": word, "score": score} for word, score in mask] for mask in masks]
            for row, masks in answers.items()
        }
        typer.echo(json.dumps({"text": text, "rows": rows}))
