"""Text that nothing is trained on, on which the loss before and after an injection is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets

from ..common.masking import MaskedExamples, Masking
from ..fact_probing.prompts import Prompter

__all__ = ["asked_texts"]


def asked_texts(prompter: Prompter, texts: Sequence[str], max_length: int) -> list[dict[str, Any]]:
    """Return texts with the tokens that a model is asked for: `input_ids`, `positions` and `labels`.

    A model that fills masks is asked for masked words, always the same; a decoder for each token after the first. What
    is longer than `max_length` tokens becomes several texts.
    """
    if prompter.causal:
        return _continued(prompter, texts, max_length)
    masking = Masking(prompter.tokenizer)
    encoded = masking.encode(texts, [[]] * len(texts), max_length)
    return list(MaskedExamples(datasets.Dataset.from_dict(encoded), masking, fixed=True))


def _continued(prompter: Prompter, texts: Sequence[str], max_length: int) -> list[dict[str, Any]]:
    limits = {"truncation": True, "max_length": max_length, "return_overflowing_tokens": True}
    encoded = prompter.tokenizer(list(texts), return_special_tokens_mask=True, **limits)
    asked = []
    for tokens, added in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        ids, behind = list(tokens), list(added)
        while ids and behind.pop():  # the end that some tokenizers add, after which nothing comes
            ids.pop()
        if len(ids) > 1:
            asked.append({"input_ids": ids, "positions": list(range(len(ids) - 1)), "labels": ids[1:]})
    return asked
