"""The base class of probes that ask for facts."""

from __future__ import annotations

from typing import ClassVar

__all__ = ["FactProbe"]


class FactProbe:
    """Ask single-token answers among the whole vocabulary, as LAMA does."""

    corpus: ClassVar[str]
    prompts: ClassVar[tuple[str, ...]] = ("template",)
    candidates: ClassVar[str] = "vocabulary"
    multi_token: ClassVar[str] = "skip"
