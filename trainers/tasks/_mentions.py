"""Tasks on marked mentions: long texts are cut around the mentions, and a linked mention has its entity beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from ...processing_kadapter import MarkedTokens, marked_tokens, placeholder_id, special_tokens
from ..common.knowledge import COLUMNS, Knowledge
from ._base import BaseTask

__all__ = ["Marked", "MentionTask", "with_entities"]

Spans = Sequence[tuple[int, int]]


class Marked(NamedTuple):
    """An encoded text: its tokens, the positions of its opening markers, whether context was cut off, its entities."""

    input_ids: list[int]
    entity_positions: list[int]
    truncated: bool
    knowledge_slots: list[int]
    knowledge_rows: list[int]


class MentionTask(BaseTask):
    """A task whose records have one or two marked mentions, which may be linked to the entities of a table.

    An entity stands within the markers of its mention, `@ ENT / mention @`, or where the map has it, so that all other
    tokens are those without a map, for every tokenizer. What is inserted counts for the maximum length; a record whose
    mentions do not fit with their entities is left out.
    """

    id_columns: ClassVar[tuple[str, ...]]  # the ids of each mention's entity

    def marked_examples(
        self,
        rows: dict[str, list],
        spans: Sequence[Spans],
        labels: Sequence[Any] | None,
        training: bool,
        **marking: Any,
    ) -> dict[str, list]:
        """Return the records whose mentions fit as examples, with the label of each if there are labels.

        `marking` are keywords of `marked_tokens`.
        """
        knowledge = self.knowledge
        columns = [rows[column] for column in self.id_columns] if knowledge is not None else []
        ids = [list(own) for own in zip(*columns, strict=True)]
        texts = marked_tokens(self.tokenizer, rows["text"], spans, **marking)
        marked = mark_within(self.tokenizer, texts, self.max_length, knowledge, ids)
        names = [name for name in Marked._fields if knowledge is not None or name not in COLUMNS]
        required = training and knowledge is not None and knowledge.required
        fitting = {at: text for at, text in enumerate(marked) if text and (text.knowledge_slots or not required)}
        examples = {name: [getattr(text, name) for text in fitting.values()] for name in names}
        numbered = {} if labels is None else {"labels": [labels[record] for record in fitting]}
        return {"record": list(fitting), **examples, **numbered}


def mark_within(
    tokenizer: Any,
    texts: Sequence[MarkedTokens],
    max_length: int,
    knowledge: Knowledge | None = None,
    ids: Sequence[Sequence[str]] = (),
) -> list[Marked | None]:
    """Put the entities of marked mentions into texts, and keep at most `max_length` tokens, all mentions among them.

    Context is cut evenly before the first and after the last mention. None stands for a text whose mentions, with the
    text between them, do not fit.
    """
    prefix, suffix = map(len, special_tokens(tokenizer))
    return [
        own if len(own.input_ids) <= max_length else _cut(own, text.end, max_length, prefix, suffix)
        for text, own in with_entities(tokenizer, texts, knowledge, ids)
    ]


def with_entities(
    tokenizer: Any, texts: Sequence[MarkedTokens], knowledge: Knowledge | None, ids: Sequence[Sequence[str]] = ()
) -> list[tuple[MarkedTokens, Marked]]:
    """Return texts with the entities of their mentions beside these, of any length; `ids` are those of each text."""
    if knowledge is None:
        return [(text, Marked(text.input_ids, text.openings, False, [], [])) for text in texts]
    insert = Inserter(tokenizer, knowledge, ids)
    return [insert(text, own) for text, own in zip(texts, ids, strict=True)]


def _cut(text: Marked, last: int, max_length: int, prefix: int, suffix: int) -> Marked | None:
    """Cut a text around its mentions, of which the last ends before the position `last`."""
    ids, first = text.input_ids, min(text.entity_positions)
    room = max_length - prefix - suffix - (last - first)  # tokens of context that fit
    if room < 0:
        return None
    before, after = first - prefix, len(ids) - suffix - last
    left = min(before, max(room // 2, room - after))
    right = room - left
    kept = ids[:prefix] + ids[first - left : last + right] + ids[len(ids) - suffix :]
    positions, slots = (
        [at - (before - left) for at in moved] for moved in (text.entity_positions, text.knowledge_slots)
    )
    return Marked(kept, positions, True, slots, text.knowledge_rows)


class Edit(NamedTuple):
    """Tokens that replace those of a text from `start` up to `end`, and in which place among them the slot is."""

    start: int
    end: int
    ids: list[int]
    slot: int
    row: int


class Inserter:
    """Puts the entities of a batch of texts beside their mentions, within the markers."""

    def __init__(self, tokenizer: Any, knowledge: Knowledge, ids: Sequence[Sequence[str]]) -> None:
        source = knowledge.source
        self.knowledge, self.where = knowledge, source.entity_position
        self.row_of = knowledge.rows_of(name for own in ids for name in own)
        self.slot = [placeholder_id(tokenizer)]
        separator = f" {source.separator}"
        self.separator = tokenizer(separator, add_special_tokens=False)["input_ids"] if source.separator else []

    def __call__(self, text: MarkedTokens, ids: Sequence[str]) -> tuple[MarkedTokens, Marked]:
        """Return a text with the entities of its mentions, whose ids these are.

        Raises:
            ValueError: an entity is to stand instead of a mention with another in it.
        """
        linked = [(inside, self.row_of[name]) for inside, name in zip(text.insides, ids, strict=True) if name]
        edits = sorted(self._edit(*own, text) for own in linked if self.knowledge.has_slot(own[1]))
        tokens: list[int] = []
        slots, last = [], 0
        for edit in edits:
            tokens += text.input_ids[last : edit.start]
            slots.append(len(tokens) + edit.slot)
            tokens += edit.ids
            last = edit.end
        tokens += text.input_ids[last:]
        openings = [_moved(edits, opening) for opening in text.openings]
        insides = [
            (opening + first - old, _moved(edits, closing))
            for opening, old, (first, closing) in zip(openings, text.openings, text.insides, strict=True)
        ]
        marked = Marked(tokens, openings, False, slots, [edit.row for edit in edits])
        return MarkedTokens(tokens, openings, insides), marked

    def _edit(self, inside: tuple[int, int], row: int, text: MarkedTokens) -> Edit:
        first, closing = inside
        if self.where == "before":
            return Edit(first, first, self.slot + self.separator, 0, row)
        if self.where == "after":
            return Edit(closing, closing, self.separator + self.slot, len(self.separator), row)
        if any(first <= opening < closing for opening in text.openings):
            raise ValueError(
                "a mention lies in another, and the map puts entities instead of mentions; leave such records out, or "
                'use a map with entity_position "before" or "after"'
            )
        return Edit(first, closing, self.slot, 0, row)


def _moved(edits: Sequence[Edit], position: int) -> int:
    """Return where a token stands after edits."""
    return position + sum(len(edit.ids) - (edit.end - edit.start) for edit in edits if edit.end <= position)
