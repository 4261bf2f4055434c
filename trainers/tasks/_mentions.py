"""Mark mentions within a maximum length: long texts are cut around the mentions, never through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...processing_kadapter import mark_entities, special_tokens

__all__ = ["mark_within", "marked_examples"]

Spans = Sequence[tuple[int, int]]


class Marked(NamedTuple):
    """An encoded text: its token ids, the positions of its opening markers, and whether context was cut off."""

    input_ids: list[int]
    entity_positions: list[int]
    truncated: bool


def mark_within(
    tokenizer: Any, texts: Sequence[str], spans: Sequence[Spans], max_length: int, **marking: Any
) -> list[Marked | None]:
    """Mark the mentions of each text and keep at most `max_length` tokens, including all marked mentions.

    Context is cut evenly before the first and after the last mention. None stands for a text whose mentions, with the
    text between them, do not fit. `marking` are keywords of `mark_entities`.
    """
    prefix, suffix = special_tokens(tokenizer)
    marked = mark_entities(tokenizer, texts, spans, **marking)
    return [
        Marked(ids, positions, False)
        if len(ids) <= max_length
        else _cut(ids, positions, _last(tokenizer, text, own, suffix, marking), max_length, len(prefix), len(suffix))
        for text, own, (ids, positions) in zip(texts, spans, marked, strict=True)
    ]


def marked_examples(marked: Sequence[Marked | None], labels: Sequence[Any] | None) -> dict[str, list]:
    """Return the texts whose mentions fit as examples, with the label of each if there are labels."""
    fitting = [record for record, text in enumerate(marked) if text is not None]
    examples = {name: [getattr(marked[record], name) for record in fitting] for name in Marked._fields}
    numbered = {} if labels is None else {"labels": [labels[record] for record in fitting]}
    return {"record": fitting, **examples, **numbered}


def _last(tokenizer: Any, text: str, spans: Spans, suffix: list[int], marking: dict[str, Any]) -> int:
    """Return the position after the last closing marker; the text before it is tokenised separately from the rest."""
    end = max(end for _, end in spans)
    ((ids, _),) = mark_entities(tokenizer, [text[:end]], [spans], **marking)
    return len(ids) - len(suffix)


def _cut(ids: list[int], positions: list[int], last: int, max_length: int, prefix: int, suffix: int) -> Marked | None:
    first = min(positions)
    room = max_length - prefix - suffix - (last - first)  # tokens of context that fit
    if room < 0:
        return None
    before, after = first - prefix, len(ids) - suffix - last
    left = min(before, max(room // 2, room - after))
    right = room - left
    kept = ids[:prefix] + ids[first - left : last + right] + ids[len(ids) - suffix :]
    return Marked(kept, [position - (before - left) for position in positions], True)
