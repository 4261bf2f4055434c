"""Wiki80: 80 Wikidata relations with 700 Wikipedia sentences each, made from FewRel.

Source: Han et al., EMNLP 2019 (OpenNRE); https://github.com/thunlp/OpenNRE
Licence: MIT.
Layout: ``*.txt`` or ``*.jsonl``, one JSON object a line: ``{"token": [str], "h": {"name", "id", "pos": [start, end]},
    "t": {the same}, "relation": name}``; ``pos`` counts tokens, end exclusive. The corpora of map-tuning
    (``wiki20m_train.txt``) have this layout too. ``rel2id.json`` is not needed.
Splits: by file name, e.g. ``wiki80_train.txt`` and ``wiki80_val.txt``; without split words, by hash.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ._common import CorpusBuilder, Row
from ._files import NumberedRecords, json_lines
from ._records import BadRecord, named, optional, relation_row, required, shown, strings, wikidata_id

SAMPLE_FILES = {
    "wiki80_train.txt": (
        '{"token": ["Mira", "Voss", "works", "in", "Tarnstad", "."],'
        ' "h": {"name": "mira voss", "id": "Q901", "pos": [0, 2]},'
        ' "t": {"name": "tarnstad", "id": "Q902", "pos": [4, 5]}, "relation": "work location"}\n'
        '{"token": ["Tarnstad", "lies", "on", "the", "Lind"],'
        ' "h": {"name": "lind", "id": "Q904", "pos": [4, 5]},'
        ' "t": {"name": "tarnstad", "id": "Q902", "pos": [0, 1]}, "relation": "crosses"}\n'
    )
}
SAMPLE_ROWS = [
    {
        "id": "wiki80_train.txt:1",
        "text": "Mira Voss works in Tarnstad .",
        "head": {"start": 0, "end": 9},
        "tail": {"start": 19, "end": 27},
        "relation": "work location",
        "head_id": "Q901",
        "tail_id": "Q902",
    },
    {
        "id": "wiki80_train.txt:2",
        "text": "Tarnstad lies on the Lind",
        "head": {"start": 21, "end": 25},
        "tail": {"start": 0, "end": 8},
        "relation": "crosses",
        "head_id": "Q904",
        "tail_id": "Q902",
    },
]


class Wiki80(CorpusBuilder):
    """Reads Wiki80 files: one row for each line."""

    record_type = "relation"
    file_patterns = ("*.txt", "*.jsonl")
    homepage = "https://github.com/thunlp/OpenNRE"
    licence = "MIT"

    def read(self, path: Path) -> NumberedRecords:
        """Yields the JSON objects of a file, numbered by line."""
        return json_lines(path)

    def rows(self, record: Any) -> Iterable[Row]:
        """Returns the one row of a sentence."""
        tokens = strings(record, "token")
        (head, head_id), (tail, tail_id) = (_mention(record, name) for name in "ht")
        return [relation_row(tokens, head, tail, named(record, "relation"), head_id, tail_id)]


def _mention(record: dict[str, Any], name: str) -> tuple[tuple[int, int], str]:
    """The token span (end exclusive) and the Wikidata id of a mention."""
    mention = required(record, name, dict)
    position = required(mention, "pos", list)
    if len(position) != 2 or any(type(index) is not int for index in position):
        raise BadRecord(f"field '{name}.pos' must be two integers but is {shown(position)}")
    return (position[0], position[1]), wikidata_id(optional(mention, "id", ""))
