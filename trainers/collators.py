"""Pad encoded examples to their batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

__all__ = ["PadToBatch"]


@dataclass
class PadToBatch:
    """Stack what has one size, and pad on the right what has not, by the value given for each column.

    Args:
        padding: for each column its padding value; columns that are not named are left out.
    """

    padding: dict[str, int]

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Return one tensor for each column, and the attention mask."""
        batch = {}
        for column, value in self.padding.items():
            tensors = [torch.tensor(example[column], dtype=torch.long) for example in examples]  # an empty list too
            scalar = tensors[0].dim() == 0
            batch[column] = torch.stack(tensors) if scalar else pad_sequence(tensors, True, padding_value=value)
        lengths = torch.tensor([len(example["input_ids"]) for example in examples])
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()  # (B, S)
        return batch
