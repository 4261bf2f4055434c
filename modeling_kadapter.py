"""K-Adapter: knowledge adapters beside a frozen backbone (Wang et al., Findings of ACL 2021, arXiv 2002.01808).

From top to bottom in the order of the paper: attention, the adapter layer, the adapter, the model. Their fusion stands
in a file of its own.
Dimensions: B batch, S sequence, H backbone width, D adapter width.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticLayer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput, logging

from .artifacts_kadapter import (
    WEIGHTS_FOLLOW,
    ArtifactVerbs,
    check_adapter,
    check_same_backbone,
    copy_strictly,
    drop_backbone,
    forgive_backbone,
    read_artifact,
    say_what_is_left_out,
    tensors_under,
)
from .backbone_kadapter import (
    READING,
    carries_gradient,
    check_keywords,
    check_tapped,
    device_of,
    dropout_settings,
    embedding_size_of,
    is_causal,
    making_models_in_turn,
    plain,
    positions_of,
    prepare_taps,
    random_backbone,
    refuse_changes,
    release,
    run_and_tap,
    set_mode,
    uncached,
    without_capturing_hooks,
)
from .configuration_kadapter import (
    DEFAULT_KIND,
    AdapterStatus,
    KAdapterConfig,
    KnowledgeAdapterConfig,
    check_adapter_name,
    check_choice,
    plugin_module,
    refuse_keywords,
)
from .fusion_kadapter import DeltaFusion, check_same_shape, new_fusion, take_weights, weighted_sum
from .processing_kadapter import MARKERS, encode_entities
from .rows_kadapter import Linear, RowAdapters, RowsOfLayer, run_adapter

__all__ = [
    "AdapterSet",
    "Attention",
    "Dropout",
    "KAdapterModel",
    "KAdapterModelOutput",
    "KAdapterPreTrainedModel",
    "KnowledgeAdapter",
    "KnowledgePlugin",
    "Linear",
    "attend",
    "attention_mask_of",
    "can_be_looked_at",
    "check_cache",
    "check_mask",
    "entities_by_name",
    "gather",
    "tokens_in",
]

logger = logging.get_logger(__name__)
BITS = 16  # random bits of which dropout takes its choice for one value, a quarter of what PyTorch draws at a time
SHORTCUT_RATIO = 8  # where fewer than one position in 8 is read, the last adapter block computes no others


# ---- attention ------------------------------------------------------------------------------------------------------


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
        inputs = ((self.query, states), (self.key, among), (self.value, among))
        query, key, value = (
            projection(read).unflatten(-1, (self.heads, -1)).transpose(1, 2) for projection, read in inputs
        )
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
    query, key, value = (tensor.flatten(0, 1) for tensor in (query, key, value))  # (B * heads, n or S, D / heads)
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


def check_mask(attention_mask: Tensor | None, inputs: Tensor | None, past: int = 0) -> None:
    """Raise ValueError, before anything runs, where a mask (batch, sequence) does not belong to its inputs.

    Its sequence begins with the `past` tokens of a cache.
    """
    if attention_mask is None or inputs is None:
        return
    batch, length = inputs.shape[:2]
    if attention_mask.shape != (batch, past + length):
        cached = f", and the {past} tokens in the cache before them" if past else ""
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)} and must have {(batch, past + length)}, (batch, "
            f"sequence) of the inputs{cached}; give the mask that came with them"
        )


# ---- the adapter ----------------------------------------------------------------------------------------------------


def can_be_looked_at(values: Tensor) -> bool:
    """Return whether values are there to be checked: not on another device, nor in a graph that is compiled."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def gather(states: Tensor, positions: Tensor) -> Tensor:
    """Return the states (batch, sequence, hidden) at positions (batch, n), those below 0 at 0: (batch, n, hidden).

    Raises:
        ValueError: a position lies outside the sequence, or there are more or fewer rows of them than of states.
    """
    if len(positions) != len(states):
        raise ValueError(f"there are positions for {len(positions)} texts, and the batch has {len(states)}; give all")
    if can_be_looked_at(positions) and positions.numel() and int(positions.max()) >= states.shape[1]:
        raise ValueError(
            f"position {int(positions.max())} lies outside the {states.shape[1]} tokens of the batch; was it cut?"
        )
    index = positions.clamp(min=0).to(states.device)[..., None].expand(-1, -1, states.shape[-1])
    return states.gather(1, index)


class AdapterBlock(GradientCheckpointingLayer):
    """One post-layer-norm transformer block of an adapter layer."""

    def __init__(self, config: KnowledgeAdapterConfig) -> None:
        super().__init__()
        width, heads, inner_width = config.sizes
        dropout, eps = config.hidden_dropout_prob, config.layer_norm_eps
        attention_dropout = config.attention_probs_dropout_prob
        self.attention = Attention(width, heads, dropout, attention_dropout, eps)
        self.intermediate = Linear(width, inner_width)
        check_choice("hidden_act", config.hidden_act, ACT2FN)
        self.activation = ACT2FN[config.hidden_act]
        self.output = Linear(inner_width, width)
        self.dropout = Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, states: Tensor, mask: Tensor | None, at: Tensor | None = None) -> Tensor:
        states = self.attention(states if at is None else gather(states, at), mask, states)  # (B, S or n, D)
        return self.layer_norm(states + self.dropout(self.output(self.activation(self.intermediate(states)))))


