"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "Backbone", "OutputDir", "Overwrite", "Revision"]

OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Directory to write; it may have any name.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write even if the directory is not empty.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a script to read.")]
Revision = Annotated[str | None, typer.Option(help="Commit, tag or branch of the artifact on the Hub.")]
Backbone = Annotated[str | None, typer.Option(help="Hub id or directory of the backbone, if it has moved.")]
