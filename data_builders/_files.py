"""Read corpus files as streams of numbered records, without ever holding a whole file in memory.

A reader yields `(number, record)`. Instead of a record that can't be read it yields a `BadRecord`, so that the caller
can go on with the next record.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import mmap
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import ijson
import pyarrow
import pyarrow.parquet

from ._records import BadRecord

NumberedRecords = Iterator[tuple[int, Any]]
JSON_MARK = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)

# Files that releases put next to the corpus and that hold no records.
NOT_CORPUS: tuple[str, ...] = (
    "*rel2id.json",
    "pid2name.json",
    "relations.json",
    "labels.json",
    "label2id.json",
    "t_rex_pred2ic.json",
)
NOT_CORPUS += ("readme*", "license*", "licence*", "source.txt")


def corpus_files(
    data_dir: str | Path, patterns: tuple[str, ...], subfolders: tuple[str, ...] = (), beside: tuple[str, ...] = ()
) -> list[Path]:
    """Return the files of a corpus in a folder, sorted by name; where it has any of the subfolders, theirs instead.

    `beside` are names of files that are read along with those of the corpus and are none of them.

    Raises:
        ValueError: the folder is missing or is a file, or no file in it matches.
    """
    folder = Path(data_dir)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(f"the corpus folder {folder} {what}; data_dir must be the folder that holds the corpus files")
    folders = [folder / name for name in subfolders if (folder / name).is_dir()] or [folder]
    paths = [path for each in folders for path in sorted(each.iterdir()) if path.name not in beside]
    files = [path for path in paths if path.is_file() and _is_corpus(path.name.lower(), patterns)]
    if not files:
        raise ValueError(f"the corpus folder {folder} holds no file named {' or '.join(patterns)}; check data_dir")
    return files


def _is_corpus(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns) and not any(
        fnmatch(name, pattern) for pattern in NOT_CORPUS
    )


def companion_files(data_dir: str | Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Return those files of the given names that are in a folder, or else in the folder above it."""
    folder = Path(data_dir).absolute()
    paths = {name: [place / name for place in (folder, folder.parent)] for name in names}
    files = {name: next((path for path in both if path.is_file()), None) for name, both in paths.items()}
    return {name: path for name, path in files.items() if path is not None}


def fingerprint(files: list[Path]) -> str:
    """Return a short hash of the names, sizes and modification times of files; it changes when a file does."""
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def or_empty(records: NumberedRecords) -> NumberedRecords:
    """Yield the records of a file, or a `BadRecord` if there are none."""
    first = next(records, (1, BadRecord("the file is empty or holds no record at all")))
    yield first
    yield from records


def text_lines(path: Path) -> NumberedRecords:
    """Yield the lines of a UTF-8 file, plain or gzipped, without their line ends, numbered from 1."""
    with _opened(path) as handle:
        number = 0
        try:
            for number, raw in enumerate(handle, 1):
                yield number, _decoded(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield number + 1, BadRecord(f"is not valid gzip: {error}; the file ends here")


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")


def _decoded(raw: bytes) -> str | BadRecord:
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return BadRecord(f"is not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start} of the line")


def text_blocks(path: Path) -> NumberedRecords:
    """Yield the blocks of lines between blank lines, as lists numbered from 1; a line may be a `BadRecord`."""
    number, block = 0, []
    for _, line in chain(text_lines(path), [(0, "")]):
        if isinstance(line, BadRecord) or line.strip():
            block.append(line)
            continue
        if block:
            number += 1
            yield number, block
        block = []


def csv_records(path: Path) -> NumberedRecords:
    """Yield the rows of a CSV file with a header as objects of strings, numbered from 1 after the header."""
    # Bytes that are not UTF-8 become lone surrogates, which identify the record they are in.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        lines = _Lines(handle)
        reader = csv.reader(lines, strict=True)
        header: list[str] = []
        number = 0
        while True:
            try:
                columns = next(reader, None)
            except csv.Error as error:
                number += 1
                yield number, BadRecord(f"is not valid CSV: {error}")
                lines.back_to_second()
                reader = csv.reader(lines, strict=True)  # the old reader may be exhausted
                continue
            lines.taken.clear()
            if columns is None:
                return
            if not header:
                header = [name.strip() for name in columns] if any(map(str.strip, columns)) else []
            elif columns:
                number += 1
                yield number, _csv_record(header, columns)


class _Lines:
    """The lines of a file for a CSV reader, which can be rewound after a malformed record.

    A quotation mark that is never closed consumes all following lines; after rewinding, only the first line is lost.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines = lines
        self.taken: list[str] = []
        self.waiting: deque[str] = deque()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.waiting.popleft() if self.waiting else next(self.lines)
        self.taken.append(line)
        return line

    def back_to_second(self) -> None:
        """Return all lines of the current record except its first to the stream."""
        self.waiting.extendleft(reversed(self.taken[1:]))
        self.taken.clear()


def _csv_record(header: list[str], columns: list[str]) -> dict[str, str] | BadRecord:
    if len(columns) != len(header):
        return BadRecord(f"has {len(columns)} columns but the header has {len(header)}: {', '.join(header)}")
    byte = next((ord(character) - 0xDC00 for text in columns for character in text if _escaped(character)), None)
    return dict(zip(header, columns, strict=True)) if byte is None else BadRecord(f"is not UTF-8: byte 0x{byte:02x}")


def _escaped(character: str) -> bool:
    return "\udc80" <= character <= "\udcff"


def json_lines(path: Path) -> NumberedRecords:
    """Yield the JSON value of each line of a file, numbered by line; blank lines are skipped."""
    for number, line in text_lines(path):
        if isinstance(line, BadRecord):
            yield number, line
        elif line.strip():
            yield number, _parsed(line)


def _parsed(text: str | bytes, whole: bool = True) -> Any:
    """Return the JSON value of a text, or a `BadRecord`; NaN and Infinity, which Python writes, are not valid JSON.

    Unless `whole`, the `BadRecord` replaces only the NaN and not the whole value.
    """
    invalid: list[BadRecord] = []

    def constant(name: str) -> BadRecord:
        invalid.append(BadRecord(f"is not valid JSON: it holds {name}"))
        return invalid[-1]

    try:
        value = json.loads(text, parse_constant=constant)
    except UnicodeDecodeError as error:
        return BadRecord(f"is not valid JSON (the file is not UTF-8: byte 0x{error.object[error.start]:02x})")
    except (ValueError, RecursionError) as error:
        return BadRecord(f"is not valid JSON: {error}")
    return invalid[0] if invalid and whole else value


def sound(value: Any) -> Any:
    """Return the value, or a `BadRecord` that occurs anywhere inside it."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, BadRecord):
            return item
        waiting += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return value


def json_records(path: Path) -> NumberedRecords:
    """Yield the items of a file that is a single JSON array, or else the JSON values of its lines."""
    return json_array(path) if is_json_array(path) else json_lines(path)


def is_json_array(path: Path) -> bool:
    """Return whether a file starts with the opening bracket of a JSON array."""
    with path.open("rb") as handle:
        return _first_byte(handle) == b"["


def parquet_records(path: Path, columns: tuple[str, ...]) -> NumberedRecords:
    """Yield the rows of a Parquet file as objects with those of the columns that it has, numbered from 1."""
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            known = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=1000, columns=known):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        yield number + 1, BadRecord(f"is not valid Parquet: {' '.join(str(error).split())}; the file ends here")


