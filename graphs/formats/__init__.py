"""Formats of entity embeddings. Each file here without an underscore is a format of that name; no table to edit.

A format has two functions and a sentence: `recognises(source, options)` says whether a path is of this format,
`read(source, options)` returns its ids and vectors, and `LAYOUT` says which files it expects.
"""

from __future__ import annotations

from pathlib import Path

from ... import discovery
from ._vectors import FIGURES, Options, Vectors, numbered_lines

__all__ = ["FIGURES", "Options", "Vectors", "available", "numbered_lines", "read"]


def available() -> list[str]:
    """Return the names of all formats: the files of this folder."""
    return discovery.available(__name__)


def read(source: Path, options: Options, name: str | None = None) -> Vectors:
    """Read ids and vectors from a source, in the format of this name or in the one that recognises it.

    Raises:
        OSError: there is no such source.
        ValueError: no format recognises it, or it is malformed; the sentence names file and line or row.
    """
    source = source.expanduser()
    if not source.exists():
        raise OSError(f"there is no {str(source)!r}; name a file or directory of entity embeddings")
    formats = {known: discovery.find(__name__, "format", known) for known in available()}
    if name is not None:
        discovery.check("format", name, list(formats))
        return formats[name].read(source, options)
    if fitting := [known for known, module in formats.items() if module.recognises(source, options)]:
        if len(fitting) > 1:
            raise ValueError(f"{str(source)!r} may be {' or '.join(fitting)}; name one of them by --format")
        return formats[fitting[0]].read(source, options)
    layouts = "; ".join(f"{known}: {module.LAYOUT}" for known, module in formats.items())
    raise ValueError(f"{str(source)!r} is of no known layout; name it by --format, or give one of: {layouts}")
