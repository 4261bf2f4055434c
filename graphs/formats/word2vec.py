"""word2vec's text: a line "entities dimension", then a line for each entity, its id and its numbers.

Ids with spaces are refused: where the last word of a title is a number, nothing tells it from the vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ._vectors import Options, Vectors, numbered_lines, rows_of_numbers

LAYOUT = "a text file whose first line is the number of entities and the dimension"


def recognises(source: Path, options: Options) -> bool:
    """Return whether a file begins with two numbers."""
    if not source.is_file() or source.suffix in (".npy", ".parquet", ".safetensors", ".bin"):
        return False
    try:
        return _header(next(numbered_lines(source), (1, ""))[1]) is not None
    except ValueError:
        return False


def read(source: Path, options: Options) -> Vectors:
    """Read a file.

    Raises:
        ValueError: it is malformed, or in word2vec's binary form; the sentence names the line.
    """
    lines = numbered_lines(source)
    first = next(lines, (1, ""))[1]
    header = _header(first)
    if header is None:
        raise ValueError(
            f"{source}, line 1: must be the number of entities and the dimension, and is {first[:60]!r}; write them"
        )
    if source.suffix == ".bin":
        raise ValueError(f"{source} is word2vec's binary form; save it as text, or as .npy with a list of ids")
    ids: list[str] = []
    vectors = rows_of_numbers(source, _fields(source, lines, header[1], ids), header[0], header[1])
    if len(ids) != header[0]:
        raise ValueError(
            f"{source}, line 1: says {header[0]} entities, and {len(ids)} follow; fetch the whole file, or "
            "correct the number"
        )
    return Vectors(ids, vectors)


def _header(line: str) -> tuple[int, int] | None:
    fields = line.split()
    return (int(fields[0]), int(fields[1])) if len(fields) == 2 and all(map(str.isdecimal, fields)) else None


def _fields(
    path: Path, lines: Iterator[tuple[int, str]], dimension: int, ids: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the numbers of each line, and note its id."""
    for number, line in lines:
        if not line.strip():
            continue
        name, *numbers = line.rstrip().split(" ")
        if len(numbers) != dimension:
            raise ValueError(
                f"{path}, line {number}: has {len(numbers) + 1} fields, and an id with a vector of dimension "
                f"{dimension} has {dimension + 1}; ids may hold no spaces: give such vectors as .npy with a list of "
                "ids, or as Parquet"
            )
        ids.append(name)
        yield number, numbers
