"""How a backbone numbers its tokens."""

import inspect
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Positions", "positions_of"]


class Positions(NamedTuple):
    """How a backbone numbers tokens: by a look at their ids or not, from where on, and how many."""

    by_tokens: bool = False
    first: int | None = None
    longest: int | None = None

    def check_length(self, given: Tensor | None) -> None:
        """Raise ValueError for more tokens (batch, sequence, ...) than there are positions."""
        if given is not None and self.longest is not None and given.shape[1] > self.longest:
            raise ValueError(
                f"{given.shape[1]} tokens are more than the {self.longest} that the backbone takes; cut them"
            )

    def number(self, attention_mask: Tensor, by_mask_alone: bool) -> Tensor | None:
        """Number each row from its first real token on, where the backbone would count left padding along."""
        if self.first is None or attention_mask.dim() != 2 or (self.by_tokens and not by_mask_alone):
            return None
        real = attention_mask.bool()
        index = torch.arange(real.shape[1], device=real.device) + self.first
        return (index - (real.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)).clamp(min=self.first)  # (B, S)


def positions_of(backbone: nn.Module) -> Positions:
    """Return how a backbone numbers its tokens."""
    embeddings = getattr(backbone, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if table is None or "position_ids" not in inspect.signature(backbone.forward).parameters:
        return Positions()  # relative or rotary positions: padding on the left shifts all of them alike
    padding = getattr(embeddings, "padding_idx", None)  # RoBERTa's rule: padding stays at its id, others follow
    first = 0 if padding is None else padding + 1
    return Positions(padding is not None, first, len(table.weight) - first)
