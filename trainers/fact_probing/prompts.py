"""Prompts with a mask as inputs of a model, and answers as the tokens that would fill the mask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from transformers import AddedToken, PreTrainedTokenizerBase

__all__ = ["MASK", "Masked", "Prompter", "check_mask"]

MASK = "[MASK]"  # as prompts are written, whatever the tokenizer's own mask
MASKS = re.compile(r"\[mask\]|<mask>", re.IGNORECASE)
CARRIER = "a"  # a word before the answer, so that its tokens are those of the middle of a sentence


@dataclass(frozen=True)
class Masked:
    """An input: its token ids, and the positions that are asked, those of the first mask of a prompt."""

    ids: tuple[int, ...]
    positions: tuple[int, ...]


def check_mask(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make sure that a tokenizer has a mask, and that the mask takes the place of a word together with its space.

    A RobertaTokenizer made from vocab.json and merges.txt leaves the space before its mask as a token of its own,
    which no model was trained on; this is corrected in place.

    Raises:
        ValueError: there is no mask, or a space is left before it.
    """
    mask = tokenizer.mask_token
    if mask is None:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no mask token, so its model can't be asked to fill one; "
            "choose a masked language model, or set mask_token"
        )
    if not _takes_its_space(tokenizer):
        tokenizer.add_special_tokens({"mask_token": AddedToken(mask, lstrip=True, special=True, normalized=False)})
    if not _takes_its_space(tokenizer):
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path!r} turns 'a {mask}' into {tokenizer.tokenize(f'a {mask}')}, "
            f"with a space of its own before the mask; save it with lstrip=True for {mask}"
        )


def _takes_its_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    texts = [CARRIER, f"{CARRIER} {tokenizer.mask_token}"]
    word, masked = tokenizer(texts, add_special_tokens=False).input_ids
    return masked == [*word, tokenizer.mask_token_id]


@dataclass(eq=False)
class Prompter:
    """A tokenizer that masks prompts and knows the tokens of answers.

    Args:
        tokenizer: the model's tokenizer; `check_mask` is applied to it.
        max_length: longest input in tokens; by default the longest that the tokenizer allows.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None = None
    special: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        check_mask(self.tokenizer)
        self.special = frozenset(self.tokenizer.all_special_ids)
        self.answer_ids = lru_cache(maxsize=None)(self._answer_ids)
        self._prompt_ids = lru_cache(maxsize=4096)(self._ids)

    def _ids(self, prompt: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(MASKS.sub(self._mask_itself, prompt), verbose=False).input_ids)

    def _mask_itself(self, match: Any) -> str:
        return str(self.tokenizer.mask_token)

    def masked(self, prompt: str, number: int = 1, answer: Sequence[int] = ()) -> Masked | None:
        """Return the input of a prompt with a number of masks, or the tokens of an answer, in the place of each mask.

        Returns:
            The input, cut to the longest length on its right; None if no mask is left in it.

        Raises:
            ValueError: the prompt has no mask.
        """
        mask, filling = self.tokenizer.mask_token_id, list(answer) or [self.tokenizer.mask_token_id] * number
        whole = self._prompt_ids(prompt)
        if mask not in whole:
            raise ValueError(f"the prompt {prompt!r} has no mask; write {MASK} where the answer belongs")
        first, ids = whole.index(mask), [token for own in whole for token in (filling if own == mask else [own])]
        longest = min(self.max_length or self.tokenizer.model_max_length, self.tokenizer.model_max_length)
        if len(ids) > longest:
            if first + len(filling) > longest - 1:
                return None
            ids = [*ids[: longest - 1], ids[-1]]
        return Masked(tuple(ids), tuple(range(first, first + len(filling))))

    def _answer_ids(self, answer: str, before: str) -> tuple[int, ...] | None:
        """Return the tokens that an answer has after a text in a prompt; None if no tokens of its own can give it."""
        carrier = CARRIER if before[-1:].isspace() else (before.split() or [""])[-1]
        head = self._plain(carrier)
        space = " " if before[-1:].isspace() else ""
        ids = self._plain(carrier + space + answer)
        own = ids[len(head) :]
        unusable = {self.tokenizer.unk_token_id, *self.special}
        return tuple(own) if ids[: len(head)] == head and own and not unusable & set(own) else None

    def _plain(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids if text else []

    def before(self, prompt: str) -> str:
        """Return what of the text before the first mask of a prompt decides on the tokens of an answer."""
        text = MASKS.split(prompt)[0]
        return " " if text[-1:].isspace() else (text.split() or [""])[-1]

    def answer_in(self, prompt: str, answer: str) -> tuple[int, ...] | None:
        """Return the tokens by which an answer would fill the first mask of a prompt; None if it has none."""
        return self.answer_ids(answer, self.before(prompt))

    def words(self) -> dict[str, int]:
        """Return the words that are a single token in the middle of a sentence, and their tokens.

        What has no letter and no digit is no word.
        """
        ids = [token for token in range(len(self.tokenizer)) if token not in self.special]
        texts = [text.strip() for text in self.tokenizer.batch_decode([[token] for token in ids])]
        tokens = {text: token for text, token in zip(texts, ids, strict=True) if any(map(str.isalnum, text))}
        single = self.single_tokens(list(tokens))
        return {text: token for text, token in tokens.items() if single.get(text) == token}

    def single_tokens(self, words: Sequence[str], carrier: str = CARRIER) -> dict[str, int]:
        """Return those of the words that are a single token after a word, or at the beginning, and their tokens."""
        if not words:
            return {}
        head, unusable = self._plain(carrier), {self.tokenizer.unk_token_id, *self.special}
        texts = [f"{carrier} {word}" if carrier else word for word in words]
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
        pairs = zip(words, encoded, strict=True)
        return {word: own[-1] for word, own in pairs if own[:-1] == head and own and own[-1] not in unusable}

    def name(self, token: int) -> str:
        """Return the text of a token."""
        return str(self.tokenizer.decode([token])).strip()
