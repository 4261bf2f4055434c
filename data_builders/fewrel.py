"""FewRel 1.0: 100 Wikidata relations, of which 80 are public, with 700 hand-checked Wikipedia sentences each.

Source: Han et al., EMNLP 2018; https://github.com/thunlp/FewRel
Licence: MIT.
Layout: one or more files (`train_wiki.json`, `val_wiki.json`) with a JSON object each: relation id -> list of
    `{"tokens": [str], "h": [name, Wikidata id, [[token index, ...], ...]], "t": [the same]}`. The mention is the
    first contiguous index list; the tokens are trusted and the name, which is lower-cased, is not. To predict
    relations, `load_file` also reads the sentence records alone, as a JSON array or one per line.
Splits: by file name. The published splits share no relations, for few-shot learning; to classify relations, rename
    the files so that their names contain no split: a tenth of the sentences is then "validation", by hash.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ._builder import CorpusBuilder, Row
from ._files import NumberedRecords, is_json_array, json_members, json_records, sound
from ._records import BadRecord, relation_row, required, shown, strings, typed, wikidata_id
from ._splits import FilesBySplit, of_one_domain

SAMPLE_FILES = {
    "train_wiki.json": (
        '{"P937": [{"tokens": ["Mira", "Voss", "works", "in", "Tarnstad", "."],'
        ' "h": ["mira voss", "Q901", [[0, 1]]], "t": ["tarnstad", "Q902", [[4]]]}],'
        ' "P112": [{"tokens": ["Halden", "Works", "was", "founded", "by", "Mira", "Voss", "."],'
        ' "h": ["halden works", "Q903", [[0, 1]]], "t": ["mira voss", "Q901", [[5, 7], [5, 6]]]}]}'
    )
}
SAMPLE_ROWS = [
    {
        "id": "train_wiki.json:1",
        "text": "Mira Voss works in Tarnstad .",
        "head": {"start": 0, "end": 9},
        "tail": {"start": 19, "end": 27},
        "relation": "P937",
        "head_id": "Q901",
        "tail_id": "Q902",
    },
    {
        "id": "train_wiki.json:2",
        "text": "Halden Works was founded by Mira Voss .",
        "head": {"start": 0, "end": 12},
        "tail": {"start": 28, "end": 37},
        "relation": "P112",
        "head_id": "Q903",
        "tail_id": "Q901",
    },
]


class Corpus(CorpusBuilder):
    """Read FewRel files: one row per sentence."""

    record_type = "relation"
    file_patterns = ("*.json",)
    homepage = "https://github.com/thunlp/FewRel"
    licence = "MIT"

    def groups(self) -> FilesBySplit:
        """Return the files by split, without validation files of domains other than that of the training file."""
        return of_one_domain(super().groups())

    def read(self, path: Path) -> NumberedRecords:
        """Yield pairs of a relation and a sentence record, numbered through the whole file."""
        if not self.config.labelled and _has_no_relations(path):
            for number, record in json_records(path):
                yield number, record if isinstance(record, BadRecord) else ("", record)
            return
        number = 0
        for _, member in json_members(path):
            relation, records = ("", [member]) if isinstance(member, BadRecord) else member
            if not isinstance(records, list):
                records = [BadRecord(f"field '{relation}' must be a list of records but is {shown(records)}")]
            for record in records:
                number += 1
                record = sound(record)
                yield number, record if isinstance(record, BadRecord) else (relation, record)

    def rows(self, record: tuple[str, Any]) -> Iterable[Row]:
        """Return the row of a sentence."""
        relation, sentence = record
        if self.config.labelled and not relation.strip():
            raise BadRecord("the relation, the key of the list of records, is blank")
        tokens = strings(sentence, "tokens")
        (head, head_id), (tail, tail_id) = (_mention(sentence, name, len(tokens)) for name in "ht")
        return [relation_row(tokens, head, tail, relation, head_id, tail_id)]


def _has_no_relations(path: Path) -> bool:
    """Return whether a file holds bare sentence records, in an array or in lines, rather than lists by relation."""
    _, first = next(json_records(path), (1, None))
    return is_json_array(path) or (isinstance(first, dict) and "tokens" in first)


def _mention(record: dict[str, Any], name: str, length: int) -> tuple[tuple[int, int], str]:
    """Return the token span (end exclusive) and the Wikidata id of a mention."""
    mention = required(record, name, list)
    if len(mention) != 3:
        raise BadRecord(f"field '{name}' must be [name, id, index lists] but is {shown(mention)}")
    for indices in typed(mention[2], f"{name}[2]", list):
        if _contiguous(indices) and indices[0] >= 0 and indices[-1] < length:
            return (indices[0], indices[-1] + 1), wikidata_id(typed(mention[1], f"{name}[1]", str))
    raise BadRecord(
        f"field '{name}[2]' must hold a contiguous list of token indices in 0..{length - 1} but is {shown(mention[2])}"
    )


def _contiguous(indices: Any) -> bool:
    valid = isinstance(indices, list) and bool(indices) and all(type(index) is int for index in indices)
    return valid and indices == list(range(indices[0], indices[0] + len(indices)))
