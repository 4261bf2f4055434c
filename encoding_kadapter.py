"""From raw text with marked mentions to a model's inputs, as the official code marks them (fac-adapter.py)."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["MARKERS", "encode_entities", "mark_entities", "special_tokens"]

MARKERS = ("@", "#")


def encode_entities(
    tokenizer: Any,
    texts: Sequence[str],
    entity_spans: Sequence[Sequence[tuple[int, int]]],
    max_length: int | None = None,
    markers: Sequence[str] = MARKERS,
) -> dict[str, Tensor]:
    """Turn raw text with marked mentions into input_ids, attention_mask and entity_positions.

    `entity_spans` gives for each text one (start, end) in characters for each mention: one for typing, head and tail
    for relations. The first is marked by "@", the second by "#", before and after, as bare tokens; the position is
    the opening marker's. Where both open at one place the second stands outside. `markers` chooses others: " @" is
    the token with the sign for a space before it, as the official code marks mentions for entity typing.

    Raises:
        TypeError: a span is not a pair of whole numbers.
        ValueError: a span is empty, reversed or outside its text, there are none or more than two, the numbers differ,
            or `max_length` tokens do not reach to the last opening marker; the sentence says for which text.
    """
    encoded = mark_entities(tokenizer, [texts] if isinstance(texts, str) else list(texts), entity_spans, markers)
    for number, (ids, positions) in enumerate(encoded):
        if max_length is not None and max(positions) >= max_length - 1:
            raise ValueError(
                f"text {number}: max_length={max_length} tokens cut off a mention; raise it or shorten the text"
            )
        if max_length is not None and len(ids) > max_length:
            del ids[max_length - 1 : -1]
    padded = tokenizer.pad({"input_ids": [ids for ids, _ in encoded]}, return_tensors="pt", padding_side="right")
    positions = torch.tensor([positions for _, positions in encoded])  # (B, M)
    return {
        "input_ids": padded["input_ids"],
        "attention_mask": padded["attention_mask"],
        "entity_positions": positions,
    }


def mark_entities(
    tokenizer: Any,
    texts: Sequence[str],
    entity_spans: Sequence[Sequence[tuple[int, int]]],
    markers: Sequence[str] = MARKERS,
) -> list[tuple[list[int], list[int]]]:
    """Return for each text its token ids, special tokens included, and the positions of the opening markers."""
    if len(texts) != len(entity_spans):
        raise ValueError(f"{len(texts)} texts but spans for {len(entity_spans)}; give spans for each text")
    pieces = [_pieces(number, *one) for number, one in enumerate(zip(texts, entity_spans, strict=True))]
    segments = [" " + piece for one in pieces for piece in one if not isinstance(piece, tuple) and piece]
    ids = iter(tokenizer(segments, add_special_tokens=False)["input_ids"] if segments else [])
    prefix, suffix = special_tokens(tokenizer)
    marks = [_marker_ids(tokenizer, marker) for marker in markers]
    return [
        _assemble(one, ids, prefix, suffix, marks, len(spans)) for one, spans in zip(pieces, entity_spans, strict=True)
    ]


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after a single text."""
    ids = tokenizer("@")["input_ids"]
    inner = tokenizer("@", add_special_tokens=False)["input_ids"]
    start = next(at for at in range(len(ids)) if ids[at : at + len(inner)] == inner)
    return ids[:start], ids[start + len(inner) :]


def _pieces(number: int, text: str, spans: Sequence[tuple[int, int]]) -> list[str | tuple[int, bool]]:
    """Cut a text at its markers: stripped strings, and (mention, opens) for each marker."""
    if not 1 <= len(spans) <= len(MARKERS):
        raise ValueError(f"text {number}: {len(spans)} mentions; one or two can be marked")
    cuts = []
    for mention, span in enumerate(spans):
        try:
            start, end = map(operator.index, span)
        except (TypeError, ValueError):
            raise TypeError(f"text {number}: mention {mention} is {span!r}; give its (start, end)") from None
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"text {number}: span ({start}, {end}) of mention {mention} is empty, reversed or outside its "
                f"{len(text)} characters; give (start, end) with 0 <= start < end <= {len(text)}"
            )
        cuts += [(start, True, -mention), (end, False, mention)]
    pieces, last = [], 0
    for at, opens, mention in sorted(cuts):
        pieces += [text[last:at].strip(), (abs(mention), opens)]
        last = at
    return [*pieces, text[last:].strip()]


def _assemble(
    pieces: list[str | tuple[int, bool]],
    segments: Any,
    prefix: list[int],
    suffix: list[int],
    markers: list[list[int]],
    mentions: int,
) -> tuple[list[int], list[int]]:
    ids, positions = list(prefix), [0] * mentions
    for piece in pieces:
        if isinstance(piece, tuple):
            mention, opens = piece
            if opens:
                positions[mention] = len(ids)
            ids += markers[mention]
        elif piece:
            ids += next(segments)
    return ids + suffix, positions


def _marker_ids(tokenizer: Any, marker: str) -> list[int]:
    """Return the bare marker's id, without the sign for a space before it, where the vocabulary has it."""
    one = tokenizer.convert_tokens_to_ids(marker)
    if one is not None and one != tokenizer.unk_token_id:
        return [one]
    return tokenizer(marker, add_special_tokens=False)["input_ids"]
