"""A language model that is asked for the tokens at masked positions, or after those of a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ...language_modeling_kadapter import KAdapterForCausalLM, KAdapterForMaskedLM
from .prompts import Masked, Prompter

__all__ = ["LanguageModel"]

WINDOW = 512  # inputs that are sorted by length at a time
SCORED = 1024  # positions of a batch, since scores of a whole vocabulary take most of the memory


@dataclass(eq=False)
class LanguageModel:
    """A model that returns logits (batch, sequence, vocabulary), its prompts, and how many tokens it reads at once.

    Args:
        model: a `KAdapterForMaskedLM` or `KAdapterForCausalLM`, which compute the logits that are asked for alone, or
            any language model of transformers.
        prompter: its tokenizer.
        batch_tokens: tokens of a batch, padding included.
    """

    model: Any
    prompter: Prompter
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        self.model.eval()
        self.vocabulary = 1 + max(self.prompter.tokenizer.get_vocab().values())

    def log_probabilities(self, inputs: Iterable[Masked]) -> Iterator[tuple[int, Tensor]]:
        """Yield for each input its number and log-probabilities (positions, vocabulary), in the order of lengths.

        Raises:
            ValueError: the LM head belongs to another vocabulary than the tokenizer's, or its scores are not finite.
        """
        numbered = enumerate(inputs)
        while window := list(islice(numbered, WINDOW)):
            for batch in self._batches(sorted(window, key=lambda pair: len(pair[1].ids))):
                numbers, masked = zip(*batch, strict=True)
                yield from zip(numbers, self._read(masked), strict=True)

    def _batches(self, inputs: Sequence[tuple[int, Masked]]) -> Iterator[list[tuple[int, Masked]]]:
        batch: list[tuple[int, Masked]] = []
        most = 0  # positions that an input of the batch asks for
        for pair in inputs:  # the last is the longest
            number, most = len(batch) + 1, max(most, len(pair[1].positions))
            if batch and (number * len(pair[1].ids) > self.batch_tokens or number * most > SCORED):
                yield batch
                batch, most = [], len(pair[1].positions)
            batch.append(pair)
        if batch:
            yield batch

    def _read(self, inputs: Sequence[Masked]) -> list[Tensor]:
        """Return the log-probabilities (positions, vocabulary) of each input of a batch."""
        width, most = max(len(each.ids) for each in inputs), max(len(each.positions) for each in inputs)
        pad = self.prompter.tokenizer.pad_token_id or 0
        ids = torch.tensor([[*each.ids, *[pad] * (width - len(each.ids))] for each in inputs])
        mask = torch.tensor([[1] * len(each.ids) + [0] * (width - len(each.ids)) for each in inputs])
        asked = torch.tensor([[*each.positions, *[-1] * (most - len(each.positions))] for each in inputs])
        with torch.inference_mode():
            logits = self._logits(*(tensor.to(self.model.device) for tensor in (ids, mask, asked))).float().cpu()
        self._check(logits)
        return [row[: len(each.positions)].log_softmax(dim=-1) for row, each in zip(logits, inputs, strict=True)]

    def _logits(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        if isinstance(self.model, KAdapterForMaskedLM):
            return self.model(input_ids=ids, attention_mask=mask, positions=positions).logits
        if isinstance(self.model, KAdapterForCausalLM):
            return self.model(input_ids=ids, attention_mask=mask, logits_to_keep=positions, use_cache=False).logits
        logits = self.model(input_ids=ids, attention_mask=mask).logits
        return logits[torch.arange(len(ids), device=ids.device)[:, None], positions]

    def _check(self, logits: Tensor) -> None:
        if logits.shape[-1] < self.vocabulary:
            raise ValueError(
                f"the LM head scores {logits.shape[-1]} tokens and the tokenizer has {self.vocabulary}; use the LM "
                "head that was made for this backbone"
            )
        if not torch.isfinite(logits).all():
            raise ValueError("the LM head's scores are not finite; its weights or those of an adapter are damaged")
