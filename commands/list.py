"""The command `kadapter list`."""

import json
from typing import Annotated

import typer

from ._flags import AsJson

__all__ = ["run"]

Author = Annotated[str | None, typer.Option(help="User or organisation on the Hub.")]
Backbone = Annotated[str | None, typer.Option(help="Hub id of the backbone, such as roberta-large.")]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", help="Tag, such as the name of an adapter; repeat for several.")
]
Limit = Annotated[int, typer.Option(min=1, help="How many artifacts are listed at most.")]


def run(
    author: Author = None, backbone: Backbone = None, tag: Tags = None, limit: Limit = 100, as_json: AsJson = False
) -> None:
    """List the artifacts on the Hub, by backbone and tag.

    Example: kadapter list --author org --backbone roberta-large --tag fac

    Listed is what has the tag kadapter, which every artifact's card brings along.
    """
    from ._listing import artifacts_on_hub
    from ._printing import table

    found = artifacts_on_hub(author, backbone, tag or [], limit)
    if as_json:
        typer.echo(json.dumps(found))
        return
    if not found:
        typer.echo("no artifact on the Hub is listed so; leave out a condition", err=True)
        return
    columns = ("id", "backbone", "tags", "downloads", "modified")
    shown = [{**each, "tags": " ".join(each["tags"])} for each in found]
    rows = [["-" if each[column] in (None, "") else each[column] for column in columns] for each in shown]
    typer.echo(table(["artifact", *columns[1:]], rows))
