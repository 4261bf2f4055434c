"""Answers to texts as they are printed, whoever gives them."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from ._printing import printable

__all__ = ["MASK", "Prediction"]

MASK = re.compile(r"<mask>|\[mask\]", flags=re.IGNORECASE)


class Prediction(NamedTuple):
    """A text and what was predicted of it, as plain values by name."""

    text: str
    values: dict[str, Any]

    def as_json(self) -> str:
        """Return a line of JSON."""
        return json.dumps({"text": self.text, **self.values}, ensure_ascii=False)

    def in_words(self) -> str:
        """Return the text, and below it the answers, a line each, or the tree."""
        if "heads" in self.values:
            lines = self.values["tree"].splitlines()
        else:
            lines = [
                "  ".join(map(_shown, answers)) or "none"
                for answers in self.values.get("masks", [self.values.get("answers", [])])
            ]
        return "\n".join([printable(self.text), *(f"  {line}" for line in lines)])


def _shown(answer: dict[str, Any]) -> str:
    word = f"{printable(answer['word']).strip()}: " if "word" in answer else ""
    return f"{word}{printable(answer['label'])} {answer['score']:.3f}"
