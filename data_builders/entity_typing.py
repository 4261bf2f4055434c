"""Entity typing: your own files of mentions with types, in ERNIE's layout of OpenEntity and FIGER.

Source: your own files.
Licence: your own.
Layout: `*.json` or `*.jsonl`, a JSON array or an object per line: `{"sent", "start", "end", "labels": [str]}`
    with an optional `"id"` of the record and `"entity_id"` of the mention's entity; spans count characters, end
    exclusive. `labels` may be empty.
Splits: by file name; otherwise by hash.
"""

from __future__ import annotations

from ._entity_typing import EntityTypingBuilder

SAMPLE_FILES = {
    "train.jsonl": (
        '{"id": "lantern-1", "sent": "Mira Voss rested.", "start": 0, "end": 9, "labels": ["person", "founder"],'
        ' "entity_id": "Q901"}\n'
        '{"sent": "It rained in Tarnstad.", "start": 0, "end": 2, "labels": []}\n'
    )
}
SAMPLE_ROWS = [
    {
        "id": "lantern-1",
        "text": "Mira Voss rested.",
        "mention": {"start": 0, "end": 9},
        "labels": ["person", "founder"],
        "entity_id": "Q901",
    },
    {
        "id": "train.jsonl:2",
        "text": "It rained in Tarnstad.",
        "mention": {"start": 0, "end": 2},
        "labels": [],
        "entity_id": "",
    },
]


class Corpus(EntityTypingBuilder):
    """Read your own files of mentions with types: one row per record."""

    licence = "your own"
    example = '{"sent": "Mira Voss rested.", "start": 0, "end": 9, "labels": ["person", "founder"]}'
