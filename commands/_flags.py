"""Flags that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["OutputDir", "Overwrite"]

OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Directory to write; any name.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write into a directory that is in use already.")]
