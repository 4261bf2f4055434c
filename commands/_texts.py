"""What is asked of a head: texts, with mentions in double square brackets where it reads mentions, or with masks.

Here too mistakes are found before torch and transformers are imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ._preflight import MASKS

__all__ = ["ASKED", "MENTIONS", "examples_of", "mentions_of"]

MENTIONS = {"KAdapterForEntityPairClassification": 2, "KAdapterForEntityClassification": 1}
ASKED = (*MENTIONS, *(f"KAdapterFor{head}" for head in ("SequenceClassification", "TokenClassification")))
ASKED += ("KAdapterForDependencyParsing", "KAdapterForMaskedLM")
MENTION = re.compile(r"\[\[(.+?)(?:\|(head|tail))?\]\]")


def examples_of(artifact: str, head: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each text its words without brackets and, where the head reads mentions, its spans.

    Raises:
        ValueError: there are no texts or the head can't be asked, or a text is empty or lacks mentions or masks.
    """
    if head == "KAdapterModel":
        raise ValueError(
            f"{artifact} has no head, so it predicts nothing: train one by kadapter task, or ask what its adapters "
            "know by kadapter probe-text"
        )
    if head not in ASKED:
        raise ValueError(
            f"the head of {artifact}, a {head}, is asked about more than a text; its card shows how in Python. "
            f"Asked by this command are {', '.join(ASKED)}"
        )
    if not texts:
        raise ValueError("there are no texts; give them after the artifact, or a --file with one in each line")
    return [_example(number, text, head) for number, text in enumerate(texts, start=1)]


def _example(number: int, text: str, head: str) -> dict[str, Any]:
    if not text.strip():
        raise ValueError(f"text {number} is empty; leave it out")
    if head == "KAdapterForMaskedLM" and not any(mask in text.lower() for mask in MASKS):
        raise ValueError(f"text {number}, {text!r}, has no mask; write <mask> or [MASK] where the answer belongs")
    if head not in MENTIONS:
        return {"text": text}
    plain, spans = mentions_of(text)
    if len(spans) != MENTIONS[head] or "[[" in plain or "]]" in plain:
        example = "[[Marie Curie]] was born in [[Warsaw]]." if MENTIONS[head] == 2 else "[[Warsaw]] is old."
        raise ValueError(
            f"text {number}, {text!r}, has {len(spans)} mentions in double square brackets, and the head reads "
            f"{MENTIONS[head]}: {example}"
        )
    return {"text": plain, "entity_spans": spans}


def mentions_of(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a text without the brackets of its mentions, and their characters, the head before the tail.

    Raises:
        ValueError: two mentions are both called head, or both tail.
    """
    plain, last, spans, roles = "", 0, [], []
    for found in MENTION.finditer(text):
        plain += text[last : found.start()]
        spans.append((len(plain), len(plain) + len(found[1])))
        roles.append(found[2])
        plain, last = plain + found[1], found.end()
    if len(roles) == 2 and roles[0] is not None and roles[0] == roles[1]:
        raise ValueError(f"both mentions of {text!r} are called {roles[0]}; call one head and the other tail")
    turned = len(roles) == 2 and (roles[0] == "tail" or roles[1] == "head")
    return plain + text[last:], spans[::-1] if turned else spans
