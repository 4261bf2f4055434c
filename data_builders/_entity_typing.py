"""Base class for entity typing corpora in the layout of ERNIE and K-Adapter: sent, start, end, labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ._builder import CorpusBuilder, Row
from ._names import normal
from ._records import BadRecord, named, optional, required, typed, wikidata_id


class EntityTypingBuilder(CorpusBuilder):
    """Read files of marked mentions, a JSON array or an object per line: one row per record."""

    record_type = "entity_typing"

    def rows(self, record: Any) -> Iterable[Row]:
        """Return the row of a record."""
        text = named(record, "sent")
        start, end = required(record, "start", int), required(record, "end", int)
        labels = labels_of(record, "labels", self.config.labelled)
        entity = optional(record, "entity_id", "") or _linked(record.get("ents"), text, start, end)
        row = entity_typing_row(text, start, end, labels, entity)
        name = optional(record, "id", "")
        return [{"id": name, **row} if name else row]


def _linked(entities: Any, text: str, start: int, end: int) -> str:
    """Return the id of the entity that ERNIE linked to exactly this mention, "" if there is none.

    Raises:
        BadRecord: an entity has a span outside of the text.
    """
    for entity in entities if isinstance(entities, list) else ():
        if not isinstance(entity, list) or len(entity) < 3:
            continue
        first, last = entity[1:3]
        if not (isinstance(first, int) and isinstance(last, int) and 0 <= first < last <= len(text)):
            raise BadRecord(
                f"field 'ents' has an entity at [{first}, {last}), and the text has {len(text)} characters"
            )
        if (first, last) == (start, end):
            return wikidata_id(str(entity[0]))
    return ""


def labels_of(record: Any, name: str, labelled: bool = True) -> list[str]:
    """Return the field `name`, a list of label names that may be empty; unless `labelled`, it is optional.

    Raises:
        BadRecord: the field is missing or not a list, or a label is blank or not a string.
    """
    values = required(record, name, list) if labelled else optional(record, name, [])
    labels = [typed(value, f"{name}[{index}]", str) for index, value in enumerate(values)]
    for index, label in enumerate(labels):
        if not normal(label):
            raise BadRecord(f"field '{name}[{index}]' is blank")
    return labels


def entity_typing_row(text: str, start: int, end: int, labels: Sequence[str], entity_id: str = "") -> Row:
    """Return the typed row of a sentence, the character span of its mention (end exclusive) and its labels.

    Raises:
        BadRecord: the span is empty, reversed, outside the text or covers only white space.
    """
    if not 0 <= start < end <= len(text):
        raise BadRecord(
            f"the mention, fields 'start' and 'end', is [{start}, {end}) but must not be empty or reversed and must "
            f"lie in 0..{len(text)}, the length of the text"
        )
    if not text[start:end].strip():
        raise BadRecord(f"the mention, fields 'start' and 'end', is [{start}, {end}) and covers no text")
    mention = {"start": start, "end": end}
    return {"text": text, "mention": mention, "labels": list(dict.fromkeys(labels)), "entity_id": entity_id}
