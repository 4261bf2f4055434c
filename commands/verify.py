"""The command `kadapter verify`."""

import json
from typing import Annotated

import typer

from ._flags import AsJson, Revision

__all__ = ["run"]

Artifact = Annotated[str, typer.Argument(help="Artifact: a Hub id, a directory, or a shorthand such as org/fac+lin.")]
Against = Annotated[
    str | None, typer.Option("--backbone", help="Hub id or directory of the backbone, to compare its fingerprint.")
]
AnyCode = Annotated[
    bool, typer.Option("--any-code", help="Don't compare code files, as of an artifact of another release.")
]


def run(
    artifact: Artifact,
    backbone: Against = None,
    revision: Revision = None,
    any_code: AnyCode = False,
    as_json: AsJson = False,
) -> None:
    """Check an artifact: checksums and hashes, NaN, its record, its code files and its backbone's fingerprint.

    Example: kadapter verify org/kadapter-fac --backbone roberta-large

    Of a table of entity embeddings its hash, its index and its numbers are checked. Nothing in the artifact is
    executed. The exit code is 1 if a check fails.
    """
    from ._preflight import check_local, config_of, holds_table
    from ._printing import printable

    check_local(artifact, revision)
    if "+" not in artifact and not holds_table(artifact, revision):
        config_of(artifact, revision)  # what is missing or no artifact is refused before torch is imported
    typer.echo(f"verifying {printable(artifact)}", err=True)
    from ._verifying import checks  # torch takes seconds to import

    results = []
    for check in checks(artifact, revision, backbone, any_code):
        results.append(check)
        if not as_json:
            typer.echo(printable(check))
    failed = [check for check in results if check.result == "failed"]
    if as_json:
        values = [check._asdict() for check in results]
        typer.echo(json.dumps({"artifact": artifact, "verified": not failed, "checks": values}))
    if failed:
        raise ValueError(f"{artifact} is not what it should be: {'; '.join(check.detail for check in failed)}")
