"""OpenEntity: mentions of any kind with general entity types, as ERNIE and K-Adapter use it.

Source: Choi et al., ACL 2018, https://www.cs.utexas.edu/~eunsol/html_pages/open_entity.html; the prepared files by
    Zhang et al., ACL 2019, https://github.com/thunlp/ERNIE
Licence: not stated by its authors.
Layout: `*.json`, two variants. Prepared: JSON arrays of `{"sent", "start", "end", "labels": [str], "ents"}`; spans
    count characters, end exclusive; of `ents` the entity of the mention itself is read. As released
    (`crowd/{train,dev,test}.json`): an object per
    line, `{"annot_id", "mention_span", "left_context_token": [str], "right_context_token": [str], "y_str": [str]}`;
    of the ultra-fine types only the nine general types of `LABELS` are kept, as in the prepared files.
Splits: by file name; otherwise by hash.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ._builder import Row
from ._entity_typing import EntityTypingBuilder, entity_typing_row, labels_of
from ._names import normal
from ._records import named, optional, required, typed

# In the order of the official code.
LABELS = ("entity", "location", "time", "organization", "object", "event", "place", "person", "group")

SAMPLE_FILES = {
    "train.json": (
        '[{"sent": "Mira Voss founded Halden Works in 2003 .", "start": 0, "end": 9, "labels": ["person"],'
        ' "ents": [["Q901", 0, 9, 0.61]]}]'
    ),
    "train_crowd.json": (
        '{"annot_id": "lantern:1", "mention_span": "The old firm", "left_context_token": [],'
        ' "right_context_token": ["left", "Tarnstad", "."], "y_str": ["organization", "firm", "group"]}'
    ),
}
SAMPLE_ROWS = [
    {
        "id": "train.json:1",
        "text": "Mira Voss founded Halden Works in 2003 .",
        "mention": {"start": 0, "end": 9},
        "labels": ["person"],
        "entity_id": "Q901",
    },
    {
        "id": "lantern:1",
        "text": "The old firm left Tarnstad .",
        "mention": {"start": 0, "end": 12},
        "labels": ["organization", "group"],
        "entity_id": "",
    },
]


class Corpus(EntityTypingBuilder):
    """Read OpenEntity, as prepared by ERNIE or as released: one row per mention."""

    file_patterns = ("*.json",)
    homepage = "https://www.cs.utexas.edu/~eunsol/html_pages/open_entity.html"
    licence = "not stated by its authors"

    def rows(self, record: Any) -> Iterable[Row]:
        """Return the row of a record."""
        if not isinstance(record, dict) or not record.keys() & {"mention_span", "y_str", "left_context_token"}:
            return super().rows(record)
        mention = named(record, "mention_span")
        left, right = (_tokens(record, f"{side}_context_token") for side in ("left", "right"))
        start = sum(len(token) + 1 for token in left)
        labels = [label for label in labels_of(record, "y_str", self.config.labelled) if normal(label) in LABELS]
        row = entity_typing_row(" ".join([*left, mention, *right]), start, start + len(mention), labels)
        name = optional(record, "annot_id", "")
        return [{"id": name, **row} if name else row]


def _tokens(record: dict[str, Any], name: str) -> list[str]:
    return [typed(token, f"{name}[{index}]", str) for index, token in enumerate(required(record, name, list))]
