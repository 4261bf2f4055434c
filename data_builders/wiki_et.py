"""Wiki-ET: mentions of Wikipedia with 68 types, each linked to an entity, as map-tuning uses it.

Source: Xin et al., AAAI 2018; the prepared files by Zhang et al., ACL 2023, https://github.com/thunlp/Knowledge-Plugin
Licence: not stated by its authors.
Layout: `*.json` or `*.jsonl`, an object per line: `{"sent", "start", "end", "id": str, "labels": [str]}`; spans count
    characters, end exclusive. `id` is that of the mention's entity: the number of its row in the table of entity
    embeddings, as released, or an id such as "Q90"; "-1" is none. `label2id.json`, which numbers the types, stands
    beside the files.
Splits: by file name; otherwise by hash.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ._builder import Row
from ._entity_typing import EntityTypingBuilder, entity_typing_row, labels_of
from ._records import BadRecord, named, optional, required, shown

NO_ENTITY = "-1"  # as an index it would be the last row of a table

SAMPLE_FILES = {
    "train.jsonl": (
        '{"sent": "Mira Voss rested.", "start": 0, "end": 9, "id": "17", "labels": ["person", "person/author"]}\n'
        '{"sent": "It rained in Tarnstad.", "start": 13, "end": 21, "id": "-1", "labels": ["location"]}\n'
    )
}
SAMPLE_ROWS = [
    {
        "id": "train.jsonl:1",
        "text": "Mira Voss rested.",
        "mention": {"start": 0, "end": 9},
        "labels": ["person", "person/author"],
        "entity_id": "17",
    },
    {
        "id": "train.jsonl:2",
        "text": "It rained in Tarnstad.",
        "mention": {"start": 13, "end": 21},
        "labels": ["location"],
        "entity_id": "",
    },
]


class Corpus(EntityTypingBuilder):
    """Read Wiki-ET: one row per mention."""

    homepage = "https://github.com/thunlp/Knowledge-Plugin"
    licence = "not stated by its authors"

    def rows(self, record: Any) -> Iterable[Row]:
        """Return the row of a record."""
        text = named(record, "sent")
        start, end = required(record, "start", int), required(record, "end", int)
        entity = optional(record, "id", "").strip()
        if entity.startswith("-") and entity != NO_ENTITY:
            raise BadRecord(f"field 'id' must be an id, a row or {NO_ENTITY!r} but is {shown(entity)}")
        labels = labels_of(record, "labels", self.config.labelled)
        return [entity_typing_row(text, start, end, labels, "" if entity == NO_ENTITY else entity)]
