"""Pre-norm adapters: a lean kind of knowledge adapter, beside encoders and language models alike.

Per tap h = h + up(blocks(down(rms(tap) + h))), from h = 0 on: the shape of K-Adapter (Wang et al., 2021) with norms
in front of what they serve, so that no scale of a backbone's hidden states matters, and with up-projections that
start as zero, so that a new adapter changes nothing. Its output is its contribution.
Dimensions: B batch, S sequence, T tokens in a cache and S after them, H backbone width, D adapter width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_kadapter import (
    KAdapterConfig,
    KnowledgeAdapterConfig,
    check_choice,
    refuse_published,
    with_plain_errors,
)
from .heads_kadapter import *  # noqa: F403 (as the Auto classes look for heads in this file)
from .language_modeling_kadapter import *  # noqa: F403
from .modeling_kadapter import (
    Dropout,
    KAdapterModel,
    KnowledgePlugin,
    Linear,
    attend,
    attention_mask_of,
    gather,
)
from .top_layers_kadapter import TopLayersAdapterConfig  # noqa: F401 (so that its file travels to where both kinds are)

__all__ = [  # beside the heads, which the Auto classes find here too
    "Config",
    "KAdapterConfig",
    "KAdapterModel",
    "Plugin",
    "PreNormAdapter",
    "PreNormAdapterConfig",
]


# ---- the configuration ----------------------------------------------------------------------------------------------


@with_plain_errors("pre-norm adapter")
@strict
@dataclass(kw_only=True)
class PreNormAdapterConfig(KnowledgeAdapterConfig):
    """The shape of a pre-norm adapter.

    Fields are those of `KnowledgeAdapterConfig`, with these defaults and meanings:

    Args:
        hidden_size: inner width, whatever the backbone's; None takes three quarters of that, as the published kind.
        num_hidden_layers: transformer blocks at each tap; with 0 no token sees another.
        hidden_dropout_prob: dropout after dense layers; none by default, as for attention weights.
        layer_norm_eps: epsilon of the layer norms and of the norm of the tapped states.
        projection_initializer_range: standard deviation of the up-projections at the start; 0 for an adapter that
            changes nothing before it is trained. None for torch's default.
        causal: whether tokens see only those before them; None does as the backbone does. False beside a language
            model is for classification, where a text is there as a whole; such an adapter can't generate.
        silent_below: the adapter adds nothing at a token where the root mean square of its contribution lies below
            this share of `backbone_rms`, once it no longer trains; 0 for an adapter that is never silent.

    `skip_layers` and `mask_padding=False`, which reproduce published code, mean nothing here and are refused.

    Raises:
        TypeError: a value is of another type than its field.
        ValueError: a size, a probability or a choice makes no adapter.
    """

    hidden_size: int | None = 192
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    layer_norm_eps: float = 1e-6
    projection_initializer_range: float | int | None = 0.0
    causal: bool | None = None
    silent_below: float | int = 0.0
    kind: str = "prenorm"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_published(self, "a pre-norm adapter")
        check_choice("hidden_act", self.hidden_act, ACT2FN)
        if not (math.isfinite(self.silent_below) and self.silent_below >= 0):
            raise ValueError(f"silent_below={self.silent_below} must be a number of at least 0, which is for never")

    def for_backbone(
        self,
        num_hidden_layers: int,
        hidden_size: int,
        embedding_size: int | None = None,
        causal: bool = False,
        backbone_config: PreTrainedConfig | None = None,
    ) -> KnowledgeAdapterConfig:
        """Return this configuration with all that was left open filled in; see `KnowledgeAdapterConfig`.

        Raises:
            ValueError: a layer lies outside 0..num_hidden_layers.
        """
        filled = super().for_backbone(num_hidden_layers, hidden_size, embedding_size, causal).to_dict()
        return type(self)(**{**filled, "causal": causal if self.causal is None else self.causal})

    @property
    def description(self) -> str:
        """What it reads and how large it is, in words."""
        silent = f", silent below {self.silent_below:g}" if self.silent_below else ""
        return f"{super().description}, {'causal' if self.causal else 'bidirectional'}{silent}"


# ---- the adapter ----------------------------------------------------------------------------------------------------


def visible(
    attention_mask: Tensor | None, length: int, past: int, causal: bool, device: torch.device
) -> Tensor | None:
    """Return which tokens each token sees, as a boolean (batch or 1, 1, length or 1, past + length); None for all.

    The last `length` tokens are those that look; `attention_mask` is (batch, past + length). A token always sees
    itself, so that padding, which nothing else sees, is not NaN.
    """
    if not causal:
        return attention_mask_of(attention_mask, device)
    if length == 1 and attention_mask is None:
        return None
    ones = torch.ones(length, past + length, dtype=torch.bool, device=device)
    before = ones.tril(past)
    if attention_mask is None:
        return before[None, None]
    real = attention_mask.bool().to(device)[:, None, None, :]
    return (before & real) | before.triu(past)  # (B, 1, S, T + S)


class PreNormAttention(nn.Module):
    """Multi-head self-attention of states that were normed before it; residual and norm are the block's."""

    def __init__(self, config: KnowledgeAdapterConfig) -> None:
        super().__init__()
        width, self.heads, _ = config.sizes
        self.attention_dropout = config.attention_probs_dropout_prob
        self.query_key_value, self.dense = Linear(width, 3 * width), Linear(width, width)

    def forward(self, states: Tensor, mask: Tensor | None, past: Any = None) -> Tensor:
        """Map (batch, sequence, width) to the same shape; `past`, a layer of a cache, goes before and grows."""
        projected = self.query_key_value(states).unflatten(-1, (3, self.heads, -1))  # (B, S, 3, heads, D / heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = past.update(key, value)
        context = attend(query, key, value, mask, self.attention_dropout if self.training else 0.0)
        return self.dense(context.transpose(1, 2).flatten(2))


