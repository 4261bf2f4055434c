"""The command `kadapter push`."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from ._flags import AsJson

__all__ = ["run"]

Artifact = Annotated[Path, typer.Argument(help="Directory of the artifact.")]
Repository = Annotated[str, typer.Argument(metavar="REPO_ID", help="Repository on the Hub, made if it is new.")]
Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]
Branch = Annotated[str | None, typer.Option("--revision", help="Branch to push to, made if it is new.")]
Message = Annotated[str | None, typer.Option("--message", "-m", help="Message of the commit.")]


def run(
    artifact: Artifact,
    repo_id: Repository,
    private: Private = False,
    revision: Branch = None,
    message: Message = None,
    as_json: AsJson = False,
) -> None:
    """Push an artifact's directory to the Hub, as one commit.

    Example: kadapter push kadapter-fac org/kadapter-fac --private

    Pushed are configuration, weights, card, tokenizer and code, after the weights were checked; what a training left
    beside them stays here. A card that somebody made his own stays on the Hub. You are who `hf auth login` says, or
    the environment variable HF_TOKEN.
    """
    from ._preflight import check_repository, config_of

    check_repository(repo_id)
    where = artifact.expanduser()
    if not where.is_dir():
        raise OSError(f"there is no directory {str(artifact)!r}; name the directory of an artifact")
    backbone = config_of(str(where)).get("backbone_name_or_path")
    typer.echo(f"checking {artifact}", err=True)
    if not backbone or os.path.isabs(backbone):
        typer.echo(
            f"warning: its backbone is {backbone or 'a module'}, which others don't have; they must name theirs by "
            "backbone=ID_OR_PATH",
            err=True,
        )
    from ..trainers.common.pushing import push  # torch takes seconds to import

    options = {"private": private or None, "revision": revision, "commit_message": message}
    address, left_out = push(where, repo_id, **options)
    if as_json:
        typer.echo(json.dumps({"repo_id": repo_id, "commit": address, "left_out": left_out}))
        return
    if left_out:
        typer.echo(f"not pushed: {', '.join(left_out)}", err=True)
    typer.echo(f"pushed {artifact} to {address}")
