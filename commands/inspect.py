"""The command `kadapter inspect`."""

import json
import os
from typing import Annotated

import typer

from ._flags import AsJson, Revision

__all__ = ["run"]

Artifact = Annotated[str, typer.Argument(help="Artifact: a Hub id, a directory, or a shorthand such as org/fac+lin.")]


def run(artifact: Artifact, revision: Revision = None, as_json: AsJson = False) -> None:
    """Show what an artifact holds: adapters, backbone, fusion, head, hashes and recorded results.

    Example: kadapter inspect org/kadapter-fac

    Nothing in the artifact is executed, and of its weights only the header is read.
    """
    from ._preflight import check_local, is_remote
    from ._printing import printable
    from ._summary import described, summary

    parts = [artifact]
    check_local(artifact, revision)
    if is_remote(artifact) or "+" in artifact:
        typer.echo(f"reading {printable(artifact)}", err=True)
    if "+" in os.path.basename(artifact) and not os.path.isdir(os.path.expanduser(artifact)):
        from ..configuration_kadapter import split_composition  # which imports transformers

        parts = split_composition(artifact)
    summaries = [summary(part, revision) for part in parts]
    if as_json:
        typer.echo(json.dumps(summaries[0] if len(parts) == 1 else {"artifact": artifact, "parts": summaries}))
        return
    for values in summaries:
        typer.echo("\n".join(map(printable, described(values))))
