"""Reads corpus files as streams of numbered records; no file is ever held in memory as a whole.

A reader yields ``(number, record)``. Where a record cannot be read, a :class:`BadRecord` stands in its place, so that
the caller can go on with the next one.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from ._records import BadRecord

NumberedRecords = Iterator[tuple[int, Any]]

# Files that releases put beside the corpus and that hold no records.
NOT_CORPUS = ("*rel2id.json", "pid2name.json", "relations.json", "labels.json", "label2id.json", "t_rex_pred2ic.json")
NOT_CORPUS += ("readme*", "license*", "licence*", "source.txt")


def corpus_files(data_dir: str | Path, patterns: tuple[str, ...]) -> list[Path]:
    """Lists the files of a corpus in a folder, sorted by name.

    Raises:
        ValueError: the folder is missing or is no folder, or no file in it matches.
    """
    folder = Path(data_dir)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"the corpus folder {folder} {what}; data_dir must be the folder that holds the corpus files")
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and _is_corpus(path.name.lower(), patterns)]
    if not files:
        raise ValueError(f"the corpus folder {folder} holds no file named {' or '.join(patterns)}; check data_dir")
    return files


def _is_corpus(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns) and not any(
        fnmatch(name, pattern) for pattern in NOT_CORPUS
    )


def fingerprint(files: list[Path]) -> str:
    """A short hash of the files' names, sizes and times of change: it changes when a file does."""
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def or_empty(records: NumberedRecords) -> NumberedRecords:
    """Yields the records of a file, and a ``BadRecord`` if there is none."""
    first = next(records, (1, BadRecord("the file is empty or holds no record at all")))
    yield first
    yield from records


def text_lines(path: Path) -> NumberedRecords:
    """Yields the lines of a UTF-8 file without their line ends, numbered from 1."""
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, 1):
            if number == 1:
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                yield number, raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                byte = raw[error.start]
                yield number, BadRecord(f"is not UTF-8: byte 0x{byte:02x} at position {error.start} of the line")


def json_lines(path: Path) -> NumberedRecords:
    """Yields the JSON values of a file with one on each line, numbered by line; blank lines hold none."""
    for number, line in text_lines(path):
        if isinstance(line, BadRecord):
            yield number, line
        elif line.strip():
            yield number, _parsed(line)


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return BadRecord(f"is not valid JSON: {error}")


def json_array(path: Path) -> NumberedRecords:
    """Yields the items of a file that is one JSON array, numbered from 1."""
    return _json_stream(path, b"[", "array", partial(ijson.items, prefix="item", use_float=True))


def json_members(path: Path) -> NumberedRecords:
    """Yields the (key, value) members of a file that is one JSON object, numbered from 1."""
    return _json_stream(path, b"{", "object", partial(ijson.kvitems, prefix="", use_float=True))


def _json_stream(path: Path, opening: bytes, what: str, parse: Callable[[BinaryIO], Iterator[Any]]) -> NumberedRecords:
    with path.open("rb") as handle:
        first = _first_byte(handle)
        if first > b"\x7f":
            yield 1, BadRecord(f"the file is not UTF-8: it begins with byte 0x{first.hex()}")
        elif first and first != opening:
            yield 1, BadRecord(f"the file must be one JSON {what} but begins with {first.decode()!r}")
        if first != opening:
            return
        number = 0
        try:
            for number, item in enumerate(parse(handle), 1):
                yield number, item
        except (ijson.JSONError, UnicodeDecodeError) as error:
            # A broken array tells nothing about where its next item begins.
            yield number + 1, BadRecord(f"is not valid JSON ({_reason(error)}), so the file ends here")


def _first_byte(handle: BinaryIO) -> bytes:
    """The first byte that is no byte order mark and no space; the handle is left on it."""
    if handle.read(3) != codecs.BOM_UTF8:
        handle.seek(0)
    while (byte := handle.read(1)).isspace():
        pass
    handle.seek(-len(byte), 1)
    return byte


def _reason(error: Exception) -> str:
    """The parser's reason without the picture of the place that it draws on further lines."""
    found = re.search(r"(?:parse|lexical) error: ([^\n\\]+)", str(error))
    reason = found.group(1) if found else str(error)
    return f"the file is not UTF-8: {reason}" if "UTF8" in reason else reason.strip()
