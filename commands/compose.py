"""Compose adapters into one artifact."""

from typing import Annotated

import typer

from ._flags import OutputDir, Overwrite

__all__ = ["run"]

Parts = Annotated[list[str], typer.Argument(help="Artifacts, each a Hub id or a directory; org/kadapter-fac+lin.")]
MovedBackbone = Annotated[str | None, typer.Option(help="Where the backbone is found now, if it moved.")]


def run(parts: Parts, output_dir: OutputDir, backbone: MovedBackbone = None, overwrite: Overwrite = False) -> None:
    """Compose adapters into one artifact.

    They belong to one backbone and are fused by addition. AutoModel loads the directory that is written.

    Example: kadapter compose org/kadapter-fac org/kadapter-lin -o org/kadapter-fac+lin
    """
    from ._preflight import look_over, refuse_used

    refuse_used(output_dir, overwrite)
    look_over(parts)
    typer.echo(f"composing {' + '.join(parts)}")
    from ._composing import compose  # torch takes seconds to import, and a refusal needs none

    compose(parts, output_dir, backbone=backbone, overwrite=overwrite, report=typer.echo)
