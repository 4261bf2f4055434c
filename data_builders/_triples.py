"""Read files of triples: TSV, with or without a header line, CSV with one, and JSON lines."""

from __future__ import annotations

from pathlib import Path

from ._files import NumberedRecords, csv_records, json_lines, text_lines
from ._records import BadRecord, shown

TRIPLE_FILES = ("*.tsv", "*.csv", "*.jsonl")
COLUMNS = ("head", "relation", "tail")
HEADERS = {  # the names of these columns in header lines
    "head": ("head", "h", "subject", "subj", "sub", "s", "source", "src", "head_entity", "entity1", "from"),
    "relation": ("relation", "rel", "r", "predicate", "pred", "p", "property", "relation_type", "label", "edge"),
    "tail": ("tail", "t", "object", "obj", "o", "target", "dst", "tail_entity", "entity2", "to"),
}


def triple_records(path: Path) -> NumberedRecords:
    """Yield the triples of a file as objects with the keys head, relation and tail."""
    if path.suffix.lower() == ".jsonl":
        yield from json_lines(path)
        return
    if path.suffix.lower() == ".csv":
        yield from ((number, _of_row(row)) for number, row in csv_records(path))
        return
    names: tuple[str, ...] | None = None
    for number, line in text_lines(path):
        if isinstance(line, BadRecord):
            yield number, line
        elif line.strip():
            header = _header(line) if names is None else None
            names = names or header or COLUMNS
            if header is None:
                yield number, _columns(line, names)


def _header(line: str) -> tuple[str, ...] | None:
    """Return the names of the columns in order if the line is a header, else None."""
    names = tuple(map(_column, line.lstrip("#").split("\t")))
    return names if sorted(names) == sorted(COLUMNS) else None


def _column(word: str) -> str:
    """Return which of the three columns a word of a header means, or nothing."""
    word = word.strip().lower().replace(" ", "_")
    return next((name for name, known in HEADERS.items() if word in known), "")


def _of_row(row: dict[str, str] | BadRecord) -> dict[str, str] | BadRecord:
    """Return the triple in a row of a CSV file, which may have other columns too."""
    if isinstance(row, BadRecord):
        return row
    meant = [_column(word) for word in row]
    wrong = [name for name in COLUMNS if meant.count(name) != 1]
    if wrong:
        return BadRecord(
            f"the header names {meant.count(wrong[0])} columns for the {wrong[0]}: {shown(list(row))}; name one "
            f"column each {', '.join(COLUMNS)}"
        )
    return {name: text for name, text in zip(meant, row.values(), strict=True) if name}


def _columns(line: str, names: tuple[str, ...]) -> dict[str, str] | BadRecord:
    columns = line.split("\t")
    if len(columns) != 3:
        return BadRecord(f"a line must be {' TAB '.join(names)} but has {len(columns)} columns: {shown(line)}")
    return dict(zip(names, columns, strict=True))
