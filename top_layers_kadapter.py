"""Top-layer adapters: copies of an encoder's last blocks, which learn outside it while the encoder stays as it is.

Such an adapter begins as what the encoder does already, so it has its attention to learn with, where other kinds learn
their own from nothing; and it costs what its blocks cost, since nothing flows back into the encoder. Its contribution
is what its blocks make of the hidden states below them, less what the encoder's make of them: nothing at the start.
Dimensions: B batch, S sequence, n positions, H backbone width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from .backbone_kadapter import brought_back, device_of
from .configuration_kadapter import (
    KAdapterConfig,
    KnowledgeAdapterConfig,
    check_choice,
    refuse_published,
    with_plain_errors,
)
from .heads_kadapter import *  # noqa: F403 (as the Auto classes look for heads in this file)
from .language_modeling_kadapter import *  # noqa: F403
from .modeling_kadapter import AdapterBlock, KAdapterModel, KnowledgePlugin, attention_mask_of, gather

__all__ = [  # beside the heads, which the Auto classes find here too
    "Config",
    "KAdapterConfig",
    "KAdapterModel",
    "Plugin",
    "TopLayersAdapter",
    "TopLayersAdapterConfig",
]

# What a block is made of, by its name here, in BERT and its many relatives, and in DistilBERT.
PARTS = {
    "attention.query": ("attention.self.query", "attention.q_lin"),
    "attention.key": ("attention.self.key", "attention.k_lin"),
    "attention.value": ("attention.self.value", "attention.v_lin"),
    "attention.dense": ("attention.output.dense", "attention.out_lin"),
    "attention.layer_norm": ("attention.output.LayerNorm", "sa_layer_norm"),
    "intermediate": ("intermediate.dense", "ffn.lin1"),
    "output": ("output.dense", "ffn.lin2"),
    "layer_norm": ("output.LayerNorm", "output_layer_norm"),
}
# The backbone's own, under the names that configurations have for them.
OF_BACKBONE = {
    "hidden_size": ("hidden_size",),
    "num_attention_heads": ("num_attention_heads",),
    "intermediate_size": ("intermediate_size", "hidden_dim"),
    "hidden_act": ("hidden_act", "activation"),
    "layer_norm_eps": ("layer_norm_eps",),
}
PROBE = 8  # tokens on which a copy is compared with what it was copied from
TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-3}  # relative to the largest value; of other dtypes 0.1


# ---- the configuration ----------------------------------------------------------------------------------------------


@with_plain_errors("top-layer adapter")
@strict
@dataclass(kw_only=True)
class TopLayersAdapterConfig(KnowledgeAdapterConfig):
    """The shape of a top-layer adapter, which is that of the encoder's own blocks.

    Fields are those of `KnowledgeAdapterConfig`, with these defaults and meanings:

    Args:
        num_hidden_layers: how many of the encoder's last blocks are copied.
        layers: what follows from that, the hidden states below these blocks and behind them.
        hidden_dropout_prob: dropout after dense layers in training.
        attention_probs_dropout_prob: dropout of the attention weights in training.

    All sizes, activation and epsilon are the encoder's, and nothing is drawn at random. `skip_layers` and
    `mask_padding=False`, which reproduce published code, mean nothing here and are refused.

    Raises:
        TypeError: a value is of another type than its field.
        ValueError: a probability or a number of blocks makes no adapter, or a value is not the encoder's to choose.
    """

    layer_norm_eps: float = 1e-12
    kind: str = "top_layers"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_hidden_layers < 1:
            raise ValueError("num_hidden_layers=0 of a top-layer adapter copies no block; copy at least 1")
        refuse_published(self, "a top-layer adapter")
        check_choice("hidden_act", self.hidden_act, ACT2FN)

    def for_backbone(
        self,
        num_hidden_layers: int,
        hidden_size: int,
        embedding_size: int | None = None,
        causal: bool = False,
        backbone_config: PreTrainedConfig | None = None,
    ) -> "TopLayersAdapterConfig":
        """Return this configuration with all that is the encoder's filled in; see `KnowledgeAdapterConfig`.

        Raises:
            ValueError: the encoder has fewer blocks, or a value differs from its own.
        """
        if self.num_hidden_layers > num_hidden_layers:
            raise ValueError(
                f"num_hidden_layers={self.num_hidden_layers} of a top-layer adapter are more than the "
                f"{num_hidden_layers} blocks of its encoder; copy fewer"
            )
        values = {"layers": [num_hidden_layers - self.num_hidden_layers, num_hidden_layers]}
        if backbone_config is not None:
            values |= _sizes_of(backbone_config)
        own = {field.name: field.default for field in fields(self)}
        for name, theirs in values.items():
            asked = getattr(self, name)
            asked = list(asked) if isinstance(asked, tuple) else asked
            if asked not in (own[name], theirs):
                raise ValueError(
                    f"{name}={asked} of a top-layer adapter differs from its encoder's {theirs}, whose blocks it "
                    "copies; leave it out"
                )
        return type(self)(**{**self.to_dict(), **values})

    @property
    def description(self) -> str:
        """What it reads and how large it is, in words."""
        return f"copies of the last {self.num_hidden_layers} blocks, width {self.hidden_size}"


def _sizes_of(backbone_config: PreTrainedConfig) -> dict[str, Any]:
    """Return what a configuration tells of its blocks."""
    found = {}
    for name, theirs in OF_BACKBONE.items():
        values = (getattr(backbone_config, each, None) for each in theirs)
        if (value := next((value for value in values if value is not None), None)) is not None:
            found[name] = value
    return found


# ---- the adapter ----------------------------------------------------------------------------------------------------


class TopLayersAdapter(KnowledgePlugin):
    """One top-layer adapter: blocks(hs[N - k]) - hs[N], where blocks begin as the encoder's last k of N.

    It has the backbone's width and holds no tapped state, so that "add" and "delta" fuse it alike, and with either the
    features of one such adapter are what its blocks make.
    """

    def __init__(self, config: TopLayersAdapterConfig, backbone_hidden_size: int) -> None:
        super().__init__(config, backbone_hidden_size)
        self.blocks = nn.ModuleList(AdapterBlock(config) for _ in range(config.num_hidden_layers))
        self.is_new = not next(self.blocks.parameters()).is_meta  # else an artifact's weights follow

    def meet(self, backbone: PreTrainedModel) -> None:
        """Begin, where it is new, as a copy of the backbone's last blocks.

        Raises:
            ValueError: those are of another kind than a copy can be.
        """
        if self.is_new:
            for own, theirs in zip(self.blocks, _last_blocks(backbone, len(self.blocks)), strict=True):
                _copy_block(own, theirs, backbone)
            self._compare(backbone)
            self.is_new = False

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor | None, at: Tensor | None = None
    ) -> Tensor:
        """Map the states below the blocks and behind them, each (batch, sequence, hidden), to the contribution."""
        like = next(self.parameters())
        mask = attention_mask_of(attention_mask, like.device)
        states, last = (state.to(like) for state in hidden_states)
        for number, block in enumerate(self.blocks, start=1):
            states = block(states, mask, at if number == len(self.blocks) else None)
        return states - (last if at is None else gather(last, at))  # (B, S or n, H)

    def _compare(self, backbone: PreTrainedModel) -> None:
        """Raise ValueError where the copy makes something else of a few tokens than the backbone does."""
        device, dtype = device_of(backbone), next(backbone.parameters()).dtype
        if device.type == "meta":
            return
        ids = torch.arange(1, 1 + PROBE, device=device)[None]
        with torch.no_grad():
            states = backbone(input_ids=ids, output_hidden_states=True).hidden_states
            training, _ = self.training, self.eval()
            differs = self([states[layer] for layer in self.tapped_layers], None).abs().max()
            self.train(training)
        if differs > TOLERANCES.get(dtype, 0.1) * states[-1].abs().max():
            raise _unfit(backbone, f"copies of its last blocks make something else of their input, by {differs:.2g}")


def _last_blocks(backbone: PreTrainedModel, number: int) -> list[nn.Module]:
    """Return the last blocks of a backbone.

    Raises:
        ValueError: it has no list of its blocks.
    """
    depth = backbone.config.num_hidden_layers
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if not lists:
        raise _unfit(backbone, f"it has no list of its {depth} blocks")
    return list(lists[0])[-number:]


def _copy_block(own: nn.Module, theirs: nn.Module, backbone: PreTrainedModel) -> None:
    """Copy the weights of a backbone's block."""
    modules = dict(theirs.named_modules())
    for name, names in PARTS.items():
        source = next((modules[each] for each in names if each in modules), None)
        if source is None:
            raise _unfit(backbone, f"its blocks have none of {' and '.join(names)}")
        for key, parameter in own.get_submodule(name).named_parameters():
            value = brought_back(source, key, getattr(source, key, None))
            if type(getattr(value, "data", None)) is not Tensor or not value.is_floating_point():
                raise _unfit(backbone, f"its {key} of {names[0]} is not there as plain numbers, but quantised")
            if value.shape != parameter.shape:
                raise _unfit(backbone, f"its {key} of {names[0]} has the shape {tuple(value.shape)}")
            parameter.data.copy_(value.detach())


def _unfit(backbone: PreTrainedModel, reason: str) -> ValueError:
    return ValueError(
        f"a top-layer adapter copies blocks such as BERT's, and {type(backbone).__name__} has others: {reason}; use "
        "PreNormAdapterConfig() or KnowledgeAdapterConfig(), which stand beside any encoder"
    )


Config, Plugin = TopLayersAdapterConfig, TopLayersAdapter
