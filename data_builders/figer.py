"""FIGER: entity mentions with fine-grained types such as /person/author, by distant supervision.

Source: Ling and Weld, AAAI 2012, https://github.com/xiaoling/figer; the prepared files by Zhang et al., ACL 2019,
    https://github.com/thunlp/ERNIE
Licence: that of FIGER, BSD with an advertising clause: keep the acknowledgement of its authors.
Layout: two variants. Prepared: `*.json`, JSON arrays of `{"sent", "start", "end", "labels": [str], "ents"}`; spans
    count characters, end exclusive; of `ents` the entity of the mention itself is read, and `labels.json` is ignored.
    FIGER's manually annotated test set (GOLD),
    `*.label`: one token per line, a tab, and `O`, `B-` or `I-` with types separated by commas; an empty line after
    each sentence; one row per mention, whose text is the tokens joined by spaces.
Splits: by file name; otherwise by hash, except that `*.label` is "test".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ._builder import Row
from ._entity_typing import EntityTypingBuilder, entity_typing_row
from ._files import NumberedRecords, text_blocks
from ._records import BadRecord, shown
from ._splits import TEST, FilesBySplit

SAMPLE_FILES = {
    "train.json": (
        '[{"sent": "Mira Voss wrote of Tarnstad .", "start": 0, "end": 9, "labels": ["/person", "/person/author"]}]'
    ),
    "train_gold.label": (
        "In\tO\nOld\tB-/location,/location/city\nTarnstad\tI-/location,/location/city\nMira\tO\nslept\tO\n.\tO\n"
    ),
}
SAMPLE_ROWS = [
    {
        "id": "train.json:1",
        "text": "Mira Voss wrote of Tarnstad .",
        "mention": {"start": 0, "end": 9},
        "labels": ["/person", "/person/author"],
        "entity_id": "",
    },
    {
        "id": "train_gold.label:1",
        "text": "In Old Tarnstad Mira slept .",
        "mention": {"start": 3, "end": 15},
        "labels": ["/location", "/location/city"],
        "entity_id": "",
    },
]

Token = tuple[str, str, str]  # the text, the tag "B", "I" or "O", and the types as written


class Corpus(EntityTypingBuilder):
    """Read FIGER, as prepared by ERNIE, and its gold test set: one row per mention."""

    file_patterns = ("*.json", "*.label")
    homepage = "https://github.com/xiaoling/figer"
    licence = "FIGER licence (BSD with an advertising clause)"

    def groups(self) -> FilesBySplit:
        """Return the files by split; a gold file whose name contains no split is a test file."""
        groups = super().groups()
        undivided = groups.pop(None, [])
        gold = [path for path in undivided if path.suffix.lower() == ".label"]
        rest = [path for path in undivided if path not in gold]
        groups |= {TEST: [*groups.get(TEST, []), *gold], None: rest}
        return {split: files for split, files in groups.items() if files}

    def read(self, path: Path) -> NumberedRecords:
        """Yield the records of a prepared file or the sentences of a gold file."""
        return text_blocks(path) if path.suffix.lower() == ".label" else super().read(path)

    def rows(self, record: Any) -> Iterable[Row]:
        """Return the row of a prepared record, or a row for each mention of a gold sentence."""
        return _gold_rows(record) if isinstance(record, list) else super().rows(record)


def _gold_rows(lines: list[str | BadRecord]) -> Iterator[Row]:
    tokens = [_token(line, number) for number, line in enumerate(lines, 1)]
    text = " ".join(word for word, _, _ in tokens)
    start, mention = 0, None
    for index, (word, tag, types) in enumerate(tokens):
        if tag == "I" and mention is None:
            raise BadRecord(
                f"line {index + 1} of the sentence continues a mention, {shown(types)}, that has not begun"
            )
        if tag == "B":
            mention = (start, types.split(","))
        elif tag == "O":
            mention = None
        start += len(word) + 1
        if mention is not None and (index + 1 == len(tokens) or tokens[index + 1][1] != "I"):
            yield entity_typing_row(text, mention[0], start - 1, mention[1])


def _token(line: str | BadRecord, number: int) -> Token:
    if isinstance(line, BadRecord):
        raise line
    columns = line.rstrip("\t").split("\t")
    tag, _, types = columns[-1].partition("-")
    if len(columns) != 2 or tag not in ("B", "I", "O") or (tag == "O") == bool(types) or "" in types.split(",")[1:]:
        raise BadRecord(f"line {number} of the sentence must be token TAB O, B-types or I-types but is {shown(line)}")
    return columns[0], tag, types
