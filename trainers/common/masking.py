"""Mask tokens for masked-LM training: whole words, mentions of entities, or plain tokens.

An objective holds a `Masking`, encodes its records once with `Masking.encode`, and wraps the encoded examples in
`MaskedExamples(examples, masking)` for training and `MaskedExamples(examples, masking, fixed=True)` for evaluation.
An item is then {"input_ids", "positions", "labels", ...}: the masked tokens, the positions of the masks, and what
stood there, as `KAdapterForMaskedLM` takes them; pad with {"input_ids": pad_token_id, "positions": -1,
"labels": -100}.

Which tokens are masked follows from the seed, the epoch and the index of the example alone, so a resumed run and any
number of processes see the same masks. What replaces them is up to transformers' DataCollatorForLanguageModeling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerBase

from ...data_builders import word_spans
from .encoding import column

__all__ = ["MASK_UNITS", "MaskedExamples", "Masking"]

MASK_UNITS = ("word", "token")
NONE = -1

Spans = Sequence[tuple[int, int]]


@dataclass(eq=False)
class Masking:
    """Which tokens of an example are masked, and by what.

    Each word is masked with a probability, all its tokens or none, and at least one word of an example is. With
    `mention_share`, this share of the examples that have mentions is masked by mentions instead, in the same way.
    Of the masked tokens 80% become the mask, 10% any token and 10% stay (Devlin et al., 2019).

    Args:
        tokenizer: a fast tokenizer with a mask token.
        unit: "word" or "token". Words end at white space and punctuation, as the tokenizer divides a text and also
            where it does not: "Paris," is two.
        probability: the share of words or tokens that are masked.
        mention_share: the share of examples whose mentions are masked.
        seed: chooses the masks, together with the epoch and the index of an example.

    Raises:
        ValueError: the tokenizer has no mask token or does not know where a token stands in a text, the unit is
            unknown, or a share is out of range.
    """

    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    unit: str = "word"
    probability: float = 0.15
    mention_share: float = 0.0
    seed: int = 0
    replace: DataCollatorForLanguageModeling = field(init=False, repr=False)

    def __post_init__(self) -> None:
        name = self.tokenizer.name_or_path
        if self.tokenizer.mask_token is None:
            raise ValueError(
                f"the tokenizer of {name!r} has no mask token, so its model can't learn to fill one; choose a masked "
                "language model, or set mask_token"
            )
        if not self.tokenizer.is_fast:
            raise ValueError(
                f"the tokenizer of {name!r}, a {type(self.tokenizer).__name__}, does not know where its tokens stand "
                "in a text; use a fast tokenizer"
            )
        if self.unit not in MASK_UNITS:
            raise ValueError(f"the unit of masking is {self.unit!r} and must be one of {', '.join(MASK_UNITS)}")
        if not (0 < self.probability <= 1 and 0 <= self.mention_share <= 1):
            raise ValueError(
                f"the probability of a mask is {self.probability} and the share of mentions {self.mention_share}; the "
                "former must be above 0, and both at most 1"
            )
        self.replace = DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=1.0)

    # ---- before training ------------------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str], mentions: Sequence[Spans], max_length: int) -> dict[str, list]:
        """Tokenise texts; one that is too long becomes several examples, and one without a word none.

        Args:
            texts: the texts.
            mentions: for each text the (start, end) of its mentions in characters, end exclusive.
            max_length: the longest example in tokens, special tokens included.

        Returns:
            By column the examples: `input_ids`; for each token the number of its word in `words` and of its mention in
            `mentions`, -1 where there is none; `record`, the index of the text; `truncated`, always False.
        """
        encoded = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=max_length,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=False,
            return_attention_mask=False,
        )
        columns = ("record", "input_ids", "words", "mentions", "truncated")
        examples: dict[str, list] = {name: [] for name in columns}
        spans = [word_spans(text) for text in texts]
        for number, record in enumerate(encoded["overflow_to_sample_mapping"]):
            ids, divided = encoded["input_ids"][number], encoded.word_ids(number)
            places = trimmed(texts[record], encoded["offset_mapping"][number])
            words = self._words(ids, divided, places, spans[record])
            if max(words, default=NONE) == NONE:
                continue
            named = inside(places, words, mentions[record])
            for name, value in zip(columns, (record, ids, words, named, False), strict=True):
                examples[name].append(value)
        return examples

    def _words(self, ids: list[int], divided: list[int | None], places: Spans, spans: Spans) -> list[int]:
        """Return the number of each token's word or, if `unit` says so, of the token itself; -1 of special ones."""
        special = set(self.tokenizer.all_special_ids)
        ours = np.searchsorted([end for _, end in spans], [start for start, _ in places], side="right").tolist()
        words, last, number = [], None, NONE
        for token, word, own in zip(ids, divided, ours, strict=True):
            this = None if word is None or token in special else (word, own)
            number += int(this is not None and (this != last or self.unit == "token"))
            words.append(NONE if this is None else number)
            last = this
        return words

    # ---- in training ----------------------------------------------------------------------------------------------

    def mask(self, example: dict[str, Any], epoch: int | None, index: int) -> dict[str, Any]:
        """Mask an encoded example.

        Args:
            example: an example of `encode`.
            epoch: the epoch of training, from 0; None for evaluation, whose masks do not depend on the seed either.
            index: the index of the example.

        Returns:
            The example with its masked `input_ids`, the `positions` of the masks and, in `labels`, the tokens there.
        """
        entropy = [0, 0, index] if epoch is None else [self.seed, 1 + epoch, index]
        (state,) = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
        self.replace.generator = generator = torch.Generator().manual_seed(int(state))
        drawn = float(torch.rand((), generator=generator))
        by_mention = drawn < self.mention_share and max(example["mentions"]) > NONE
        units = torch.tensor(example["mentions" if by_mention else "words"])
        chosen = self._chosen(units, generator)  # (S,)
        ids, labels = self.replace.torch_mask_tokens(torch.tensor([example["input_ids"]]), ~chosen[None])
        positions = chosen.nonzero()[:, 0]
        own = {"input_ids": ids[0].tolist(), "positions": positions.tolist(), "labels": labels[0, positions].tolist()}
        return {**{name: value for name, value in example.items() if name not in ("words", "mentions")}, **own}

    def _chosen(self, units: Tensor, generator: torch.Generator) -> Tensor:
        """Return for each token whether it is masked: all tokens of a unit or none, and at least one unit."""
        number = int(units.max()) + 1
        masked = torch.rand(number, generator=generator) < self.probability
        masked[torch.randint(number, (), generator=generator)] |= not masked.any()
        return masked[units] & (units > NONE)


