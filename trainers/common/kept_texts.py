"""Texts that hold adapters back: the hidden states that these read, which the backbone makes once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .precision import precision_context

__all__ = ["KeptTexts", "keep_texts"]

SHORTEST = 16  # below it the bits of a row depend on the rest of its batch


@dataclass
class KeptTexts:
    """The hidden states of texts, without padding, on the host.

    Args:
        states: for each layer that is tapped the states of all tokens, (tokens, hidden).
        lengths: the number of tokens of each text.
        mean_square: of the backbone's last hidden state, over all tokens.
        digest: says which texts these are, as they were read.
    """

    states: dict[int, Tensor]
    lengths: np.ndarray
    mean_square: float
    digest: str = ""

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[dict[int, Tensor], Tensor]:
        """Return the padded states (batch, sequence, hidden) of these texts by layer, and their attention mask."""
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        slices = [slice(int(starts[index]), int(starts[index + 1])) for index in indices]
        states = {
            layer: pad_sequence([tokens[chosen] for chosen in slices], batch_first=True)
            for layer, tokens in self.states.items()
        }
        lengths = torch.as_tensor(self.lengths[np.asarray(indices)])
        return states, (torch.arange(int(lengths.max())) < lengths[:, None]).long()


def keep_texts(
    model: Any, tokenizer: Any, texts: Sequence[str], max_length: int, run: Any, masked: bool = False
) -> KeptTexts:
    """Let the backbone read texts once, and keep the states that the model's active adapters tap.

    Args:
        model: the model; its adapters are not run.
        tokenizer: the backbone's tokenizer.
        texts: the texts; what is longer than `max_length` tokens is cut.
        max_length: the longest input in tokens, special tokens included.
        run: the arguments of training, of which device, precision and evaluation batch size matter.
        masked: whether to mask a token of each text that has no mask, the same each time, so that an adapter that
            learns at masks is held back at masks, too.
    """
    model.to(run.device)
    ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    if masked:
        ids = _with_a_mask(ids, tokenizer)
    lengths = np.array([len(tokens) for tokens in ids])
    layers, kept, square = model.tapped(), {}, 0.0
    for batch in np.array_split(np.argsort(-lengths, kind="stable"), -(-len(ids) // run.per_device_eval_batch_size)):
        padded = _padded([ids[index] for index in batch], tokenizer, max_length)
        with torch.no_grad(), precision_context(run):
            states = model.base_model.tap(*(tensor.to(run.device) for tensor in padded))
        for row, index in enumerate(batch):
            kept[index] = [states[layer][row, : lengths[index]].cpu() for layer in layers]
            square += float(states[-1][row, : lengths[index]].double().square().sum())
    by_layer = {
        layer: torch.cat([kept[index][number] for index in range(len(ids))]) for number, layer in enumerate(layers)
    }
    digest = blake2b(repr(ids).encode(), digest_size=16).hexdigest()
    return KeptTexts(by_layer, lengths, square / (int(lengths.sum()) * model.config.hidden_size), digest)


def _with_a_mask(ids: list[list[int]], tokenizer: Any) -> list[list[int]]:
    generator, special, mask = np.random.default_rng(0), set(tokenizer.all_special_ids), tokenizer.mask_token_id
    masked = []
    for tokens in ids:
        plain = [place for place, token in enumerate(tokens) if token not in special]
        chosen = plain[int(generator.integers(len(plain)))] if plain and mask not in tokens else None
        masked.append([mask if place == chosen else token for place, token in enumerate(tokens)])
    return masked


def _padded(ids: list[list[int]], tokenizer: Any, max_length: int) -> tuple[Tensor, Tensor]:
    width = max(*map(len, ids), min(SHORTEST, max_length))
    padding = tokenizer.pad_token_id or 0
    rows = torch.tensor([[*tokens, *[padding] * (width - len(tokens))] for tokens in ids])
    return rows, torch.tensor([[1] * len(tokens) + [0] * (width - len(tokens)) for tokens in ids])
