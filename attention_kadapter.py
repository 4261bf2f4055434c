"""What adapters and heads are made of: linear maps, dropout, and self-attention as in BERT."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Attention", "Dropout", "Linear", "attention_mask_of", "check_mask"]

BITS = 16  # random bits of which dropout takes its choice for one value, a quarter of what PyTorch draws at a time


class Linear(nn.Linear):
    """torch's Linear, which draws no weights where others are about to take their place."""

    def reset_parameters(self) -> None:
        """Draw new weights, unless they have no memory: on the meta device too that takes longer than a load."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Dropout(nn.Dropout):
    """torch's Dropout, from fewer random bits on a CPU."""

    def forward(self, states: Tensor) -> Tensor:
        """Zero values of a tensor of any shape with probability p, and scale the others by 1 / (1 - p)."""
        return dropped(states, self.p) if self.training else states


def dropped(states: Tensor, probability: float) -> Tensor:
    """Return states with dropout, whose probability on a CPU is rounded to a multiple of 2**-16.

    PyTorch draws 64 bits for each value, on one thread of a CPU; of these 64 are enough for four.
    """
    dropped_of = round(probability * 2**BITS)
    if states.device.type != "cpu" or not 0 < dropped_of < 2**BITS or torch.compiler.is_compiling():
        return F.dropout(states, probability)
    drawn = torch.empty(math.ceil(states.numel() * BITS / 64), dtype=torch.int64, device=states.device)
    drawn.random_(torch.iinfo(torch.int64).min, None)
    kept = drawn.view(torch.int16)[: states.numel()].view(states.shape).ge_(dropped_of - 2 ** (BITS - 1))  # 1 or 0
    return states * kept.to(states.dtype).div_(1 - dropped_of / 2**BITS)


class Attention(nn.Module):
    """Multi-head self-attention with residual and layer norm after it."""

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float, eps: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, attention_dropout
        self.query, self.key, self.value = (Linear(width, width) for _ in range(3))
        self.dense = Linear(width, width)
        self.dropout = Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, states: Tensor, mask: Tensor | None, among: Tensor | None = None) -> Tensor:
        """Map (batch, n, width) to the same shape; the mask is what `attention_mask_of` returns.

        The states attend to all those `among` (batch, sequence, width) which they are; by default they are all.
        """
        among = states if among is None else among
        given = ((self.query, states), (self.key, among), (self.value, among))
        query, key, value = (one(read).unflatten(-1, (self.heads, -1)).transpose(1, 2) for one, read in given)
        dropout = self.attention_dropout if self.training else 0.0
        context = attend(query, key, value, mask, dropout)  # (B, heads, n, D / heads)
        context = self.dense(context.transpose(1, 2).flatten(2))  # (B, n, D)
        return self.layer_norm(states + self.dropout(context))


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Return the context of queries (batch, heads, n, width) among keys and values (batch, heads, sequence, width).

    With dropout PyTorch has no kernel on a CPU and would compute in float32, from 64 random bits for each weight.
    """
    if not dropout or query.device.type != "cpu" or torch.compiler.is_compiling():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    (batch, heads), scale, bias = query.shape[:2], query.shape[-1] ** -0.5, query.new_zeros(1)
    if mask is not None:
        bias = query.new_zeros(mask.shape).masked_fill(~mask, -math.inf).expand(batch, heads, -1, -1).flatten(0, 1)
    query, key, value = (one.flatten(0, 1) for one in (query, key, value))  # (B * heads, n or S, D / heads)
    weights = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale).softmax(dim=-1)  # (B * heads, n, S)
    return torch.bmm(dropped(weights, dropout), value).unflatten(0, (batch, heads))  # (B, heads, n, D / heads)


def attention_mask_of(attention_mask: Tensor | None, device: torch.device) -> Tensor | None:
    """Turn (batch, sequence) into a boolean (batch, 1, 1, sequence).

    A row without any token attends to all, so that nothing is NaN.

    Raises:
        ValueError: the mask has another shape.
    """
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2:
        shape = tuple(attention_mask.shape)
        raise ValueError(f"attention_mask has shape {shape}; adapters need (batch, sequence), 1 for tokens")
    real = attention_mask.bool()
    return (real | ~real.any(dim=1, keepdim=True))[:, None, None, :].to(device)


def check_mask(attention_mask: Tensor | None, inputs: Tensor | None) -> None:
    """Raise ValueError, before anything runs, where a mask (batch, sequence) does not belong to its inputs."""
    if attention_mask is not None and inputs is not None and attention_mask.shape != inputs.shape[:2]:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)} and must have {tuple(inputs.shape[:2])}, (batch, "
            "sequence) of the inputs; give the mask that came with them"
        )
