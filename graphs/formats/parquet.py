"""Parquet: a column of strings, the ids, and a column of lists of numbers, the vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ._vectors import Options, Vectors, real

LAYOUT = "a .parquet file, or a directory of them, with a column of strings and a column of lists of numbers"


def recognises(source: Path, options: Options) -> bool:
    """Return whether a path is a Parquet file, or a directory with any."""
    return source.suffix == ".parquet" if source.is_file() else any(source.glob("*.parquet"))


def read(source: Path, options: Options) -> Vectors:
    """Read the two columns of a file, or of all files of a directory in the order of their names.

    Raises:
        ValueError: it is damaged, columns are missing or ambiguous, or a vector is missing or of another width.
    """
    files = [source] if source.is_file() else sorted(source.glob("*.parquet"))
    if not files:
        raise ValueError(f"{source} has no .parquet file; name the directory that has")
    try:
        schema = pq.read_schema(files[0])
        strings = _column(source, schema, options.id_column, _is_string, "strings", "--id-column")
        lists = _column(
            source, schema, options.vector_column, _is_list, "lists of floating-point numbers", "--vector-column"
        )
        table = pa.concat_tables([pq.read_table(path, columns=[strings, lists]) for path in files])
    except pa.ArrowException as error:
        raise ValueError(f"{source} can't be read ({error}); save it again as Parquet") from error
    if not table.num_rows:
        raise ValueError(f"{source} has no rows; give a file with an id and a vector for each entity")
    ids, vectors = table[strings], table[lists]
    widths = pc.list_value_length(vectors)
    for row, (name, width) in enumerate(zip(ids.is_null().to_pylist(), widths.to_pylist(), strict=True)):
        if name or width != widths[0].as_py() or not width:
            problem = "has no id" if name else f"has {width or 0} numbers where the first has {widths[0].as_py()}"
            raise ValueError(f"{source}, row {row}: {problem}; give each entity an id and a vector of the same width")
    flat = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in vectors.chunks])
    return Vectors(ids.to_pylist(), real(flat.reshape(len(ids), -1), source))


def _column(source: Path, schema: Any, named: str | None, fits: Any, what: str, option: str) -> str:
    names = [field.name for field in schema if fits(field.type)]
    if not names:
        columns = ", ".join(f"{field.name!r} of {field.type}" for field in schema)
        raise ValueError(f"{source} has no column of {what}, but {columns}; write the ids or vectors as {what}")
    if named is not None and named not in names:
        raise ValueError(f"{source} has no column {named!r} of {what}; its columns of {what} are {names}")
    if named is None and len(names) != 1:
        raise ValueError(f"{source}: its columns of {what} are {names}; name one by {option}")
    return named or names[0]


def _is_string(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind  # as pandas writes categories
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: Any) -> bool:
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return nested and pa.types.is_floating(kind.value_type)
