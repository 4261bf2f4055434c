"""Plain text: a passage per line, JSON lines with a field "text", or Parquet with a column "text".

Source: your own files.
Licence: your own.
Layout: `*.txt`, a passage of any number of sentences per line; `*.jsonl`, `{"text": str}`, or `*.parquet`, a column
    "text", both with optional `"id"` and `"mentions": [{"start", "end"}]`, the mentions of entities as character
    offsets, end exclusive. `*.txt` and `*.jsonl` may be gzipped (`*.txt.gz`).
Left out and counted: lines and texts without a letter, digit or sign (`dropped_empty`).
Splits: by file name; otherwise by a hash of the passage.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ._builder import CorpusBuilder, Row
from ._counts import Dropped
from ._files import NumberedRecords, json_lines, parquet_records, text_lines
from ._records import BadRecord, optional, required, shown

SAMPLE_FILES = {
    "train.txt": "\nThe river Lind crosses Tarnstad. It is slow.\n\n",
    "train.jsonl": '{"text": "Mira Voss rests.", "id": "lantern-2", "mentions": [{"start": 0, "end": 9}]}\n',
}
SAMPLE_ROWS = [
    {"id": "lantern-2", "text": "Mira Voss rests.", "mentions": [{"start": 0, "end": 9}]},
    {"id": "train.txt:2", "text": "The river Lind crosses Tarnstad. It is slow.", "mentions": []},
]


class Corpus(CorpusBuilder):
    """Read passages: one row per line or record."""

    record_type = "text"
    file_patterns = ("*.txt", "*.txt.gz", "*.jsonl", "*.jsonl.gz", "*.parquet")
    licence = "your own"
    example = '{"text": "Mira Voss rests.", "mentions": [{"start": 0, "end": 9}]}'

    def read(self, path: Path) -> NumberedRecords:
        """Yield the lines or records of a file."""
        if path.suffix.lower() == ".parquet":
            return parquet_records(path, ("text", "id", "mentions"))
        return json_lines(path) if ".jsonl" in path.name.lower() else _passages(path)

    def rows(self, record: Any) -> Iterable[Row | Dropped]:
        """Return the row of a passage."""
        text = required(record, "text", str)
        if not text.strip():
            return [Dropped("empty", text)]
        mentions = [
            _span(mention, number, len(text)) for number, mention in enumerate(optional(record, "mentions", []))
        ]
        name = optional(record, "id", "")
        row = {"text": text, "mentions": mentions}
        return [{"id": name, **row} if name else row]


def _passages(path: Path) -> NumberedRecords:
    """Yield the lines of a file as records, the empty ones too; nothing if all are empty."""
    empty: list[int] = []
    for number, line in text_lines(path):
        if isinstance(line, str) and not line.strip():
            empty.append(number)
            continue
        yield from _without_text(empty)
        empty.clear()
        yield number, line if isinstance(line, BadRecord) else {"text": line.strip()}
    if empty and empty[0] > 1:
        yield from _without_text(empty)


def _without_text(numbers: list[int]) -> NumberedRecords:
    return ((number, {"text": ""}) for number in numbers)


def _span(mention: Any, number: int, length: int) -> dict[str, int]:
    if not isinstance(mention, dict):
        raise BadRecord(f"field 'mentions', entry {number}: must be an object but is {shown(mention)}")
    start, end = required(mention, "start", int), required(mention, "end", int)
    if not 0 <= start < end <= length:
        raise BadRecord(
            f"field 'mentions', entry {number}: its offsets are [{start}, {end}) but must not be empty or reversed "
            f"and must lie in 0..{length}"
        )
    return {"start": start, "end": end}
