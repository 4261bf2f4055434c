"""Ids and vectors as the formats read them, and the files of numbers that several formats share."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

# What a card shows of link prediction, and PyKEEN's names for it.
FIGURES = {"MRR": "inverse_harmonic_mean_rank", **{f"hits@{k}": f"hits_at_{k}" for k in (1, 3, 10)}}
ROWS_LAST, ROWS_FIRST = "entity2id.txt", "entities.tsv"  # by which OpenKE's layout is known


@dataclass
class Options:
    """What the user says of a source: the files of its vectors and ids, and columns of a table."""

    vectors: Path | None = None
    ids: Path | None = None
    id_column: str | None = None
    vector_column: str | None = None


@dataclass
class Vectors:
    """The id of each row, the vectors (entities, dimension), and what the source tells of their training."""

    ids: list[str]
    vectors: np.ndarray
    origin: dict[str, Any] = field(default_factory=dict)


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file, plain or gzipped, numbered from 1, without their ends.

    Raises:
        ValueError: a line is not UTF-8, or the file is not valid gzip.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x}"
        raise ValueError(f"{path}, line {number}: is not UTF-8 ({byte}); give a text file in UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}, after line {number}: is not valid gzip ({error}); fetch it again") from error


def rows_of_numbers(
    path: Path, lines: Iterable[tuple[int, list[str]]], rows: int | None, dimension: int | None = None
) -> np.ndarray:
    """Return the numbers of lines as float32 (rows, dimension), all as wide as the first where none is given.

    Raises:
        ValueError: a line has another width or holds what is no number; the sentence names it.
    """
    read: list[np.ndarray] = []
    for number, fields in tqdm(lines, desc="reading vectors", total=rows, unit=" rows", disable=None):
        dimension = dimension or len(fields)
        if len(fields) != dimension:
            raise ValueError(
                f"{path}, line {number}: has {len(fields)} numbers where the lines before have {dimension}; give each "
                "entity a vector of the same width"
            )
        try:
            read.append(np.array([float(text) for text in fields], dtype=np.float32))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; a vector is made of numbers") from error
    if not read:
        raise ValueError(f"{path} holds no vectors; give the file that they were written to")
    return np.stack(read)


def matrix(path: Path) -> np.ndarray:
    """Read a matrix from a .npy file, which is mapped, from the only 2-D tensor of a .safetensors file, or from text.

    Raises:
        OSError: there is no such file.
        ValueError: it is no matrix of numbers, or one of objects, which would have to be unpickled.
    """
    if not path.is_file():
        raise OSError(f"there is no file {str(path)!r}; name the file of the vectors")
    if path.suffix == ".safetensors":
        return _of_safetensors(path)
    if path.suffix == ".npy":
        try:
            values = np.load(path, mmap_mode="c", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} can't be read ({error}); save a matrix of numbers by numpy.save") from error
        return real(values, path)
    lines = ((number, line.split()) for number, line in numbered_lines(path) if line.strip())
    return rows_of_numbers(path, lines, None)


def _of_safetensors(path: Path) -> np.ndarray:
    try:
        with safe_open(path, framework="pt") as opened:  # numpy knows no bfloat16
            shapes = {key: opened.get_slice(key).get_shape() for key in opened.keys()}  # noqa: SIM118 (not a dict)
            entities = [key for key in shapes if key.startswith("entity_representations.0.")]
            matrices = [key for key in entities or shapes if len(shapes[key]) == 2]
            if len(matrices) != 1:
                raise ValueError(f"it has the 2-D tensors {matrices}, and must have a single one")
            tensor = opened.get_tensor(matrices[0])
            return real((tensor if tensor.is_complex() else tensor.float()).numpy(), path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} can't be read ({error}); save the entities' vectors alone") from error


def real(values: np.ndarray, path: Path) -> np.ndarray:
    """Return a matrix in float32 or float16; complex numbers become their real parts followed by their imaginary ones.

    Raises:
        ValueError: it is no matrix of such numbers.
    """
    if values.ndim != 2 or values.dtype.kind not in "fc":
        raise ValueError(
            f"{path}: values of shape {values.shape} and type {values.dtype} are no vectors; give floating-point "
            "numbers (entities, dimension)"
        )
    if values.dtype.kind == "c":
        return np.concatenate([values.real, values.imag], axis=1).astype(np.float32)
    return values if values.dtype in (np.float32, np.float16) else values.astype(np.float32)


def check_number(ids: list[str], vectors: np.ndarray, of_ids: Path, of_vectors: Path) -> None:
    """Raise ValueError where there are not as many vectors as ids."""
    if len(ids) != len(vectors):
        raise ValueError(
            f"{of_ids} has {len(ids)} ids, and {of_vectors} has {len(vectors)} vectors; give the two of one training"
        )


def only(folder: Path, patterns: tuple[str, ...], what: str, option: str) -> Path:
    """Return the only file of a folder that one of these patterns matches, the first that matches any.

    Raises:
        ValueError: there is none, or several.
    """
    for pattern in patterns:
        files = sorted(path for path in folder.glob(pattern) if not path.name.startswith("relation"))
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(path.name for path in files)
            raise ValueError(f"{folder} has several files that may hold the {what} ({names}); name one by {option}")
    raise ValueError(f"{folder} has no {what} ({' or '.join(patterns)}); name the file by {option}")
