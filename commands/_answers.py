"""Answers to texts as they are printed, whoever gives them."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from ._printing import printable

__all__ = ["MASK", "Prediction"]

MASK = re.compile(r"<mask>|\[mask\]", flags=re.IGNORECASE)


class Prediction(NamedTuple):
    """A text, what was predicted of it, as plain values by name, and the adapters that were chosen for it."""

    text: str
    values: dict[str, Any]
    adapter_names: list[str] | None = None

    def as_json(self) -> str:
        """Return a line of JSON."""
        chosen = {} if self.adapter_names is None else {"adapter_names": self.adapter_names}
        return json.dumps({"text": self.text, **chosen, **self.values}, ensure_ascii=False)

    def in_words(self) -> str:
        """Return the text, with its adapters, and below it the answers, a line each, or the tree."""
        chosen = "" if self.adapter_names is None else f"  ({'+'.join(self.adapter_names)})"
        return "\n".join([printable(self.text) + chosen, *(f"  {line}" for line in self.lines())])

    def lines(self) -> list[str]:
        """Return the answers, a line for each mask or text, or the lines of the tree."""
        if "heads" in self.values:
            return self.values["tree"].splitlines()
        masks = self.values.get("masks", [self.values.get("answers", [])])
        return ["  ".join(map(_shown, answers)) or "none" for answers in masks]


def _shown(answer: dict[str, Any]) -> str:
    word = f"{printable(answer['word']).strip()}: " if "word" in answer else ""
    return f"{word}{printable(answer['label'])} {answer['score']:.3f}"