def json_array(path: Path) -> NumberedRecords:
    """Yield the items of a file that is a single JSON array, numbered from 1."""
    return _json_stream(path, b"[", "array", partial(ijson.items, prefix="item", use_float=True), _parsed)


def json_members(path: Path) -> NumberedRecords:
    """Yield the (key, value) members of a file that is a single JSON object, numbered from 1.

    A NaN inside a value, for example in one of its records, is replaced by a `BadRecord`.
    """
    return _json_stream(path, b"{", "object", partial(ijson.kvitems, prefix="", use_float=True), _parsed_member)


def _parsed_member(text: bytes) -> Any:
    member = _parsed(b"{" + text + b"}", whole=False)
    return member if isinstance(member, BadRecord) else next(iter(member.items()), BadRecord("holds no member"))


def _json_stream(
    path: Path,
    opening: bytes,
    what: str,
    parse: Callable[[BinaryIO], Iterator[Any]],
    parse_item: Callable[[bytes], Any],
) -> NumberedRecords:
    """Yield the items of a streaming parser; after its first failure, cut out each item and parse it separately."""
    with path.open("rb") as handle:
        first = _first_byte(handle)
        if first > b"\x7f":
            yield 1, BadRecord(f"the file is not UTF-8: it begins with byte 0x{first.hex()}")
        elif first and first != opening:
            yield 1, BadRecord(f"the file must be one JSON {what} but begins with {first.decode()!r}")
        if first != opening:
            return
        start, number = handle.tell() + 1, 0
        try:
            for number, item in enumerate(parse(handle), 1):
                yield number, item
        except (ijson.JSONError, UnicodeDecodeError) as error:
            yield from _recovered(handle, start, parse_item, number, _reason(error))


def _recovered(
    handle: BinaryIO, start: int, parse_item: Callable[[bytes], Any], known: int, reason: str
) -> NumberedRecords:
    """Yield the items after the first `known` items, with a `BadRecord` instead of each that is broken or cut off."""
    ends_here = BadRecord(f"is not valid JSON ({reason}), so the file ends here")
    with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        number = known
        for number, (first, last) in enumerate(islice(_item_bounds(data, start), known, None), known + 1):
            yield number, ends_here if last is None else parse_item(data[first:last])
    if number == known:  # all items are complete and the error is after them
        yield known + 1, ends_here


def _item_bounds(data: mmap.mmap, start: int) -> Iterator[tuple[int, int | None]]:
    """Yield the start and end of each item, which ends at a comma or at a closing outermost bracket.

    The end is None if the item is cut off or its brackets are not closed.
    """
    depth, first, closed = 0, start, False
    for mark in JSON_MARK.finditer(data, start):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(mark.group(), 0)
        if depth == 0 and mark.group() in (b"]", b"}"):
            yield first, mark.end()
            first, closed = mark.end(), True
        elif depth < 0 or (depth == 0 and mark.group() == b","):
            blank = not data[first : mark.start()].strip()
            if not blank or not (closed or depth < 0):
                yield first, mark.start()
            first, closed = mark.end(), False
        if depth < 0:
            return
    yield first, None


def _first_byte(handle: BinaryIO) -> bytes:
    """Return the first byte after byte order mark and white space, and leave the handle at it."""
    if handle.read(3) != codecs.BOM_UTF8:
        handle.seek(0)
    while (byte := handle.read(1)).isspace():
        pass
    handle.seek(-len(byte), 1)
    return byte


def _reason(error: Exception) -> str:
    """Return the reason of a parser error, without the excerpt of the file that the parser prints below it."""
    match = re.search(r"(?:parse|lexical) error: ([^\n\\]+)", str(error))
    reason = match.group(1) if match else str(error)
    return f"the file is not UTF-8: {reason}" if "UTF8" in reason else reason.strip()
