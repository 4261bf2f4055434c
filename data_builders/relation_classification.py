"""Relation classification: your own files of sentences with two mentions and their relation, in TACRED's layout.

Source: your own files.
Licence: your own.
Layout: `*.json` or `*.jsonl`, a JSON array or an object per line: `{"token": [str], "subj_start", "subj_end",
    "obj_start", "obj_end", "relation"}` with an optional `"id"`; spans count tokens, end inclusive.
Splits: by file name; otherwise by hash.
"""

from __future__ import annotations

from ._subject_object import SubjectObjectBuilder

SAMPLE_FILES = {
    "train.jsonl": (
        '{"id": "lantern-1", "token": ["Mira", "Voss", "founded", "Halden"], "subj_start": 0, "subj_end": 1,'
        ' "obj_start": 3, "obj_end": 3, "relation": "founder of"}\n'
        '{"token": ["Tarnstad", "lies", "on", "the", "Lind"], "subj_start": 4, "subj_end": 4, "obj_start": 0,'
        ' "obj_end": 0, "relation": "crosses"}\n'
    )
}
SAMPLE_ROWS = [
    {
        "id": "lantern-1",
        "text": "Mira Voss founded Halden",
        "head": {"start": 0, "end": 9},
        "tail": {"start": 18, "end": 24},
        "relation": "founder of",
        "head_id": "",
        "tail_id": "",
    },
    {
        "id": "train.jsonl:2",
        "text": "Tarnstad lies on the Lind",
        "head": {"start": 21, "end": 25},
        "tail": {"start": 0, "end": 8},
        "relation": "crosses",
        "head_id": "",
        "tail_id": "",
    },
]


class Corpus(SubjectObjectBuilder):
    """Read your own files of related mentions: one row per record."""

    licence = "your own"
    example = (
        '{"token": ["Mira", "Voss", "founded", "Halden"], "subj_start": 0, "subj_end": 1, "obj_start": '
        '3, "obj_end": 3, "relation": "founder of"}'
    )
