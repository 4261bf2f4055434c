"""Read records of other types as plain texts, for what learns from any text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The columns of each record type that are mentions in its text; the text of a tokenised record has none.
MENTIONS: dict[str, tuple[str, ...]] = {"text": (), "relation": ("head", "tail"), "entity_typing": ("mention",)}
READABLE = (*MENTIONS, "dependency")


def as_texts(rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Return a batch of records of any type in `READABLE` as records of the type "text": id, text and mentions.

    A relation is its sentence with the mentions of head and tail; a dependency tree is its tokens, joined by spaces.

    Raises:
        ValueError: the records have neither a text nor tokens.
    """
    if "text" not in rows and "tokens" not in rows:
        raise ValueError(f"records with the columns {sorted(rows)} can't be read as texts; they need text or tokens")
    texts = rows["text"] if "text" in rows else [" ".join(tokens) for tokens in rows["tokens"]]
    spans = [rows[name] for names in MENTIONS.values() for name in names if name in rows]
    mentions = rows["mentions"] if "mentions" in rows else [list(own) for own in zip(*spans, strict=True)]
    return {"id": list(rows["id"]), "text": list(texts), "mentions": list(mentions) or [[] for _ in texts]}