class KnowledgeAdapterLayer(nn.Module):
    """One adapter layer, layer(x) = x + up(blocks(down(x))) (K-Adapter, section 3.1; `Adapter` in fac-adapter.py).

    Without blocks there are no projections either, and layer(x) = x.
    """

    def __init__(self, config: KnowledgeAdapterConfig, backbone_hidden_size: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(AdapterBlock(config) for _ in range(config.num_hidden_layers))
        if not self.blocks:
            return
        self.down_project = Linear(backbone_hidden_size, config.sizes[0])
        self.up_project = Linear(config.sizes[0], backbone_hidden_size)
        for projection in (self.down_project, self.up_project):
            if config.projection_initializer_range is not None and not projection.weight.is_meta:
                nn.init.normal_(projection.weight, std=config.projection_initializer_range)
                nn.init.zeros_(projection.bias)

    def forward(
        self, states: Tensor, mask: Tensor | None, at: Tensor | None = None, contribution: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return layer(x) at all positions or `at`, and with `contribution` also up(blocks(down(x))) alone."""
        inner = self.down_project(states) if self.blocks else None  # (B, S, D)
        for number, block in enumerate(self.blocks, start=1):
            inner = block(inner, mask, at if number == len(self.blocks) else None)
        states = states if at is None else gather(states, at)
        own = torch.zeros_like(states) if inner is None else self.up_project(inner)
        output = states if inner is None else states + own  # (B, S or n, H)
        return (output, own) if contribution else output


class KnowledgePlugin(nn.Module):
    """What a knowledge plug-in answers, whatever its kind.

    What it does to the input embeddings, before the backbone; which hidden states it reads; what it makes of them.
    A kind has one file, `KIND_kadapter.py` beside this one, found by its name. It defines `Plugin`, a subclass of this
    class, and `Config`, a subclass of `KnowledgeAdapterConfig`. Plug-ins see nothing of each other.

    A plug-in's contribution, which "delta" and "max" fuse, is its output without the hidden states that it taps. A
    class whose output holds them sets `holds_tapped_states`, and its forward takes `contribution=True` to leave them
    out; of all others the output is the contribution.

    Where `looks_ahead` is true, what it makes of a token depends on later tokens. Beside a backbone whose tokens see
    only those before them such a plug-in is refused, unless its configuration asks for that by `causal=False`. Where
    it attends to earlier tokens, `cached_layers` is the number of its layers that do, and its forward takes `cache`:
    that many layers of transformers' cache, each with `update(keys, values)`.
    """

    looks_ahead = True
    cached_layers = 0
    holds_tapped_states = False
    changes_inputs = False  # whether it stands before the backbone, so that all that is behind it reads its changes
    makes_features = True  # whether its forward makes features that are fused

    def __init__(self, config: KnowledgeAdapterConfig, backbone_hidden_size: int) -> None:
        super().__init__()
        self.config: Any = config

    @property
    def tapped_layers(self) -> Sequence[int]:
        """The hidden states that it reads, 0 = embeddings, i = output of block i."""
        return self.config.layers or ()

    @classmethod
    def recognises(cls, tensors: dict[str, Tensor]) -> bool:
        """Return whether a plug-in of these tensors knows its backbone again in `meet`, fine-tuned or not.

        By default none does, and is loaded only beside the backbone whose fingerprint it was saved with.
        """
        return False

    def meet(self, backbone: PreTrainedModel) -> None:
        """Refuse a backbone that it can't stand beside; by default none."""

    def embed(self, inputs_embeds: Tensor, knowledge_slots: Tensor, knowledge_embeds: Tensor) -> Tensor:
        """Change input embeddings (batch, sequence, embedding) where there are entities; by default nothing."""
        return inputs_embeds

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor | None, at: Tensor | None = None
    ) -> Tensor:
        """Map tapped hidden states, each (batch, sequence, hidden), to the plug-in's own, all or `at` (batch, n)."""
        raise TypeError(f"{type(self).__name__} has no forward; a plug-in makes features of hidden states")


class KnowledgeAdapter(KnowledgePlugin):
    """One knowledge adapter: h = 0; for i, l in enumerate(layers): h = layer_i(hs[l] + h).

    So h is the sum of the tapped states and of the adapter's contribution, the sum of its up-projections' outputs.
    """

    holds_tapped_states = True

    def __init__(self, config: KnowledgeAdapterConfig, backbone_hidden_size: int) -> None:
        super().__init__(config, backbone_hidden_size)
        self.looks_ahead = bool(config.num_hidden_layers)  # in its blocks tokens see each other
        self.layers = nn.ModuleList(KnowledgeAdapterLayer(config, backbone_hidden_size) for _ in self.tapped_layers)

    def forward(
        self,
        hidden_states: Sequence[Tensor],
        attention_mask: Tensor | None,
        at: Tensor | None = None,
        contribution: bool = False,
    ) -> Tensor:
        """Map tapped hidden states, each (batch, sequence, hidden), to the adapter's own, all or `at` (batch, n).

        With `contribution` the tapped states are left out of what is returned. It is summed up on its own instead of
        by a subtraction: up-projections of zeros contribute exact zeros. An earlier output that `skip_layers` adds
        once more counts in it with its contribution.
        """
        like = next(self.parameters(), hidden_states[0])
        mask = attention_mask_of(attention_mask if self.config.mask_padding else None, like.device)
        outputs: list[Tensor] = []
        own: list[Tensor] = []  # what of each output is not of tapped states
        skip = self.config.skip_layers
        shortcut = at is not None and not skip and SHORTCUT_RATIO * at.shape[1] < hidden_states[0].shape[1]
        for number, (layer, state) in enumerate(zip(self.layers, hidden_states, strict=True), start=1):
            state = state.to(like) + outputs[-1] if outputs else state.to(like)
            read = at if shortcut and number == len(self.layers) else None
            output = layer(state, mask, read, contribution)
            if contribution:
                output, added = output
                before = own[-1:] if read is None else [gather(sums, read) for sums in own[-1:]]
                own.append(sum(before, added))
            outputs.append(output)
            if skip and number % skip == 0:  # the index is the official code's, whatever was meant by it
                for sums in (outputs, own) if contribution else (outputs,):
                    sums[-1] = sums[-1] + sums[number // skip]
        chosen = (own if contribution else outputs)[-1]
        return chosen if shortcut or at is None else gather(chosen, at)  # (B, S or n, H)


def entities_by_name(slots: Any, rows: Any, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return slots (batch, slots) and entity embeddings (batch, slots, knowledge) by the names of their maps.

    Raises:
        ValueError: either is missing, or they are of maps that are not among `names`.
    """
    if slots is None and rows is None:
        return {}
    if slots is None or rows is None:
        raise ValueError("knowledge_slots and knowledge_embeds go together; give both, as encode_knowledge does")
    if not isinstance(slots, Mapping) and len(names) != 1:
        raise ValueError(
            f"the inputs have entities for one map, and the model has the active maps {list(names)}; activate one, or "
            "give knowledge_slots and knowledge_embeds as dicts by the names of maps"
        )
    slots, rows = (own if isinstance(own, Mapping) else {names[0]: own} for own in (slots, rows))
    if set(slots) != set(rows) or not set(slots) <= set(names):
        raise ValueError(
            f"knowledge_slots are of {sorted(slots)}, knowledge_embeds of {sorted(rows)}, and the active maps are "
            f"{list(names)}; encode the texts for these"
        )
    return {name: (slots[name], rows[name]) for name in slots}


def check_slots_apart(slots: dict[str, Tensor]) -> None:
    """Raise ValueError where two entities want the same slot, of two maps or of one, since one would be lost."""
    ordered = torch.cat(list(slots.values()), dim=1).sort(dim=1).values
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(dim=1)
    if can_be_looked_at(twice) and twice.any():
        whose = f"of two of the maps {sorted(slots)}" if len(slots) > 1 else "twice"
        raise ValueError(f"row {int(twice.nonzero()[0])} has a slot {whose}; give each entity its own slot")


def plugin_class(kind: str) -> type[KnowledgePlugin]:
    """Return the class of the knowledge plug-ins of a kind."""
    return KnowledgeAdapter if kind == DEFAULT_KIND else plugin_module(kind).Plugin


# ---- what adapters keep of earlier tokens while a text is generated -------------------------------------------------


class AdapterCacheLayer(DynamicLayer):
    """Keys and values of one layer of an adapter, behind those of the backbone in the same cache."""

    def __init__(self, adapter_name: str) -> None:
        super().__init__()
        self.adapter_name = adapter_name


def tokens_in(past_key_values: Any) -> int:
    """Return how many tokens a cache holds, 0 where there is none.

    Raises:
        TypeError: it is no cache of transformers.
    """
    if past_key_values is None:
        return 0
    if not (isinstance(past_key_values, Cache) and hasattr(past_key_values, "layers")):  # that of two has none
        raise TypeError(
            f"past_key_values are a Cache of transformers, not a {type(past_key_values).__name__}; give "
            "DynamicCache(config=model.config)"
        )
    return past_key_values.get_seq_length()


def check_cache(past_key_values: Cache) -> None:
    """Raise ValueError for a cache of a fixed size, to which no layers can be added."""
    if any(isinstance(layer, StaticLayer) for layer in past_key_values.layers):
        raise ValueError(
            f"a {type(past_key_values).__name__} has a fixed size and no room for what adapters keep; leave out "
            "cache_implementation, or give past_key_values=DynamicCache(config=model.config)"
        )


def open_cache(
    past_key_values: Cache, backbone_config: Any, adapters: Mapping[str, int], row_adapters: RowAdapters | None = None
) -> None:
    """Add layers for adapters, of each name so many, to an empty cache, or check those of a filled one.

    Raises:
        ValueError: it was filled by another model, or without one of these adapters, all the time or in some rows;
            nothing was added.
    """
    check_cache(past_key_values)
    layers, past = past_key_values.layers, tokens_in(past_key_values)
    own = [layer for layer in layers if isinstance(layer, AdapterCacheLayer)]
    lengths = {name: [layer.get_seq_length() for layer in own if layer.adapter_name == name] for name in adapters}
    usual = DynamicCache(config=backbone_config) if not own or past == 0 else None
    if usual is not None and len(layers) - len(own) not in (0, len(usual.layers)):
        raise ValueError(
            f"the cache has {len(layers) - len(own)} layers, and the backbone {len(usual.layers)}; give a new one, "
            "DynamicCache(config=model.config)"
        )
    for name, number in adapters.items():
        if lengths[name] != [past] * number and (past or lengths[name]):
            raise ValueError(
                f"the cache holds {past} tokens, and of adapter {name!r} {max(lengths[name], default=0)}: it was "
                "filled by another model or while the adapter was off; generate anew, with a new cache"
            )
    if past:
        check_rows_cached(own, row_adapters)
    if usual is not None and not layers:
        layers.extend(usual.layers)
    for name, number in adapters.items():
        layers.extend(AdapterCacheLayer(name) for _ in range(number - len(lengths[name])))


def check_rows_cached(layers: Sequence[AdapterCacheLayer], row_adapters: RowAdapters | None) -> None:
    """Raise ValueError where an adapter's layers hold nothing of some tokens in a row that goes through it now."""
    checked = set()
    for layer in layers:
        name = layer.adapter_name
        if name in checked or layer.keys is None or not can_be_looked_at(layer.keys):
            continue
        checked.add(name)  # its other layers hold the same rows
        empty = layer.keys[:, 0, :, 0].isnan().any(dim=1)  # (B,)
        rows = range(len(empty)) if row_adapters is None else row_adapters.rows.get(name, ())
        for row in (row for row in rows if row < len(empty) and empty[row]):
            raise ValueError(
                f"row {row} goes through adapter {name!r} now, and the cache was filled while it did not; generate "
                "anew, with a new cache"
            )


# ---- adapters in parallel -------------------------------------------------------------------------------------------


class AdapterSet(nn.ModuleDict):
    """The adapters of a model by name, in the order in which they were added, and which of them are active.

    Adding and removing keeps the model's configuration in step. Loaded adapters are frozen, new ones train.
    """

    def __init__(
        self,
        config: KAdapterConfig,
        weights_follow: bool = False,
        embedding_size: int | None = None,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self._config, self._enabled = config, True
        self._embedding_size, self._causal = embedding_size, causal
        for name in config.adapters:
            self._check_free(name)
            self[name] = self._new(name, config.adapter_config(name), weights_follow)

    def add_module(self, name: str, module: Any) -> None:
        """Register an adapter; methods of this class are no obstacle to an adapter of the same name."""
        self._modules[name] = module

    if TYPE_CHECKING:

        def __getitem__(self, name: str) -> Any: ...

    @property
    def enabled(self) -> bool:
        """Whether adapters are used at all."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = enabled

    @property
    def active(self) -> list[str]:
        """The names of the adapters in use; none while they are disabled."""
        chosen = self._config.active_adapters
        return [name for name in self if self._enabled and (chosen is None or name in chosen)]

    @property
    def featured(self) -> list[str]:
        """The names of the adapters that make features, in use or not."""
        return [name for name in self if self[name].makes_features]

    @property
    def fused(self) -> list[str]:
        """The names of the adapters in use whose features are fused."""
        return self.fused_in(None)

    @property
    def in_front(self) -> list[str]:
        """The names of the adapters in use that change the input embeddings."""
        return self.in_front_in(None)

    @property
    def tapped_layers(self) -> list[int]:
        """The layers whose hidden states the active adapters read, in ascending order."""
        return self.tapped_in(None)

    def used_in(self, row_adapters: RowAdapters | None) -> list[str]:
        """Return the names of the adapters that rows of a batch go through; None for the active ones."""
        return self.active if row_adapters is None else [name for name in self if name in row_adapters.rows]

    def fused_in(self, row_adapters: RowAdapters | None) -> list[str]:
        """Return the names of those among them whose features are fused."""
        return [name for name in self.used_in(row_adapters) if self[name].makes_features]

    def in_front_in(self, row_adapters: RowAdapters | None) -> list[str]:
        """Return the names of those among them that change the input embeddings."""
        return [name for name in self.used_in(row_adapters) if self[name].changes_inputs]

    def tapped_in(self, row_adapters: RowAdapters | None) -> list[int]:
        """Return the layers whose hidden states they read, in ascending order."""
        return sorted({layer for name in self.used_in(row_adapters) for layer in self[name].tapped_layers})

    def of_rows(self, adapter_names: Any, batch: int) -> RowAdapters:
        """Return the adapters of each row of a batch, which need not be active.

        Raises:
            TypeError: an entry is neither a name nor a list of names.
            ValueError: adapters are disabled, names and rows are of unequal number, a name is unknown, or an adapter
                that changes the input embeddings is for some rows alone.
        """
        if not self.enabled:
            raise ValueError("adapters are disabled, and adapter_names asks for some; call enable_adapters first")
        row_adapters = RowAdapters.of(adapter_names, batch, list(self))
        for name in self.in_front_in(row_adapters):
            without = sorted({*range(batch)} - {*row_adapters.rows[name]})
            if without:
                raise ValueError(
                    f"adapter {name!r} changes the input embeddings of a whole batch, and row {without[0]} does not "
                    "name it; name it in all rows, and give those without entities no slots"
                )
        return row_adapters

    def known(self, names: str | Sequence[str]) -> list[str]:
        """Return one name or several as a list without repeats.

        Raises:
            ValueError: there is no adapter of a name.
        """
        names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
        for name in names:
            if name not in self:
                raise ValueError(f"no adapter {name!r}; there are {list(self)}")
        return names

    def activate(self, names: str | Sequence[str]) -> None:
        """Make exactly these adapters active, and use adapters again."""
        names = self.known(names)
        self._config.active_adapters = [name for name in self if name in names]
        self._enabled = True

    @making_models_in_turn
    def add(
        self,
        name: str,
        adapter_config: KnowledgeAdapterConfig,
        device: torch.device,
        tensors: dict[str, Tensor] | None = None,
        where: str = "",
    ) -> None:
        """Add an adapter and make it active: a new one, or a frozen one of an artifact's tensors.

        Raises:
            ValueError: the name is taken or unfit, or tensors are missing, extra or of another shape.
        """
        self._check_free(name)
        adapter = self._new(name, adapter_config, weights_follow=tensors is not None)
        if tensors is not None:
            copy_strictly(adapter, tensors, where, f"adapters.{name}.")
            adapter.requires_grad_(False)
        self[name] = adapter.to(device).train(self.training and tensors is None)
        if self._config.active_adapters is not None:
            self._config.active_adapters = [*self._config.active_adapters, name]

    def successor(
        self, name: str, adapter_config: KnowledgeAdapterConfig, tensors: dict[str, Tensor], where: str
    ) -> KnowledgePlugin:
        """Return an adapter of an artifact's tensors whose weights can take the place of those of a frozen one here.

        Raises:
            ValueError: there is none of this name, it trains, or tensors are missing, extra or of another shape.
        """
        held, before = self[self.known(name)[0]], self._config.adapters[name]
        if any(parameter.requires_grad for parameter in held.parameters()):
            raise ValueError(
                f"adapter {name!r} trains, and an optimizer would go on with what it knows of the old weights; load "
                "the other by a new adapter_name, or freeze this one by model.adapters[NAME].requires_grad_(False)"
            )
        after = self._new(name, adapter_config, weights_follow=True)  # which renews the record
        check_same_shape(name, before, where, self._config.adapters[name], "take each other's place")
        copy_strictly(after, tensors, where, f"adapters.{name}.")
        return after

    def remove(self, name: str) -> None:
        """Remove an adapter."""
        del self[name], self._config.adapters[name]
        if self._config.active_adapters is not None:
            self._config.active_adapters = [other for other in self._config.active_adapters if other != name]

    def rename(self, old: str, new: str) -> None:
        """Give an adapter another name, in its old place.

        Raises:
            ValueError: there is no such adapter, or the new name is taken or unfit.
        """
        self.known(old)
        self._check_free(new)
        renamed = {new if name == old else name: adapter for name, adapter in self.items()}
        stored, chosen = self._config.adapters, self._config.active_adapters
        self._config.adapters = {new if name == old else name: values for name, values in stored.items()}
        if chosen is not None:
            self._config.active_adapters = [new if name == old else name for name in chosen]
        self.clear()
        self.update(renamed)

    def embed(self, inputs_embeds: Tensor, entities: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Let the plug-ins before the backbone change input embeddings (batch, sequence, embedding).

        Raises:
            ValueError: two of them want the same slot.
        """
        if len(entities) > 1:
            check_slots_apart({name: slots for name, (slots, _) in entities.items()})
        for name, (slots, rows) in entities.items():
            inputs_embeds = self[name].embed(inputs_embeds, slots, rows)
        return inputs_embeds

    def forward(
        self,
        states: dict[int, Tensor],
        attention_mask: Tensor | None,
        at: Tensor | None = None,
        contributions: bool = False,
        past_key_values: Cache | None = None,
        row_adapters: RowAdapters | None = None,
    ) -> dict[str, Tensor]:
        """Run the active adapters on the states that they tap, and let go of all others.

        With `row_adapters` those run that rows name, each on its rows alone; what is returned is NaN in others. With
        `contributions` the tapped states are left out of what is returned. A cache was opened by `open_cache`.
        """
        fused, tapped = self.fused_in(row_adapters), {layer: states[layer] for layer in self.tapped_in(row_adapters)}
        states.clear()
        outputs = {}
        for name in fused:
            adapter = self[name]
            read = [tapped[layer] for layer in adapter.tapped_layers]
            chosen: dict[str, Any] = {}
            if contributions and adapter.holds_tapped_states:
                chosen["contribution"] = True
            if past_key_values is not None and adapter.cached_layers:
                own = (layer for layer in past_key_values.layers if getattr(layer, "adapter_name", None) == name)
                chosen["cache"] = list(own)
            if row_adapters is None:
                outputs[name] = run_adapter(adapter, read, attention_mask, at, chosen)
            else:
                rows = row_adapters.rows[name]
                outputs[name] = on_rows(adapter, read, attention_mask, at, chosen, row_adapters, rows)
        return outputs

    def open_cache(
        self, past_key_values: Cache, backbone_config: Any, row_adapters: RowAdapters | None = None
    ) -> None:
        """Add layers for the adapters in use to an empty cache, or check those of a filled one; see `open_cache`."""
        fused = self.fused_in(row_adapters)
        for name in (name for name in fused if self[name].looks_ahead and tokens_in(past_key_values)):
            raise ValueError(
                f"adapter {name!r} looks ahead, so it has to read texts as a whole; give them without a filled cache"
            )
        cached = {name: self[name].cached_layers for name in fused if self[name].cached_layers}
        open_cache(past_key_values, backbone_config, cached, row_adapters)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo what was done to adapters and configuration where an exception ends the block."""
        config, adapters, enabled = self._config, dict(self.items()), self._enabled
        stored, chosen = dict(config.adapters), config.active_adapters
        try:
            yield
        except BaseException:
            self.clear()
            self.update(adapters)
            config.adapters, config.active_adapters, self._enabled = stored, chosen, enabled
            raise

    def _check_free(self, name: str) -> None:
        check_adapter_name(name)
        if hasattr(nn.ModuleDict(), name):
            raise ValueError(f"adapter name {name!r} is an attribute of every module; choose another name")
        if name in self:
            raise ValueError(f"there is an adapter {name!r} already; choose another adapter_name or delete_adapter it")

    def _new(self, name: str, adapter_config: KnowledgeAdapterConfig, weights_follow: bool) -> KnowledgePlugin:
        sizes = (self._config.num_hidden_layers, self._config.hidden_size, self._embedding_size)
        adapter_config = adapter_config.for_backbone(*sizes, self._causal, self._config.typed_backbone_config())
        with torch.device("meta") if weights_follow else torch.get_default_device():
            adapter = plugin_class(adapter_config.kind)(adapter_config, self._config.hidden_size)
        if self._causal and adapter.looks_ahead and getattr(adapter_config, "causal", None) is not False:
            raise ValueError(
                f"adapter {name!r} is of kind {adapter_config.kind!r}, which looks both ways, and the backbone "
                f"({self._config.typed_backbone_config().model_type}) is a decoder: its tokens see only those before "
                "them, and the adapter would let them see the rest; use PreNormAdapterConfig(), kind 'prenorm', which "
                "does as the backbone does"
            )
        self._config.adapters[name] = adapter_config.to_dict()
        return adapter


def on_rows(
    adapter: Any,
    read: Sequence[Tensor],
    attention_mask: Tensor | None,
    at: Tensor | None,
    chosen: dict[str, Any],
    row_adapters: RowAdapters,
    rows: Sequence[int],
) -> Tensor:
    """Return what an adapter makes of some rows of the states that it reads (batch, sequence, hidden); else NaN."""
    read = [row_adapters.select(states, rows) for states in read]
    attention_mask, at = (row_adapters.select(tensor, rows) for tensor in (attention_mask, at))
    if "cache" in chosen:
        chosen["cache"] = [RowsOfLayer(layer, row_adapters, rows) for layer in chosen["cache"]]
    with row_adapters.only(rows):
        return row_adapters.spread(adapter(read, attention_mask, at, **chosen), rows)


class AdapterVerbs:
    """The verbs of PEFT's mixin in transformers, for adapters that stand outside the backbone.

    They act on the `KAdapterModel` inside, `model.base_model`.
    """

    config: Any
    base_model: Any

    def add_adapter(
        self, adapter_name: str, adapter_config: KnowledgeAdapterConfig | dict[str, Any] | None = None
    ) -> None:
        """Add a new, untrained adapter, which trains, and make it active besides the others.

        Raises:
            TypeError: the arguments are in another library's order or of another library's kind.
            ValueError: the name is taken or unfit, or a layer is out of the backbone's range.
        """
        if not isinstance(adapter_name, str) or not isinstance(adapter_config, KnowledgeAdapterConfig | dict | None):
            raise TypeError(
                "add_adapter takes (adapter_name: str, adapter_config: KnowledgeAdapterConfig), not "
                f"({type(adapter_name).__name__}, {type(adapter_config).__name__}); other libraries have another order"
            )
        if isinstance(adapter_config, dict):
            adapter_config = KnowledgeAdapterConfig.from_dict(adapter_config)
        core = self.base_model
        with core.all_or_nothing():
            core.adapters.add(adapter_name, adapter_config or KnowledgeAdapterConfig(), device_of(core.backbone))
            core.adapters[adapter_name].meet(core.backbone)
            core.renew_fusion()

    def load_adapter(
        self,
        id_or_path: str,
        adapter_name: str | None = None,
        verify: bool = True,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Load the adapters of an artifact, frozen and active besides the others, and return their names.

        `adapter_name` renames the adapter of an artifact that holds one. `revision`, `subfolder`, `token` and
        `cache_dir` mean the adapter's repository. No code of the artifact is run. `verify=False` spares comparing
        what was saved with the hashes that were saved with it. With `hotswap` the weights go, in place, into the
        frozen adapter of the same name and shape that is there, so that a compiled model runs on as it is.

        Raises:
            OSError: there is no such artifact.
            TypeError: the arguments are in another order, or a keyword is unknown.
            ValueError: a name is taken (with `hotswap`: unknown, trains or has another shape), the artifact is damaged
                or belongs to another backbone; nothing was changed.
        """
        refuse_keywords(kwargs, ("verify", "hotswap", *READING), "load_adapter")
        if adapter_name is not None and "/" in str(adapter_name):
            raise TypeError(f"load_adapter takes (id_or_path, adapter_name), not ({id_or_path!r}, {adapter_name!r})")
        if adapter_name is not None:
            check_adapter_name(adapter_name)
        part = read_artifact(id_or_path, **kwargs)
        names = list(part.config["adapters"])
        tensors = {name: tensors_under(f"adapters.{name}.", part.tensors) for name in names}
        if not all(plugin_class(check_adapter(part, name).kind).recognises(own) for name, own in tensors.items()):
            check_same_backbone(self.config.to_dict(), part)
        if adapter_name is not None and len(names) != 1:
            raise ValueError(f"{part.where} holds {names}, which adapter_name={adapter_name!r} can't rename; drop it")
        renamed, core = {name: adapter_name or name for name in names}, self.base_model
        say_what_is_left_out(part)
        with core.all_or_nothing():
            successors = {}
            for old, new in renamed.items():
                given = (tensors[old], part.where)
                if hotswap:
                    successors[new] = core.adapters.successor(new, check_adapter(part, old), *given)
                else:
                    core.adapters.add(new, check_adapter(part, old), device_of(core.backbone), *given)
                successors.get(new, core.adapters[new]).meet(core.backbone)
            if not hotswap:
                core.renew_fusion()
            part.check(verify)  # after it is known that all tensors are there, in their shapes
            for name, successor in successors.items():
                take_weights(core.adapters[name], successor)
        return list(renamed.values())

    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str, combination_type: str = "linear"
    ) -> None:
        """Add the weighted sum of adapters of one shape, such as the mean of checkpoints, frozen and active.

        Its record names those that it is made of, with their weights and hashes.

        Raises:
            TypeError: a weight is no number.
            ValueError: adapters differ in shape or kind, one is unknown, weights don't fit them, the name is taken or
                unfit, or another `combination_type` is asked for: the others of PEFT are for low ranks.
        """
        core = self.base_model
        config, tensors = weighted_sum(core.adapters, self.config.adapters, adapters, weights, combination_type)
        with core.all_or_nothing():
            core.adapters.add(adapter_name, config, device_of(core.backbone), tensors, "the weighted sum")
            core.adapters[adapter_name].meet(core.backbone)
            core.renew_fusion()

    def delete_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Remove adapters; with "concat" fusion the remaining features are fused anew and need training."""
        core = self.base_model
        with core.all_or_nothing():
            for name in core.adapters.known(adapter_names):
                core.adapters.remove(name)
            core.renew_fusion()

    def rename_adapter(self, old_name: str, new_name: str) -> None:
        """Give an adapter another name, by which it is saved too; what a fusion learned for it stays its own.

        Raises:
            ValueError: there is no such adapter, or the new name is taken or unfit.
        """
        self.base_model.adapters.rename(old_name, new_name)
        self.base_model.fusion.rename(old_name, new_name)

    def get_adapter_status(self) -> AdapterStatus:
        """Return which adapters there are and what becomes of each: in use, trained, where, in which dtype."""
        adapters = self.base_model.adapters
        parameters = {name: list(adapter.parameters()) for name, adapter in adapters.items()}
        training = {name: {parameter.requires_grad for parameter in own} for name, own in parameters.items()}
        every = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        return AdapterStatus(
            enabled=adapters.enabled,
            active_adapters=self.active_adapters(),
            available_adapters=list(adapters),
            kinds={name: adapter.config.kind for name, adapter in adapters.items()},
            requires_grad={name: "irregular" if len(own) > 1 else own == {True} for name, own in training.items()},
            devices={name: sorted({str(parameter.device) for parameter in own}) for name, own in parameters.items()},
            dtypes={name: sorted({str(parameter.dtype) for parameter in own}) for name, own in parameters.items()},
            parameters={name: sum(parameter.numel() for parameter in own) for name, own in parameters.items()},
            trainable_params=sum(size for size, trains in every if trains),
            total_params=sum(size for size, _ in every),
        )

    def set_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Make exactly these adapters active, in the order in which they were added.

        Raises:
            ValueError: an adapter is unknown, or the fusion is "concat", which is made for all of its adapters.
        """
        adapters = self.base_model.adapters
        names = adapters.known(adapter_names)
        if self.config.fusion == "concat" and not set(adapters.featured) <= set(names):
            raise ValueError(
                f"fusion 'concat' was made for all of {adapters.featured}, not for {names} alone; use fusion='add' "
                "or delete_adapter"
            )
        adapters.activate(names)

    def active_adapters(self) -> list[str]:
        """Return the names of the adapters in use; none while they are disabled."""
        return self.base_model.adapters.active

    def disable_adapters(self) -> None:
        """Answer with the backbone's features alone until `enable_adapters`."""
        self.base_model.adapters.enabled = False

    def enable_adapters(self) -> None:
        """Use the active adapters again."""
        self.base_model.adapters.enabled = True

    def train_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Train these adapters, the fusion and the head, and nothing else; also makes these adapters active."""
        core = self.base_model
        names = core.adapters.known(adapter_names)
        with core.all_or_nothing():
            core.adapters.enabled = True
            if set(names) - set(self.active_adapters()):
                self.set_adapter([*self.active_adapters(), *names])
        self.requires_grad_(True)
        core.fusion.requires_grad_(True)  # all but what stays frozen there
        core.backbone.requires_grad_(False)
        for name, adapter in core.adapters.items():
            adapter.requires_grad_(name in names)
        self.train(self.training)

    def print_trainable_parameters(self) -> None:
        """Print how many parameters train, of how many."""
        counts = [(parameter.numel(), parameter.requires_grad) for parameter in self.parameters()]
        total, trains = sum(n for n, _ in counts), sum(n for n, trained in counts if trained)
        print(
            f"trainable params: {trains:,} || all params: {total:,} || trainable%: {100 * trains / (total or 1):.4f}"
        )

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: dict | None = None
    ) -> dict[str, Tensor]:
        """Return one adapter's tensors by their names inside the adapter; the name may be left out if there is one."""
        adapters = self.base_model.adapters
        names = adapters.known(adapter_name if adapter_name is not None else list(adapters))
        if len(names) != 1:
            raise ValueError(f"say which adapter you mean, of {names}")
        tensors = self.state_dict() if state_dict is None else state_dict
        tensors = {key.removeprefix("kadapter."): tensor for key, tensor in tensors.items()}
        return tensors_under(f"adapters.{names[0]}.", tensors)

    def tapped(self) -> list[int]:
        """Return the layers whose hidden states the active adapters read, in ascending order."""
        return self.base_model.adapters.tapped_layers

    def enable_peft_hotswap(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: adapters have no ranks that would have to be made alike before they are compiled."""
        raise ValueError("hot-swapping needs no preparation; call load_adapter(id, name, hotswap=True)")

    # ---- what is the backbone's -----------------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """Return the backbone's input embeddings."""
        return self.base_model.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: Any) -> None:
        """Replace the backbone's input embeddings; the backbone is saved with the model from then on."""
        backbone = self.base_model.backbone
        value.requires_grad_(backbone.get_input_embeddings().weight.requires_grad)
        backbone.set_input_embeddings(value)
        backbone.config.vocab_size = len(value.weight)
        self._mark_modified()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the backbone's input embeddings; the backbone is saved with the model from then on."""
        refuse_changes(backbone := self.base_model.backbone)
        weight = backbone.get_input_embeddings().weight
        shape, trains = weight.shape, weight.requires_grad  # before it is replaced in place
        embeddings = backbone.resize_token_embeddings(*args, **kwargs)
        if embeddings.weight.shape != shape:
            embeddings.requires_grad_(trains)
            self._mark_modified()
        return embeddings

    def release_backbone(self) -> None:
        """Let the frozen backbone's weights leave memory; from then on the model runs on `hidden_states` alone.

        What is saved stays as it was, since a frozen backbone is in no artifact.

        Raises:
            ValueError: the backbone trains or was changed, so it is nowhere else.
        """
        self._notice_training()
        if self.config.backbone_modified:
            raise ValueError("this model's backbone trains or was changed, and exists nowhere else; keep it")
        release(self.base_model.backbone)

    def _mark_modified(self) -> None:
        self.config.backbone_config = plain(self.base_model.backbone.config)
        self.config.backbone_modified = True


# ---- the model ------------------------------------------------------------------------------------------------------


@dataclass
class KAdapterModelOutput(ModelOutput):
    """What a `KAdapterModel` returns.

    Args:
        last_hidden_state: fused features, (batch, sequence, hidden).
        backbone_hidden_state: the backbone's last hidden state, (batch, sequence, hidden).
        adapter_hidden_states: for each active adapter what is fused of it, (batch, sequence, hidden): its output, or
            with the fusions "delta" and "max" its contribution, which is the output without the tapped states. In a
            mixed batch each that a row names, with NaN in the rows that do not.
        hidden_states: all hidden states of the backbone, if asked for by output_hidden_states=True.
        attentions: the backbone's attention weights, if asked for by output_attentions=True.
    """

    last_hidden_state: Tensor | None = None
    backbone_hidden_state: Tensor | None = None
    adapter_hidden_states: dict[str, Tensor] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class KAdapterPreTrainedModel(AdapterVerbs, ArtifactVerbs, PreTrainedModel):
    """What the model and its heads share: the adapter verbs, loading and saving."""

    config_class = KAdapterConfig
    base_model_prefix = "kadapter"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _no_split_modules = ["KnowledgeAdapter"]  # noqa: RUF012 (as PreTrainedModel has it)

    def init_weights(self) -> None:
        """Do nothing: adapters and heads initialise themselves as published, and the backbone keeps its weights."""

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing, for the same reason."""

    markers: tuple[str, ...] = MARKERS  # around the mentions, as the class is trained with them

    @classmethod
    def encode_entities(
        cls, tokenizer: Any, texts: Sequence[str], entity_spans: Sequence[Sequence[tuple[int, int]]], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Turn raw text with marked mentions into the model's inputs; see the function `encode_entities`.

        `markers` are by default those that this class is trained with: " @" for `KAdapterForEntityClassification`.
        """
        return encode_entities(tokenizer, texts, entity_spans, **{"markers": cls.markers, **kwargs})


class KAdapterModel(KAdapterPreTrainedModel):
    """Knowledge adapters in parallel beside a frozen backbone, and the fusion of their outputs.

    The backbone is frozen, always in eval mode, held in its own dtype and never saved, until a user unfreezes it by
    `model.backbone.requires_grad_(True)`.
    """

    _auto_classes = ("AutoModel",)
    _drops_out: bool | None = None  # whether the backbone does in training; None: where it trains

    def __init__(self, config: KAdapterConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        embedding_size = embedding_size_of(backbone, config)
        module = backbone if backbone is not None else random_backbone(config)
        self.causal = is_causal(module)  # whether the backbone's tokens see only those before them
        self.adapters = AdapterSet(config, WEIGHTS_FOLLOW.get(), embedding_size, self.causal)
        self.fusion = new_fusion(config, self.adapters.featured)
        self.post_init()
        self.backbone = module
        self.backbone.requires_grad_(False).eval()
        adapter: Any
        for adapter in self.adapters.values():
            adapter.meet(self.backbone)
        self._positions = positions_of(self.backbone)
        prepare_taps(self.backbone)
        self.register_state_dict_post_hook(drop_backbone)
        self.register_load_state_dict_post_hook(forgive_backbone)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        adapter_names: Any = None,
        **kwargs: Any,
    ) -> KAdapterModelOutput | tuple:
        """Return fused features, and what they were fused from; other keywords that the backbone knows go to it.

        `hidden_states`, what `tap` returned for the same inputs, stands in for a run of the backbone.
        Shapes: `input_ids`, `attention_mask`, `position_ids` (batch, sequence); `inputs_embeds` (batch, sequence,
        hidden). Knowledge maps take `knowledge_slots` (batch, slots) and `knowledge_embeds` (batch, slots, knowledge),
        or dicts of these by map, as `encode_knowledge` gives them. Outputs at real tokens do not depend on padding
        (with `mask_padding`). Beside a decoder `past_key_values`, a dynamic cache, holds earlier tokens, which the
        mask begins with, and these are added to it.

        Mixed batches: `adapter_names` names for each row the adapter that it goes through, "__base__" for none, or a
        list of adapters, whichever are active. The backbone reads the batch once, each adapter its rows alone. What
        becomes of a row is what becomes of it in the same batch after `set_adapter` of its adapters (for "__base__",
        after `disable_adapters`); in eval mode, in float32 on a CPU, to the bit.

        Raises:
            TypeError: neither this model nor its backbone knows a keyword.
            ValueError: the mask has another shape, the sequence is too long, `hidden_states` lack a tapped one, or
                `adapter_names` don't go with the batch or the adapters.
        """
        if kwargs.get("hidden_states") is not None and (output_hidden_states or kwargs.get("output_attentions")):
            raise ValueError(
                "hidden_states stand for a run of the backbone, so it has no others to output; give input_ids"
            )
        inputs = {"position_ids": position_ids, "inputs_embeds": inputs_embeds, **kwargs}
        inputs["row_adapters"] = rows = self.row_adapters(adapter_names, input_ids, **inputs)
        layers = None if output_hidden_states else self.adapters.tapped_in(rows)
        last, states, attentions = self._run_backbone(input_ids, attention_mask, layers, **inputs)
        every = tuple(states.values()) if output_hidden_states else None
        adapters = self._run_adapters(states, attention_mask, None, kwargs.get("past_key_values"), rows)
        fused = self.fusion.fuse_rows(last, adapters, rows)  # (B, S, H)
        output = KAdapterModelOutput(fused, last, adapters, every, attentions)
        return output.to_tuple() if return_dict is False else output

    def row_adapters(
        self,
        adapter_names: Any,
        input_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        hidden_states: dict[int, Tensor] | None = None,
        **others: Any,
    ) -> RowAdapters | None:
        """Return the adapters of each row of inputs, None where there are no `adapter_names`.

        Raises:
            TypeError: an entry is neither a name nor a list of names.
            ValueError: the names don't go with the rows, the adapters, or what the fusion was trained for.
        """
        if adapter_names is None:
            return None
        batches = [
            tensor for tensor in (input_ids, inputs_embeds, (hidden_states or {}).get(-1)) if tensor is not None
        ]
        if not batches:
            raise ValueError("adapter_names are for the rows of a batch, and there is none; give input_ids")
        row_adapters = self.adapters.of_rows(adapter_names, len(batches[0]))
        self.fusion.check_rows(row_adapters)
        return row_adapters

    def encode(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        at: Tensor | None = None,
        adapter_names: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return R and what is fused of each adapter in use, at all positions or those `at` (batch, n).

        Of an adapter that is its output, or with the fusions "delta" and "max" its contribution; with `adapter_names`
        NaN in rows that do not name it.
        """
        rows = self.row_adapters(adapter_names, input_ids, **kwargs)
        layers = self.adapters.tapped_in(rows)
        last, states, _ = self._run_backbone(input_ids, attention_mask, layers, row_adapters=rows, **kwargs)
        adapters = self._run_adapters(states, attention_mask, at, kwargs.get("past_key_values"), rows)
        return last if at is None else gather(last, at), adapters

    def contributions(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, adapter_names: Any = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return R and, whatever the fusion, the contributions of adapters in use, each (batch, sequence, hidden)."""
        rows = self.row_adapters(adapter_names, input_ids, **kwargs)
        layers = self.adapters.tapped_in(rows)
        last, states, _ = self._run_backbone(input_ids, attention_mask, layers, row_adapters=rows, **kwargs)
        return last, self.adapters(states, attention_mask, contributions=True, row_adapters=rows)

    def _run_adapters(
        self,
        states: dict[int, Tensor],
        attention_mask: Tensor | None,
        at: Tensor | None,
        past_key_values: Cache | None,
        row_adapters: RowAdapters | None,
    ) -> dict[str, Tensor]:
        """Return what the fusion reads of each adapter in use."""
        contributions = self.fusion.reads == DeltaFusion.reads
        return self.adapters(states, attention_mask, at, contributions, past_key_values, row_adapters)

    def tap(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        adapter_names: Any = None,
        layers: Collection[int] | None = None,
        **kwargs: Any,
    ) -> dict[int, Tensor]:
        """Return the hidden states (batch, sequence, hidden) that active adapters tap by layer, and the last as -1.

        With `adapter_names`, see `forward`, it is what the adapters of any row tap; `layers` names others in their
        place.
        """
        rows = self.row_adapters(adapter_names, input_ids, **kwargs)
        layers = self.adapters.tapped_in(rows) if layers is None else layers
        last, states, _ = self._run_backbone(input_ids, attention_mask, layers, row_adapters=rows, **kwargs)
        return check_tapped({**states, -1: last}, layers)

    def _run_backbone(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        layers: Collection[int] | None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        hidden_states: dict[int, Tensor] | None = None,
        knowledge_slots: Any = None,
        knowledge_embeds: Any = None,
        past_key_values: Cache | None = None,
        row_adapters: RowAdapters | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[int, Tensor], Any]:
        """Return R, the hidden states of these or all layers, and the attentions.

        There is a graph only if the backbone or its input trains.
        """
        self._check_keywords(kwargs, past_key_values)
        tokens, past = input_ids if input_ids is not None else inputs_embeds, tokens_in(past_key_values)
        check_mask(attention_mask, tokens, past)
        if hidden_states is not None and past_key_values is not None:
            raise ValueError("hidden_states stand for a run of the backbone as a whole; leave out past_key_values")
        if hidden_states is not None:
            return (tapped := check_tapped(hidden_states, layers or (), attention_mask, tokens))[-1], tapped, None
        kwargs.update(self._caching(past_key_values, row_adapters))
        if position_ids is None:
            position_ids = self._number(tokens, attention_mask, past, inputs_embeds is not None or past > 0)
        slots = uncached(knowledge_slots, past)  # what the cache holds was read with its entities
        entities = entities_by_name(slots, knowledge_embeds, self.adapters.in_front_in(row_adapters))
        if entities and input_ids is not None:
            position_ids = self._positions.of_tokens(input_ids) if position_ids is None else position_ids
            input_ids, inputs_embeds = None, self.get_input_embeddings()(input_ids)
        if inputs_embeds is not None:
            inputs_embeds = self.adapters.embed(inputs_embeds, entities)
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "inputs_embeds": inputs_embeds, **kwargs}
        inputs.update(attention_mask=attention_mask, return_dict=True)
        inputs = {key: value for key, value in inputs.items() if value is not None}
        trains = any(parameter.requires_grad for parameter in self.backbone.parameters())
        if trains and torch.is_grad_enabled():
            self._notice_training()  # whatever happens next: a changed backbone is never lost in saving
        with torch.set_grad_enabled(torch.is_grad_enabled() and (trains or carries_gradient(inputs))):
            output, states = run_and_tap(self.backbone, inputs, layers)
        return output.last_hidden_state, states, getattr(output, "attentions", None)

    def _check_keywords(self, keywords: dict[str, Any], past_key_values: Any) -> None:
        """Refuse keywords that the backbone does not know; an encoder knows no cache."""
        cache = {} if self.causal or past_key_values is None else {"past_key_values": past_key_values}
        check_keywords({**keywords, **cache}, self.backbone)

    def _number(
        self, tokens: Tensor | None, attention_mask: Tensor | None, past: int, by_mask_alone: bool
    ) -> Tensor | None:
        """Return the positions of tokens after `past` others, where the backbone would count left padding along."""
        self._positions.check_length(tokens, past)
        numbers = None if attention_mask is None else self._positions.number(attention_mask, by_mask_alone)
        return None if numbers is None else numbers[:, past:]

    def _caching(self, past_key_values: Cache | None, row_adapters: RowAdapters | None) -> dict[str, Any]:
        """Return the keywords by which a backbone keeps its tokens in a cache, or makes none.

        Raises:
            ValueError: it keeps none, or the cache does not go with it and the active adapters.
        """
        takes = "past_key_values" in inspect.signature(type(self.backbone).forward).parameters
        if past_key_values is None:
            return {"use_cache": False} if self.causal and takes else {}
        if not takes:
            raise ValueError(f"{type(self.backbone).__name__} keeps no cache; leave out past_key_values")
        self.adapters.open_cache(past_key_values, self.backbone.config, row_adapters)
        return {"past_key_values": past_key_values, "use_cache": True}

    def backbone_dropout(self, probability: float | str | None) -> None:
        """Set the dropout of the backbone in training, frozen (as for a map that learns before it) or not.

        All its modules drop out with this probability, and its `config` stays as it is; "configured" leaves them
        what they were made with. With 0 it stays in eval mode, whatever trains. None is the default: a frozen
        backbone is in eval mode, and one that trains drops out as configured.

        Raises:
            ValueError: it is no probability, or the backbone has no dropout.
        """
        share = probability if isinstance(probability, int | float) else 0
        settings = dropout_settings(self.backbone) if 0 < share < 1 else []
        if not (probability in (None, "configured", 0) or settings):
            raise ValueError(
                f"backbone_dropout={probability} must lie between 0 and 1, for a backbone with dropout, of which "
                f"{type(self.backbone).__name__} has {len(dropout_settings(self.backbone))} settings; None leaves it "
                "as it is configured"
            )
        self._drops_out = None if probability is None else probability != 0
        for module, name in settings:
            setattr(module, name, probability)
        self.train(self.training)

    def train(self, mode: bool = True) -> KAdapterModel:
        """Set training mode; what is frozen, backbone or adapter, stays in eval mode, but for `backbone_dropout`."""
        self.training = self.adapters.training = mode
        for child in self.children():
            if child not in (self.backbone, self.adapters):
                set_mode(child, mode)
        for child in (self.backbone, *self.adapters.values()):
            trains = any(parameter.requires_grad for parameter in child.parameters())
            if child is self.backbone and self._drops_out is not None:
                trains = self._drops_out
            set_mode(child, mode and trains)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and copy take of the model, without the hooks that pickle can't take."""
        modules = {**self._modules, "backbone": without_capturing_hooks(self.backbone)}
        return {**vars(self), "_modules": modules}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        prepare_taps(self.backbone)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo what was done to adapters, fusion and configuration where an exception ends the block."""
        fusion = self.fusion
        with self.adapters.all_or_nothing():
            try:
                yield
            except BaseException:
                self.fusion = fusion
                raise

    @making_models_in_turn
    def renew_fusion(self) -> None:
        """Make the fusion for the adapters that there are now, keeping what was learned for each."""
        new = new_fusion(self.config, self.adapters.featured)
        if new.keep(self.fusion):
            fusion = self.config.fusion
            logger.warning(f"fusion {fusion!r} combines another set of adapters now and is untrained; train it")
        self.fusion = new.to(device_of(self.backbone)).train(self.training)


KAdapterPreTrainedModel.model_class = KAdapterModel


def _register() -> None:
    AutoConfig.register(KAdapterConfig.model_type, KAdapterConfig, exist_ok=True)
    AutoModel.register(KAdapterConfig, KAdapterModel, exist_ok=True)


if __name__ == "kadapter.modeling_kadapter":  # installed: as remote code it must not stand in for another repository's
    _register()
