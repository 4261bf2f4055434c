"""Pad encoded examples to their batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

__all__ = ["PadToBatch"]


@dataclass
class PadToBatch:
    """Stack what has one size, and pad on the right what has not, by the value given for each column.

    Args:
        padding: for each column its padding value, a float for a column of floats; columns that are not named, or
            that examples do not have, are left out.
        length: to how many tokens every example is padded, None for those of the longest.
    """

    padding: dict[str, int | float]
    length: int | None = None

    @classmethod
    def of(cls, objective: Any, model: Any) -> PadToBatch:
        """Return what pads the examples of an objective or a task for a model.

        Adapters without `mask_padding` attend to padding, as the official ones do. Beside such a one every example is
        padded to `objective.max_length`, as there, so that no result depends on what else is in a batch.
        """
        adapters = [model.base_model.adapters[name] for name in model.active_adapters()]
        masked = all(one.config.mask_padding for one in adapters)
        return cls(objective.padding, None if masked else objective.max_length)

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return one tensor for each column, the attention mask, and the kept states where examples have them."""
        batch: dict[str, Any] = {}
        for column, value in self.padding.items():
            if column in examples[0]:
                batch[column] = _padded([example[column] for example in examples], value)
        if "input_ids" in batch:
            batch["attention_mask"] = _mask([example["input_ids"] for example in examples])
            if self.length is not None:
                batch |= self._lengthened(batch, batch["input_ids"].shape)
        if "states" in examples[0]:
            sources = examples[0]["states"]
            batch["states"] = {
                name: torch.stack([example["states"][name] for example in examples]) for name in sources
            }
        return batch

    def _lengthened(self, batch: dict[str, Any], shape: torch.Size) -> dict[str, Tensor]:
        """Return the columns that have a value for each token, padded to `length`."""
        more = (0, max(0, (self.length or 0) - shape[-1]))
        tokens = {column: one for column, one in batch.items() if one.shape == shape}
        return {column: F.pad(one, more, value=self.padding.get(column, 0)) for column, one in tokens.items()}


def _padded(values: list[Any], value: int | float) -> Tensor:
    dtype = torch.float if isinstance(value, float) else torch.long
    if any(isinstance(inner, list) for one in values if isinstance(one, list) for inner in one):
        return _padded_twice(values, value, dtype)
    tensors = [torch.tensor(one, dtype=dtype) for one in values]  # an empty list too
    return torch.stack(tensors) if tensors[0].dim() == 0 else pad_sequence(tensors, True, padding_value=value)


def _padded_twice(values: list[list[list[Any]]], value: int | float, dtype: torch.dtype) -> Tensor:
    """Pad lists of lists, such as the choices of a question, to (batch, number, length)."""
    number, length = max(map(len, values)), max(len(inner) for one in values for inner in one)
    padded = torch.full((len(values), number, length), value, dtype=dtype)
    for row, one in enumerate(values):
        for place, inner in enumerate(one):
            padded[row, place, : len(inner)] = torch.tensor(inner, dtype=dtype)
    return padded


def _mask(input_ids: list[Any]) -> Tensor:
    """Return 1 for tokens and 0 for padding, in the shape of the padded ids."""
    if input_ids[0] and isinstance(input_ids[0][0], list):
        return _padded_twice([[[1] * len(inner) for inner in one] for one in input_ids], 0, torch.long)
    lengths = torch.tensor([len(ids) for ids in input_ids])
    return (torch.arange(int(lengths.max())) < lengths[:, None]).long()  # (B, S)
