"""Read templates, the phrasings of relations with a slot for the head and one for the tail, as LAMA writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ._files import NumberedRecords, json_lines, or_empty, text_lines
from ._names import normal
from ._records import BadRecord, named, required, shown, strings

HEAD, TAIL = "[X]", "[Y]"

OnBad = Callable[[Path, int, BadRecord], None]


def holds_templates(path: Path) -> bool:
    """Return whether the name of a file says that it holds templates: it contains the word "templates"."""
    return path.suffix.lower() in (".tsv", ".jsonl") and "templates" in re.split(r"[^a-z]+", path.name.lower())


class Templates:
    """The phrasings of each relation; those of several files are pooled, each phrasing once.

    Args:
        files: JSON lines, `{"relation", "phrasings"}` or `{"relation", "template"}`; or TSV, relation TAB phrasing.
        on_bad: called with file, line number and problem for each malformed line.
    """

    def __init__(self, files: list[Path], on_bad: OnBad) -> None:
        self.phrasings: dict[str, dict[str, None]] = {}
        self.files: dict[Path, int] = {}
        for path in files:
            own: dict[str, list[str]] = {}
            for number, record in or_empty(_records(path)):
                try:
                    _add(record, own)
                except BadRecord as problem:
                    on_bad(path, number, problem)
            for relation, phrasings in own.items():
                self.phrasings.setdefault(relation, {}).update(dict.fromkeys(phrasings))
            self.files[path] = sum(map(len, own.values()))

    def of(self, relation: str) -> list[str]:
        """Return the phrasings of a relation.

        Raises:
            BadRecord: it has none.
        """
        if relation not in self.phrasings:
            names = ", ".join(path.name for path in self.files) or "any file templates*.jsonl beside it"
            raise BadRecord(
                f"field 'relation' is {shown(relation)}, which has no template in {names}; there are templates for "
                f"{shown(sorted(self.phrasings))}"
            )
        return list(self.phrasings[relation])


def read_templates(path: Path) -> dict[str, list[str]]:
    """Return the phrasings of each relation in a file of templates.

    Raises:
        OSError: the file can't be read.
        ValueError: a line is malformed; the message names file and line.
    """

    def refuse(where: Path, number: int, problem: BadRecord) -> None:
        raise BadRecord(f"{where}, record {number}: {problem}; correct it")

    return {relation: list(own) for relation, own in Templates([path], refuse).phrasings.items()}


def _records(path: Path) -> NumberedRecords:
    return json_lines(path) if path.suffix.lower() == ".jsonl" else _lines(path)


def _lines(path: Path) -> NumberedRecords:
    """Yield the lines of a TSV file as lists of columns; a header line is left out."""
    for number, line in text_lines(path):
        if isinstance(line, BadRecord):
            yield number, line
        elif line.strip() and not (number == 1 and line.lower().startswith("relation\t") and HEAD not in line):
            yield number, line.split("\t")


def _add(record: Any, known: dict[str, list[str]]) -> None:
    """Add the phrasings of a line to those of its file."""
    if isinstance(record, BadRecord):
        raise record
    if isinstance(record, list):
        if len(record) != 2:
            raise BadRecord(f"a line must be relation TAB phrasing but has {len(record)} columns: {shown(record)}")
        relation, phrasings = named({"relation": record[0]}, "relation"), [record[1]]
    else:
        relation, phrasings = named(record, "relation"), _phrasings(record)
        if normal(relation) in known:
            raise BadRecord(
                f"field 'relation' is {shown(relation)}, which has an earlier line; list all its phrasings in one"
            )
    own = known.get(normal(relation), [])
    known[normal(relation)] = [*own, *_checked(phrasings, own)]


def _phrasings(record: dict[str, Any]) -> list[str]:
    if "phrasings" not in record and "template" in record:
        return [required(record, "template", str)]
    return strings(record, "phrasings")


def _checked(phrasings: list[str], earlier: list[str]) -> Iterator[str]:
    """Yield phrasings, stripped.

    Raises:
        BadRecord: a phrasing does not have each slot once, or stands here twice.
    """
    seen = set(earlier)
    for phrasing in map(str.strip, phrasings):
        for slot, what in ((HEAD, "head"), (TAIL, "tail")):
            if phrasing.count(slot) != 1:
                raise BadRecord(
                    f"the phrasing {shown(phrasing)} has {phrasing.count(slot)} slots {slot} for the {what} and must "
                    "have one"
                )
        if phrasing in seen:
            raise BadRecord(f"the phrasing {shown(phrasing)} stands here twice")
        seen.add(phrasing)
        yield phrasing
