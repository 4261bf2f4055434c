"""OpenKE and ERNIE: `entity2id.txt` with the number of entities in its first line, or `entities.tsv`, and vectors.

The lines of entity2id.txt are "Q90 <space or tab> row"; those of entities.tsv, as released for UMLS, are the other way
round, below a header or without one. The vectors are the lines of a .vec file or the rows of a .npy file.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from ._vectors import ROWS_FIRST, ROWS_LAST, Options, Vectors, check_number, matrix, numbered_lines, only

LAYOUT = "entity2id.txt or entities.tsv, and entity2vec.vec or a .npy file, in a directory"


def recognises(source: Path, options: Options) -> bool:
    """Return whether a directory, or that of a file, holds ids with their rows."""
    folder = source if source.is_dir() else source.parent
    return options.ids is None and any((folder / name).is_file() for name in (ROWS_LAST, ROWS_FIRST))


def read(source: Path, options: Options) -> Vectors:
    """Read a directory, or a file of vectors beside whose ids `options.ids` are.

    Raises:
        OSError, ValueError: a file is missing or malformed; the sentence names it and the line.
    """
    folder = source if source.is_dir() else source.parent
    of_ids = options.ids or next(
        (folder / name for name in (ROWS_LAST, ROWS_FIRST) if (folder / name).is_file()), folder / ROWS_LAST
    )
    if not of_ids.is_file():
        raise OSError(f"there is no file {str(of_ids)!r}; name the file of ids and rows by --ids")
    patterns = ("entity2vec.vec", "*.npy", "*.vec", "*.safetensors")
    of_vectors = options.vectors or (source if source.is_file() else only(folder, patterns, "vectors", "--vectors"))
    ids = _ids_of_rows(of_ids)
    vectors = matrix(of_vectors)
    check_number(ids, vectors, of_ids, of_vectors)
    return Vectors(ids, vectors)


def _ids_of_rows(path: Path) -> list[str]:
    """Return the ids in the order of the rows that the lines of a file name."""
    rows_first = path.suffix == ".tsv"
    lines = numbered_lines(path)
    first = next(lines, (1, ""))
    header = first[1].strip()
    if not rows_first and not header.isdecimal():
        raise ValueError(f"{path}, line 1: must be the number of entities, and is {header[:60]!r}; write it there")
    if rows_first and len(fields := header.split(None, 1)) == 2 and fields[0].isdecimal():  # a row: there is no header
        lines = chain([first], lines)
    names: dict[int, str] = {}
    for number, line in lines:
        if line.strip():
            name, row = _name_and_row(line, rows_first, path, number)
            if row in names:
                raise ValueError(f"{path}, line {number}: row {row} is {names[row]!r}'s already; give each its own")
            names[row] = name
    if not rows_first and int(header) != len(names):
        raise ValueError(
            f"{path}, line 1: says {header} entities, and {len(names)} follow; fetch the whole file, or "
            "correct the number"
        )
    missing = next((row for row in range(len(names)) if row not in names), None)
    if missing is not None:
        raise ValueError(f"{path}: no line names row {missing} of {len(names)}; number the rows from 0 on")
    return [names[row] for row in range(len(names))]


def _name_and_row(line: str, rows_first: bool, path: Path, number: int) -> tuple[str, int]:
    fields = line.strip().split(None, 1) if rows_first else line.strip().rsplit(None, 1)
    row, name = (fields if rows_first else fields[::-1]) if len(fields) == 2 else ("", "")
    if not row.isdecimal() or "\t" in name:
        expected = "a row and an id" if rows_first else "an id and a row"
        raise ValueError(f"{path}, line {number}: {line[:60]!r} is not {expected}; give these two, separated by a tab")
    return name, int(row)
