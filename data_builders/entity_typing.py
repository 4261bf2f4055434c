"""Entity typing: your own files of mentions with types, in the layout of OpenEntity and FIGER as ERNIE prepared them.

Source: your files. Licence: your own.
Layout: ``*.json`` or ``*.jsonl``, one JSON array or one object a line: ``{"sent", "start", "end", "labels": [str]}``
    with an optional ``"id"``; spans count characters, end exclusive. ``labels`` may be empty.
Splits: by file name; without split words, by hash.
"""

from __future__ import annotations

from ._entity_typing import EntityTypingBuilder

SAMPLE_FILES = {
    "train.jsonl": (
        '{"id": "lantern-1", "sent": "Mira Voss rested.", "start": 0, "end": 9, "labels": ["person", "founder"]}\n'
        '{"sent": "It rained in Tarnstad.", "start": 0, "end": 2, "labels": []}\n'
    )
}
SAMPLE_ROWS = [
    {
        "id": "lantern-1",
        "text": "Mira Voss rested.",
        "mention": {"start": 0, "end": 9},
        "labels": ["person", "founder"],
    },
    {
        "id": "train.jsonl:2",
        "text": "It rained in Tarnstad.",
        "mention": {"start": 0, "end": 2},
        "labels": [],
    },
]


class Corpus(EntityTypingBuilder):
    """Reads the user's own files of mentions with types: one row for each record."""

    licence = "your own"
    example = '{"sent": "Mira Voss rested.", "start": 0, "end": 9, "labels": ["person", "founder"]}'
