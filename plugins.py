"""Plug-ins: one corpus, metric, objective or task is one file, found by its name in its folder; no table to edit."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from types import ModuleType

__all__ = ["available", "find"]


def available(package: str) -> list[str]:
    """Return the names of all plug-ins in a package: its files that do not begin with an underscore."""
    folder = Path(importlib.import_module(package).__file__).parent
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def find(package: str, kind: str, name: str) -> ModuleType:
    """Return the plug-in of that name.

    Args:
        package: dotted name of the package that holds the plug-ins.
        kind: what they are, for the sentence.
        name: name of the file, without its ending.

    Raises:
        ValueError: there is no such file; the sentence lists those there are.
    """
    names = available(package)
    if name not in names:
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no {kind} {name!r}; there are {names}{hint}")
    return importlib.import_module(f"{package}.{name}")
