"""Write and remove files and folders completely or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...artifacts_kadapter import write_directory
from ...backbone_kadapter import replacing

__all__ = ["PARTIAL", "remove", "replace_file", "replace_files"]

PARTIAL = ".partial"  # in the names of incomplete files and folders


def replace_file(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it when it is complete.

    Raises:
        OSError: it can't be written; the earlier file is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OSError(f"could not save to {str(path)!r} ({error}); free some space and resume the run") from error


def replace_files(directory: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write files to a temporary folder, then move each complete file to `directory`.

    Raises:
        OSError: writing failed; the earlier files are untouched.
    """

    def write(folder: Path) -> None:
        fill(folder)

    write_directory(directory, write)


def remove(path: Path) -> None:
    """Remove a file or folder if it exists; a folder is renamed first, so that it is complete or gone."""
    if path.is_dir():
        with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}-", dir=path.parent) as folder:
            os.rename(path, Path(folder) / path.name)
    else:
        path.unlink(missing_ok=True)
