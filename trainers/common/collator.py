"""Pad encoded examples to a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

__all__ = ["PadToBatch"]


@dataclass
class PadToBatch:
    """Stack columns of equal size and pad the others on the right, with a padding value for each column.

    Args:
        padding: the padding value of each column, a float for a column of floats; columns that are not listed, or that
            examples do not have, are left out.
        length: the number of tokens that every example is padded to, None for the length of the longest.
        complete: what an objective makes of a padded batch, such as looking up its entities.
    """

    padding: dict[str, int | float]
    length: int | None = None
    complete: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    @classmethod
    def of(cls, objective: Any, model: Any) -> PadToBatch:
        """Return a collator for the examples of an objective or a task under a given model.

        Adapters without `mask_padding` attend to padding, as the official ones do. If such an adapter is active, every
        example is padded to `objective.max_length`, as in the official code, so that no result depends on the batch.
        """
        adapters = [model.base_model.adapters[name] for name in model.active_adapters()]
        masked = all(adapter.config.mask_padding for adapter in adapters)
        return cls(objective.padding, None if masked else objective.max_length, getattr(objective, "complete", None))

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return a tensor for each column, the attention mask, and the kept states if examples have them."""
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
        return batch if self.complete is None else self.complete(batch)

    def _lengthened(self, batch: dict[str, Any], shape: torch.Size) -> dict[str, Tensor]:
        """Return the columns that have a value for each token, padded to `length`."""
        more = (0, max(0, (self.length or 0) - shape[-1]))
        tokens = {column: tensor for column, tensor in batch.items() if tensor.shape == shape}
        return {column: F.pad(tensor, more, value=self.padding.get(column, 0)) for column, tensor in tokens.items()}


def _padded(values: list[Any], value: int | float) -> Tensor:
    dtype = torch.float if isinstance(value, float) else torch.long
    if any(isinstance(inner, list) for outer in values if isinstance(outer, list) for inner in outer):
        return _padded_twice(values, value, dtype)
    tensors = [torch.tensor(items, dtype=dtype) for items in values]  # with the dtype of an empty list too
    return torch.stack(tensors) if tensors[0].dim() == 0 else pad_sequence(tensors, True, padding_value=value)


def _padded_twice(values: list[list[list[Any]]], value: int | float, dtype: torch.dtype) -> Tensor:
    """Pad lists of lists, such as the choices of questions, to (batch, number, length)."""
    number, length = max(map(len, values)), max(len(inner) for lists in values for inner in lists)
    padded = torch.full((len(values), number, length), value, dtype=dtype)
    for index, lists in enumerate(values):
        for position, inner in enumerate(lists):
            padded[index, position, : len(inner)] = torch.tensor(inner, dtype=dtype)
    return padded


def _mask(input_ids: list[Any]) -> Tensor:
    """Return a mask of the shape of the padded ids: 1 for tokens, 0 for padding."""
    if input_ids[0] and isinstance(input_ids[0][0], list):
        return _padded_twice([[[1] * len(ids) for ids in choices] for choices in input_ids], 0, torch.long)
    lengths = torch.tensor([len(ids) for ids in input_ids])
    return (torch.arange(int(lengths.max())) < lengths[:, None]).long()  # (B, S)
