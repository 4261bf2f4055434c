"""Plug-ins: one corpus, metric, objective or task is one file, found by its name in its folder; no table to edit."""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from types import ModuleType

__all__ = ["available", "check", "files", "find"]


def available(package: str) -> list[str]:
    """Return the names of all plug-ins in a package: its files that do not begin with an underscore."""
    return list(files(Path(importlib.import_module(package).__path__[0])))


def files(folder: Path) -> dict[str, Path]:
    """Return the plug-ins of a package by name, in their order: its files that do not begin with an underscore."""
    return {path.stem: path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}


def check(kind: str, name: str, names: list[str]) -> None:
    """Refuse a name that no plug-in has.

    Raises:
        ValueError: there is none; the sentence lists those there are.
    """
    if name not in names:
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no {kind} {name!r}; there are {names}{hint}")


def find(package: str, kind: str, name: str) -> ModuleType:
    """Return the plug-in of that name.

    Args:
        package: dotted name of the package that holds the plug-ins.
        kind: what they are, for the sentence.
        name: name of the file, without its ending.

    Raises:
        ValueError: there is no such file; the sentence lists those there are.
    """
    check(kind, name, available(package))
    return importlib.import_module(f"{package}.{name}")
