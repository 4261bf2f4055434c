"""Wiki80: 80 Wikidata relations with 700 Wikipedia sentences each, made from FewRel.

Source: Han et al., EMNLP 2019 (OpenNRE); https://github.com/thunlp/OpenNRE
Licence: MIT.
Layout: two variants. As released: `*.txt` or `*.jsonl`, a JSON object per line: `{"token": [str], "h": {"name",
    "id", "pos": [start, end]}, "t": {the same}, "relation": name}`; `pos` counts tokens, end exclusive. The corpora
    of map-tuning (`wiki20m_train.txt`) have the same layout. With TACRED's keys: `*.json`, JSON arrays of
    `{"token", "relation", "subj_start", "subj_end", "obj_start", "obj_end", "subj_type", "obj_type"}`; spans end
    inclusive. `rel2id.json` is ignored.
Splits: by file name, such as `wiki80_train.txt` and `wiki80_val.txt`; otherwise by hash. The only public file with
    TACRED's keys is `dev.json`. If there are no other splits, it is split by a hash of the sentence, seven tenths
    "train", one "validation" and two "test". Since Wiki80 was made from FewRel, a test of transfer from FewRel must
    leave the sentences of FewRel out: `load("wiki80", data_dir, exclude={"fewrel": fewrel_dir})`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ._builder import CorpusBuilder, Row
from ._files import NumberedRecords, json_lines, json_records
from ._records import (
    BadRecord,
    label_of,
    optional,
    relation_row,
    required,
    shown,
    strings,
    subject_object_row,
    wikidata_id,
)
from ._splits import SHARES, TEST, TRAIN, VALIDATION, FilesBySplit, Shares

ONE_FILE: Shares = ((VALIDATION, 1), (TEST, 2), (TRAIN, 7))

SAMPLE_FILES = {
    "wiki80_train.txt": (
        '{"token": ["Mira", "Voss", "works", "in", "Tarnstad", "."],'
        ' "h": {"name": "mira voss", "id": "Q901", "pos": [0, 2]},'
        ' "t": {"name": "tarnstad", "id": "Q902", "pos": [4, 5]}, "relation": "work location"}\n'
    ),
    "wiki80_train.json": (
        '[{"token": ["Tarnstad", "lies", "on", "the", "Lind"], "relation": "crosses", "subj_start": 4, "subj_end": 4,'
        ' "obj_start": 0, "obj_end": 0, "subj_type": "river", "obj_type": "city"}]'
    ),
}
SAMPLE_ROWS = [
    {
        "id": "wiki80_train.json:1",
        "text": "Tarnstad lies on the Lind",
        "head": {"start": 21, "end": 25},
        "tail": {"start": 0, "end": 8},
        "relation": "crosses",
        "head_id": "",
        "tail_id": "",
    },
    {
        "id": "wiki80_train.txt:1",
        "text": "Mira Voss works in Tarnstad .",
        "head": {"start": 0, "end": 9},
        "tail": {"start": 19, "end": 27},
        "relation": "work location",
        "head_id": "Q901",
        "tail_id": "Q902",
    },
]


class Corpus(CorpusBuilder):
    """Read Wiki80 in either layout: one row per record."""

    record_type = "relation"
    file_patterns = ("*.txt", "*.jsonl", "*.json")
    homepage = "https://github.com/thunlp/OpenNRE"
    licence = "MIT"

    def groups(self) -> FilesBySplit:
        """Return the files by split; if `dev.json` is the only file, it is split by hash."""
        groups = super().groups()
        return {None: groups[VALIDATION]} if set(groups) == {VALIDATION} and self._has_tacred_keys() else groups

    def hash_shares(self) -> Shares:
        """Return three splits for the public file with TACRED's keys, otherwise the usual two."""
        return ONE_FILE if self._has_tacred_keys() else SHARES

    def _has_tacred_keys(self) -> bool:
        return all(path.suffix.lower() == ".json" for path in self.files)

    def read(self, path: Path) -> NumberedRecords:
        """Yield the records of a file."""
        return json_records(path) if path.suffix.lower() == ".json" else json_lines(path)

    def rows(self, record: Any) -> Iterable[Row]:
        """Return the row of a sentence."""
        tokens, relation = strings(record, "token"), label_of(record, "relation", self.config.labelled)
        if not record.keys() & {"h", "t"}:
            return [subject_object_row(record, relation)]
        (head, head_id), (tail, tail_id) = (_mention(record, name) for name in "ht")
        return [relation_row(tokens, head, tail, relation, head_id, tail_id)]


def _mention(record: dict[str, Any], name: str) -> tuple[tuple[int, int], str]:
    """Return the token span (end exclusive) and the Wikidata id of a mention."""
    mention = required(record, name, dict)
    position = required(mention, "pos", list)
    if len(position) != 2 or any(type(index) is not int for index in position):
        raise BadRecord(f"field '{name}.pos' must be two integers but is {shown(position)}")
    return (position[0], position[1]), wikidata_id(optional(mention, "id", ""))
