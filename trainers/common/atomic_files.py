"""Files and folders that are written, and removed, as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...artifacts_kadapter import write_directory
from ...backbone_kadapter import replacing

__all__ = ["PARTIAL", "remove", "replace_file", "replace_files"]

PARTIAL = ".partial"  # in the names of files and folders that are not complete


def replace_file(path: Path, text: str) -> None:
    """Write a text file under another name and give it its own when it is complete.

    Raises:
        OSError: it can't be written; what was there before is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OSError(f"could not save to {str(path)!r} ({error}); free some space and resume the run") from error


def replace_files(directory: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write files to a folder, then move each of them to `directory` as a whole.

    Raises:
        OSError: writing failed; what was there before is untouched.
    """

    def write(folder: Path) -> None:
        fill(folder)

    write_directory(directory, write)


def remove(path: Path) -> None:
    """Remove a file or folder that may not be there, a folder under another name, so that it is whole or gone."""
    if path.is_dir():
        with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}-", dir=path.parent) as folder:
            os.rename(path, Path(folder) / path.name)
    else:
        path.unlink(missing_ok=True)
