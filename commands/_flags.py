"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["OutputDir", "Overwrite"]

OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Directory to write; it may have any name.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write even if the directory is not empty.")]
