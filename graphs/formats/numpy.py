"""NumPy and a list of ids: a .npy file, and a text file with an id in each line."""

from __future__ import annotations

from pathlib import Path

from ._vectors import ROWS_FIRST, ROWS_LAST, Options, Vectors, check_number, matrix, numbered_lines, only

LAYOUT = "a .npy file, and beside it a .txt file with an id in each line"
SUFFIXES = (".npy", ".safetensors")


def recognises(source: Path, options: Options) -> bool:
    """Return whether a path is a file of vectors, or a directory with one, and its rows are not numbered elsewhere."""
    folder = source if source.is_dir() else source.parent
    numbered = options.ids is None and any((folder / name).is_file() for name in (ROWS_LAST, ROWS_FIRST))
    return not numbered and (
        source.suffix in SUFFIXES if source.is_file() else bool([*source.glob("*.npy")] and [*source.glob("*.txt")])
    )


def read(source: Path, options: Options) -> Vectors:
    """Read a file of vectors and its ids, from the file that `options.ids` names or the only .txt file beside it.

    Raises:
        OSError, ValueError: a file is missing or malformed, or their numbers differ.
    """
    folder = source if source.is_dir() else source.parent
    of_vectors = options.vectors or (source if source.is_file() else only(folder, ("*.npy",), "vectors", "--vectors"))
    of_ids = options.ids or only(folder, (f"{of_vectors.stem}.txt", "*.txt"), "ids", "--ids")
    if not of_ids.is_file():
        raise OSError(f"there is no file {str(of_ids)!r}; name the list of ids by --ids")
    ids = []
    for number, line in numbered_lines(of_ids):
        if not line.strip():
            raise ValueError(f"{of_ids}, line {number}: is blank; give an id for each row of {of_vectors.name}")
        if "\t" in line.strip():
            raise ValueError(
                f"{of_ids}, line {number}: {line[:60]!r} has columns; give an id in each line, in the order of "
                f"the rows, or call a file of rows and ids {ROWS_FIRST}"
            )
        ids.append(line.strip())
    vectors = matrix(of_vectors)
    check_number(ids, vectors, of_ids, of_vectors)
    return Vectors(ids, vectors)
