"""The command `kadapter compose`."""

import json
from enum import StrEnum
from functools import partial
from typing import Annotated

import typer

from ._flags import AsJson, OutputDir, Overwrite

__all__ = ["run"]


class Fusion(StrEnum):
    """How the outputs of adapters and backbone are combined without any training."""

    ADD = "add"
    DELTA = "delta"
    MAX = "max"


Artifacts = Annotated[
    list[str],
    typer.Argument(help="Artifacts, each a Hub id or a directory; org/kadapter-fac+lin is short for two of them."),
]
MovedBackbone = Annotated[str | None, typer.Option(help="New location of the backbone, if it has moved.")]
FusionMode = Annotated[
    Fusion | None,
    typer.Option(
        help="Add to the backbone's states the adapters' outputs, or what they change of the states they tap, or at "
        "each token only the largest change.",
        show_default="add, or delta or max if all parts are",
    ),
]


def run(
    artifacts: Artifacts,
    output_dir: OutputDir,
    backbone: MovedBackbone = None,
    fusion: FusionMode = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compose adapters into a single artifact.

    Example: kadapter compose org/kadapter-fac org/kadapter-lin -o org/kadapter-fac+lin

    The adapters must share a backbone, and are fused by addition. AutoModel loads the resulting directory.
    """
    from ._preflight import check_artifacts, refuse_used

    refuse_used(output_dir, overwrite)
    check_artifacts(artifacts)
    typer.echo(f"composing {' + '.join(artifacts)}", err=as_json)
    from ._composing import compose  # after the checks, since torch takes seconds to import
    from ._writing import written

    log = partial(typer.echo, err=as_json)
    fused = None if fusion is None else fusion.value
    model = compose(artifacts, output_dir, backbone=backbone, fusion=fused, overwrite=overwrite, log=log)
    if as_json:
        typer.echo(json.dumps(written(model, output_dir)))