class PreNormBlock(GradientCheckpointingLayer):
    """One transformer block with the layer norms before attention and feed-forward layer."""

    def __init__(self, config: KnowledgeAdapterConfig) -> None:
        super().__init__()
        width, _, inner_width = config.sizes
        self.attention_norm, self.output_norm = (nn.LayerNorm(width, eps=config.layer_norm_eps) for _ in range(2))
        self.attention = PreNormAttention(config)
        self.intermediate, self.output = Linear(width, inner_width), Linear(inner_width, width)
        self.activation, self.dropout = ACT2FN[config.hidden_act], Dropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor, mask: Tensor | None, past: Any = None) -> Tensor:
        states = states + self.dropout(self.attention(self.attention_norm(states), mask, past))
        inner = self.activation(self.intermediate(self.output_norm(states)))
        return states + self.dropout(self.output(inner))


class PreNormAdapterLayer(nn.Module):
    """What an adapter adds at one tap: up(blocks(down(states)))."""

    def __init__(self, config: KnowledgeAdapterConfig, backbone_hidden_size: int) -> None:
        super().__init__()
        self.down_project = Linear(backbone_hidden_size, config.sizes[0])
        self.blocks = nn.ModuleList(PreNormBlock(config) for _ in range(config.num_hidden_layers))
        self.up_project = Linear(config.sizes[0], backbone_hidden_size)
        if config.projection_initializer_range is not None and not self.up_project.weight.is_meta:
            nn.init.normal_(self.up_project.weight, std=config.projection_initializer_range)
            nn.init.zeros_(self.up_project.bias)

    def forward(self, states: Tensor, mask: Tensor | None, cache: Sequence[Any] | None = None) -> Tensor:
        """Map (batch, sequence, hidden) to the same shape."""
        inner = self.down_project(states)  # (B, S, D)
        for number, block in enumerate(self.blocks):
            inner = block(inner, mask, None if cache is None else cache[number])
        return self.up_project(inner)


class PreNormAdapter(KnowledgePlugin):
    """One pre-norm adapter: h = 0; for i, l in enumerate(layers): h = h + layer_i(rms(hs[l]) + h).

    h has the backbone's width and holds no tapped state, so that "add" and "delta" fuse it alike. The root mean square
    by which each tapped state is divided has no parameters. There are no positions of its own: tapped states know
    theirs.

    With `silent_below` what is small is left out after training, so that other texts are read as by the backbone
    alone. `backbone_rms`, a buffer, is its unit: the root mean square of the backbone's last hidden states, which the
    trainer measures on the texts that hold the adapter back; until then 1.
    """

    def __init__(self, config: PreNormAdapterConfig, backbone_hidden_size: int) -> None:
        super().__init__(config, backbone_hidden_size)
        self.layers = nn.ModuleList(PreNormAdapterLayer(config, backbone_hidden_size) for _ in self.tapped_layers)
        if config.silent_below:
            self.register_buffer("backbone_rms", torch.ones(()))

    @property
    def looks_ahead(self) -> bool:  # type: ignore[override]  # of other kinds a constant
        """Whether a token sees those after it."""
        return not self.config.causal

    @property
    def cached_layers(self) -> int:  # type: ignore[override]
        """The number of its attention layers, which keep keys and values of earlier tokens if it is causal."""
        return len(self.layers) * self.config.num_hidden_layers if self.config.causal else 0

    def forward(
        self,
        hidden_states: Sequence[Tensor],
        attention_mask: Tensor | None,
        at: Tensor | None = None,
        cache: Sequence[Any] | None = None,
    ) -> Tensor:
        """Map tapped hidden states, each (batch, sequence, hidden), to the contribution, all or `at` (batch, n).

        With a `cache`, a layer of it for each block, the states are those of the tokens after it, and the mask
        (batch, sequence) begins with what it holds.
        """
        like, blocks = next(self.parameters()), self.config.num_hidden_layers
        past = cache[0].get_seq_length() if cache else 0
        mask = visible(attention_mask, hidden_states[0].shape[1], past, self.config.causal, like.device)
        h: Any = 0.0
        for number, (layer, state) in enumerate(zip(self.layers, hidden_states, strict=True)):
            state = F.rms_norm(state, state.shape[-1:], eps=self.config.layer_norm_eps).to(like)
            own = cache[number * blocks : (number + 1) * blocks] if cache else None
            h = h + layer(state + h, mask, own)
        h = h if at is None else gather(h, at)  # (B, S or n, H)
        if self.training or not self.config.silent_below:
            return h
        size = h.float().square().mean(-1, keepdim=True).sqrt()
        return torch.where(size < self.config.silent_below * self.backbone_rms, 0.0, h)


Config, Plugin = PreNormAdapterConfig, PreNormAdapter