class MaskedExamples(Dataset):
    """Encoded examples that are masked anew in each epoch, or always in the same way.

    Args:
        examples: a `datasets.Dataset` of what `Masking.encode` returns.
        masking: masks them.
        fixed: whether every epoch has the same masks, those of evaluation.
    """

    def __init__(self, examples: Any, masking: Masking, fixed: bool = False) -> None:
        self.examples, self.masking, self.fixed, self.epoch = examples, masking, fixed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose masks are drawn."""
        self.epoch = epoch

    def column(self, name: str) -> np.ndarray:
        """Return a column of the examples that no mask changes."""
        return column(self.examples, name)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.masking.mask(self.examples[int(index)], None if self.fixed else self.epoch, int(index))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))


def trimmed(text: str, places: Spans) -> list[tuple[int, int]]:
    """Return where tokens stand in a text, (start, end), without the white space that some tokenizers count in.

    A token of white space alone belongs to the character after it.
    """
    starts = [end - len(text[start:end].lstrip()) for start, end in places]
    return [(start, max(end, start + 1)) for start, (_, end) in zip(starts, places, strict=True)]


def inside(places: Spans, words: list[int], mentions: Spans) -> list[int]:
    """Return the number of the mention that each token belongs to, -1 of all others.

    A mention of which the example holds only a part is none, nor is one that shares a token with an earlier one.
    """
    numbers = [NONE] * len(words)
    real = [index for index, word in enumerate(words) if word > NONE]
    first, last = places[real[0]][0], places[real[-1]][1]
    number = 0
    for start, end in mentions:
        own = [index for index in real if places[index][0] < end and places[index][1] > start]
        if own and start >= first and end <= last and all(numbers[index] == NONE for index in own):
            for index in own:
                numbers[index] = number
            number += 1
    return numbers
