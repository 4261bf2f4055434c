"""Self-attention as in BERT, of which adapters and one of the heads are made."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Attention", "Linear", "attention_mask_of"]


class Linear(nn.Linear):
    """torch's Linear, which draws no weights where others are about to take their place."""

    def reset_parameters(self) -> None:
        """Draw new weights, unless they have no memory: on the meta device too that takes longer than a load."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Attention(nn.Module):
    """Multi-head self-attention with residual and layer norm after it, by `scaled_dot_product_attention`."""

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float, eps: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, attention_dropout
        self.query, self.key, self.value = (Linear(width, width) for _ in range(3))
        self.dense = Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, states: Tensor, mask: Tensor | None, among: Tensor | None = None) -> Tensor:
        """Map (batch, n, width) to the same shape; the mask is what `attention_mask_of` returns.

        The states attend to all those `among` (batch, sequence, width) which they are; by default they are all.
        """
        among = states if among is None else among
        given = ((self.query, states), (self.key, among), (self.value, among))
        query, key, value = (one(read).unflatten(-1, (self.heads, -1)).transpose(1, 2) for one, read in given)
        dropout = self.attention_dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        context = self.dense(context.transpose(1, 2).flatten(2))  # (B, n, D)
        return self.layer_norm(states + self.dropout(context))


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
