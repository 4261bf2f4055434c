"""Prompts as inputs of a model, and answers as the tokens that would stand in the place of the mask.

A masked language model reads the whole prompt, with its mask. A decoder tells what follows, so it reads the text up to
the mask, behind which there may be nothing but punctuation, and an answer of several tokens is read token by token,
each behind those before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

from transformers import AddedToken, PreTrainedTokenizerBase

__all__ = ["MASK", "CausalPrompter", "Masked", "Prompter", "check_mask"]

MASK = "[MASK]"  # as prompts are written, whatever the tokenizer's own mask
MASKS = re.compile(r"\[mask\]|<mask>", re.IGNORECASE)
NOT_AT_THE_END, NOTHING_BEFORE = "answer_not_at_the_end", "nothing_before_the_answer"
ENDING = 2  # tokens that training needs behind a text: its end, and that which some tokenizers add themselves
CARRIER = "a"  # a word before the answer, so that its tokens are those of the middle of a sentence


@dataclass(frozen=True)
class Masked:
    """An input: its token ids, and the positions that are asked.

    They are those of the first mask of a prompt; of a decoder's the last token of the prompt, and the tokens of an
    answer behind it but the last.
    """

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
    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self._check_tokenizer()
        self.special = frozenset(self.tokenizer.all_special_ids)
        self.answer_ids = lru_cache(maxsize=None)(self._answer_ids)
        self._prompt_ids = lru_cache(maxsize=4096)(self._ids)

    def _check_tokenizer(self) -> None:
        check_mask(self.tokenizer)

    @property
    def longest(self) -> int:
        """The longest input in tokens."""
        return min(self.max_length or self.tokenizer.model_max_length, self.tokenizer.model_max_length)

    def unaskable(self, prompt: str) -> str | None:
        """Return the reason why a model of this kind can't be asked a prompt, None if it can."""
        return None

    def fits(self, prompt: str, number: int = 1) -> bool:
        """Return whether a prompt with an answer of a number of tokens is short enough to be asked."""
        return self.masked(prompt, number) is not None

    def every_mask(self, prompt: str) -> Masked | None:
        """Return the input of a prompt in which every mask is asked; None if the first is cut off.

        Raises:
            ValueError: the prompt has no mask, or can't be asked.
        """
        masked = self.masked(prompt)
        if masked is None:
            return None
        mask = self.tokenizer.mask_token_id
        return Masked(masked.ids, tuple(place for place, token in enumerate(masked.ids) if token == mask))

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
        if len(ids) > self.longest:
            if first + len(filling) > self.longest - 1:
                return None
            ids = [*ids[: self.longest - 1], ids[-1]]
        return Masked(tuple(ids), tuple(range(first, first + len(filling))))

    def _answer_ids(self, answer: str, before: str) -> tuple[int, ...] | None:
        """Return the tokens that an answer has after a text in a prompt; None if no tokens of its own can give it."""
        space = " " if before[-1:] == " " else ""
        carrier = CARRIER if space else before if before.isspace() else (before.split() or [""])[-1]
        head = self._plain(carrier)
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


class CausalPrompter(Prompter):
    """A tokenizer that cuts prompts off where a decoder is to go on, and knows the tokens of answers there.

    What a tokenizer adds behind a text, such as its end, is left out; what it adds in front stays.
    """

    causal: ClassVar[bool] = True

    def _check_tokenizer(self) -> None:
        """Check nothing: no mask is needed."""

    def unaskable(self, prompt: str) -> str | None:
        """Return the reason why a decoder can't be asked a prompt, None if it can.

        Raises:
            ValueError: the prompt has no mask.
        """
        text, *ending = MASKS.split(prompt, maxsplit=1)
        if not ending:
            raise ValueError(f"the prompt {prompt!r} has no mask; write {MASK} where the answer belongs")
        if any(map(str.isalnum, ending[0])):
            return NOT_AT_THE_END
        return None if text.strip() else NOTHING_BEFORE

    def fits(self, prompt: str, number: int = 1) -> bool:
        """Return whether a prompt, an answer of a number of tokens and what ends the text are short enough."""
        ending = MASKS.split(prompt, maxsplit=1)[1]
        return len(self._prompt_ids(prompt)) + number + len(self._plain(ending)) + ENDING <= self.longest

    def every_mask(self, prompt: str) -> Masked | None:
        """Return the input of a prompt; None if it is too long. A decoder's has a single mask.

        Raises:
            ValueError: the prompt has no mask, or something behind it.
        """
        return self.masked(prompt)

    def _ids(self, prompt: str) -> tuple[int, ...]:
        text = MASKS.split(prompt, maxsplit=1)[0].rstrip(" ")  # the space is that of the answer's first token
        encoded = self.tokenizer(text, return_special_tokens_mask=True, verbose=False)
        ids, added = list(encoded.input_ids), list(encoded.special_tokens_mask)
        while ids and added.pop():
            ids.pop()
        return tuple(ids)

    def masked(self, prompt: str, number: int = 1, answer: Sequence[int] = ()) -> Masked | None:
        """Return the input that asks for the token after a prompt, or for each token of an answer there in turn.

        Returns:
            The input; None if it is too long.

        Raises:
            ValueError: the prompt has no mask, something behind it, or nothing before it.
        """
        if (reason := self.unaskable(prompt)) is not None:
            what = "goes on after its mask" if reason == NOT_AT_THE_END else "has nothing before its mask"
            raise ValueError(
                f"the prompt {prompt!r} {what}, and a decoder only tells how a text goes on; put the mask at its end, "
                "followed by nothing but punctuation"
            )
        if not self.fits(prompt, len(answer) or number):
            return None
        own = self._prompt_ids(prompt)
        ids = (*own, *answer[:-1])
        return Masked(ids, tuple(range(len(own) - 1, len(ids))))

    def before(self, prompt: str) -> str:
        """Return what of the text before the mask decides on the tokens of an answer."""
        text = MASKS.split(prompt, maxsplit=1)[0]
        if text[-1:].isspace():
            return " " if text[-1:] == " " else text[len(text.rstrip()) :]
        return (text.split() or [""])[-1]

    def in_turn(self, prompt: str, answers: Sequence[tuple[int, ...]]) -> list[tuple[Masked, list[int]]]:
        """Return the inputs that ask for all tokens of answers, with the numbers of the answers that each asks for.

        Answers that differ in their last token alone share an input; those that are too long have none.
        """
        sharing: dict[tuple[int, ...], list[int]] = {}
        for number, answer in enumerate(answers):
            sharing.setdefault(answer[:-1], []).append(number)
        inputs = ((self.masked(prompt, answer=answers[own[0]]), own) for own in sharing.values())
        return [(masked, own) for masked, own in inputs if masked is not None]
