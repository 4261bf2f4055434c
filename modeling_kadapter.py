"""K-Adapter: knowledge adapters beside a frozen encoder (Wang et al., Findings of ACL 2021, arXiv 2002.01808).

From top to bottom in the order of the paper: one adapter layer, the adapter, fusion, the model, its heads. How models
are loaded and saved stands in loading_kadapter.py, what one does with adapters in verbs_kadapter.py.
Dimensions: B batch, S sequence, H backbone width, D adapter width, M mentions, W words.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput
from transformers.utils import ModelOutput, logging

from .artifacts_kadapter import copy_strictly
from .backbone_kadapter import random_backbone
from .configuration_kadapter import KAdapterConfig, KnowledgeAdapterConfig, check_adapter_name, check_choice
from .encoding_kadapter import encode_entities, mark_entities, special_tokens
from .loading_kadapter import ArtifactVerbs
from .verbs_kadapter import AdapterVerbs

__all__ = [
    "KAdapterConfig",
    "KAdapterForDependencyParsing",
    "KAdapterForEntityPairClassification",
    "KAdapterForSequenceClassification",
    "KAdapterModel",
    "KAdapterModelOutput",
    "KnowledgeAdapterConfig",
    "encode_entities",
    "mark_entities",
    "special_tokens",
]

logger = logging.get_logger(__name__)


class Attention(nn.Module):
    """Multi-head self-attention with residual and layer norm after it, by `scaled_dot_product_attention`."""

    def __init__(self, width: int, heads: int, dropout: float, attention_dropout: float, eps: float) -> None:
        super().__init__()
        self.heads, self.attention_dropout = heads, attention_dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dense = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        split = states.shape[:2] + (self.heads, -1)
        query, key, value = (one(states).view(split).transpose(1, 2) for one in (self.query, self.key, self.value))
        dropout = self.attention_dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        context = self.dense(context.transpose(1, 2).flatten(2))  # (B, S, D)
        return self.layer_norm(states + self.dropout(context))


class AdapterBlock(GradientCheckpointingLayer):
    """One post-layer-norm transformer block of an adapter layer."""

    def __init__(self, config: KnowledgeAdapterConfig) -> None:
        super().__init__()
        dropout, eps = config.hidden_dropout_prob, config.layer_norm_eps
        attention_dropout = config.attention_probs_dropout_prob
        self.attention = Attention(config.hidden_size, config.num_attention_heads, dropout, attention_dropout, eps)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        check_choice("hidden_act", config.hidden_act, ACT2FN)
        self.activation = ACT2FN[config.hidden_act]
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=eps)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        states = self.attention(states, mask)
        return self.layer_norm(states + self.dropout(self.output(self.activation(self.intermediate(states)))))


class KnowledgeAdapterLayer(nn.Module):
    """One adapter layer, layer(x) = x + up(blocks(down(x))) (K-Adapter, section 3.1; `Adapter` in fac-adapter.py)."""

    def __init__(self, config: KnowledgeAdapterConfig, backbone_hidden_size: int) -> None:
        super().__init__()
        self.down_project = nn.Linear(backbone_hidden_size, config.hidden_size)
        self.blocks = nn.ModuleList(AdapterBlock(config) for _ in range(config.num_hidden_layers))
        self.up_project = nn.Linear(config.hidden_size, backbone_hidden_size)
        for projection in (self.down_project, self.up_project):
            nn.init.normal_(projection.weight, std=config.projection_initializer_range)
            nn.init.zeros_(projection.bias)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        inner = self.down_project(states)  # (B, S, D)
        for block in self.blocks:
            inner = block(inner, mask)
        return states + self.up_project(inner)  # (B, S, H)


class KnowledgeAdapter(nn.Module):
    """One knowledge adapter: h = 0; for i, l in enumerate(layers): h = layer_i(hs[l] + h)."""

    def __init__(self, config: KnowledgeAdapterConfig, backbone_hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(KnowledgeAdapterLayer(config, backbone_hidden_size) for _ in config.layers)

    def forward(self, hidden_states: Sequence[Tensor], attention_mask: Tensor | None) -> Tensor:
        """Map the tapped hidden states, each (batch, sequence, hidden), to the adapter's own of the same shape."""
        weight, mask = self.layers[0].down_project.weight, None
        if self.config.mask_padding and attention_mask is not None:
            mask = _attention_mask(attention_mask).to(weight.device)
        skip, outputs = self.config.skip_layers, []
        for number, (layer, state) in enumerate(zip(self.layers, hidden_states, strict=True), start=1):
            state = state.to(device=weight.device, dtype=weight.dtype)
            outputs.append(layer(state + outputs[-1] if outputs else state, mask))
            if skip and number % skip == 0:  # the index is the official code's, whatever was meant by it
                outputs[-1] = outputs[-1] + outputs[number // skip]
        return outputs[-1]  # (B, S, H)


def _attention_mask(attention_mask: Tensor) -> Tensor:
    """Turn (B, S) into a boolean (B, 1, 1, S); a row without any token attends to all, so that nothing is NaN."""
    if attention_mask.dim() != 2:
        shape = tuple(attention_mask.shape)
        raise ValueError(f"attention_mask has shape {shape}; adapters need (batch, sequence), 1 for tokens")
    real = attention_mask.bool()
    return (real | ~real.any(dim=1, keepdim=True))[:, None, None, :]


class AddFusion(nn.Module):
    """R + the sum of the adapters' outputs: no parameters, and what composing without training gives."""

    def __init__(self, names: Sequence[str], hidden_size: int) -> None:
        super().__init__()

    def forward(self, backbone: Tensor, adapters: dict[str, Tensor]) -> Tensor:
        for states in adapters.values():
            backbone = backbone.to(states.device) + states
        return backbone


class ConcatFusion(nn.Module):
    """Linear of [R; A] for each adapter and, where there are several, a Linear over those (the official "concat")."""

    def __init__(self, names: Sequence[str], hidden_size: int) -> None:
        super().__init__()
        self.projections = nn.ModuleDict({name: nn.Linear(2 * hidden_size, hidden_size) for name in names})
        self.combine = nn.Linear(len(names) * hidden_size, hidden_size) if len(names) > 1 else None

    def forward(self, backbone: Tensor, adapters: dict[str, Tensor]) -> Tensor:
        if not adapters:
            return backbone
        features = []
        for name, projection in self.projections.items():
            both = torch.cat([backbone.to(adapters[name]), adapters[name]], dim=-1)  # (..., 2H)
            features.append(projection(both.to(projection.weight.dtype)))
        if self.combine is None:
            return features[0]
        return self.combine(torch.cat(features, dim=-1).to(self.combine.weight.dtype))


FUSION_CLASSES = {"add": AddFusion, "concat": ConcatFusion}


@dataclass
class KAdapterModelOutput(ModelOutput):
    """What a `KAdapterModel` returns.

    Args:
        last_hidden_state: fused features, (batch, sequence, hidden).
        backbone_hidden_state: the backbone's last hidden state, (batch, sequence, hidden).
        adapter_hidden_states: for each active adapter its output, (batch, sequence, hidden).
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
    _no_split_modules = ("KnowledgeAdapter",)

    def init_weights(self) -> None:
        """Do nothing: adapters and heads initialise themselves as published, and the backbone keeps its weights."""

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing, for the same reason."""

    @staticmethod
    def encode_entities(
        tokenizer: Any, texts: Sequence[str], entity_spans: Sequence[Sequence[tuple[int, int]]], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Turn raw text with marked mentions into the model's inputs; see the function `encode_entities`."""
        return encode_entities(tokenizer, texts, entity_spans, **kwargs)


class KAdapterModel(KAdapterPreTrainedModel):
    """Knowledge adapters in parallel beside a frozen encoder, and the fusion of their outputs.

    The backbone is frozen, always in eval mode, held in its own dtype and never saved, until a user unfreezes it by
    `model.backbone.requires_grad_(True)`.
    """

    _auto_classes = ("AutoModel",)

    def __init__(self, config: KAdapterConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.adapters_enabled = True
        self.adapters = nn.ModuleDict()
        for name in config.adapters:
            self._check_free(name)
            self.adapters[name] = self._new_adapter(name, config.adapter_config(name))
        self.fusion = FUSION_CLASSES[config.fusion](list(self.adapters), config.hidden_size)
        self.post_init()
        self.backbone = backbone if backbone is not None else random_backbone(config)
        self.backbone.requires_grad_(False).eval()
        self._positions = _positions_of(self.backbone)
        self.register_state_dict_post_hook(_drop_backbone)
        self.register_load_state_dict_post_hook(_forgive_backbone)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> KAdapterModelOutput | tuple:
        """Return fused features, and what they were fused from; other keywords go to the backbone.

        Shapes: `input_ids`, `attention_mask`, `position_ids` (batch, sequence); `inputs_embeds` (batch, sequence,
        hidden). Outputs at real tokens do not depend on padding (with `mask_padding`).

        Raises:
            ValueError: the mask has another shape, or the sequence is longer than the backbone takes.
        """
        last, states, attentions = self._run_backbone(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        every = tuple(states) if output_hidden_states else None
        adapters = self._run_adapters(states, attention_mask)
        fused = self.fusion(last, adapters)  # (B, S, H)
        output = KAdapterModelOutput(fused, last, adapters, every, attentions)
        return output.to_tuple() if return_dict is False else output

    def encode(self, input_ids: Tensor | None, attention_mask: Tensor | None, **kwargs: Any) -> tuple[Tensor, dict]:
        """Return R and the active adapters' outputs, each (batch, sequence, hidden), before any fusion."""
        position_ids, inputs_embeds = kwargs.pop("position_ids", None), kwargs.pop("inputs_embeds", None)
        last, states, _ = self._run_backbone(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        return last, self._run_adapters(states, attention_mask)

    def _run_backbone(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        **kwargs: Any,
    ) -> tuple[Tensor, list[Tensor], Any]:
        """Return R, all hidden states and the attentions, without a graph unless the backbone or its input trains."""
        if position_ids is None:
            self._check_length(input_ids if input_ids is not None else inputs_embeds)
        if position_ids is None and attention_mask is not None:
            position_ids = self._number_positions(attention_mask, by_mask_alone=inputs_embeds is not None)
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "inputs_embeds": inputs_embeds, **kwargs}
        inputs = {key: value for key, value in inputs.items() if value is not None}
        trains = any(one.requires_grad for one in self.backbone.parameters())
        if trains and torch.is_grad_enabled():
            self.config.backbone_modified = True  # whatever happens next: a changed backbone is never lost in saving
        trains = trains or (inputs_embeds is not None and inputs_embeds.requires_grad)
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            inputs.update(output_hidden_states=True, return_dict=True)
            output = self.backbone(attention_mask=attention_mask, **inputs)
        return output.last_hidden_state, list(output.hidden_states), getattr(output, "attentions", None)

    def _check_length(self, given: Tensor | None) -> None:
        longest = self._positions.longest
        if given is not None and longest is not None and given.shape[1] > longest:
            raise ValueError(f"{given.shape[1]} tokens are more than the {longest} that the backbone takes; cut them")

    def _number_positions(self, attention_mask: Tensor, by_mask_alone: bool) -> Tensor | None:
        """Number each row from its first real token on, where the backbone would count left padding along."""
        first = self._positions.first
        if first is None or attention_mask.dim() != 2 or (self._positions.by_tokens and not by_mask_alone):
            return None
        real = attention_mask.bool()
        index = torch.arange(real.shape[1], device=real.device) + first
        return (index - (real.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)).clamp(min=first)  # (B, S)

    def _run_adapters(self, states: list[Tensor], attention_mask: Tensor | None) -> dict[str, Tensor]:
        """Run the active adapters on the states that they tap, and let go of all others."""
        adapters = {name: self.adapters[name] for name in self.active_adapters()}
        taps = {layer: states[layer] for one in adapters.values() for layer in one.config.layers}
        states.clear()
        return {
            name: one([taps[layer] for layer in one.config.layers], attention_mask) for name, one in adapters.items()
        }

    def train(self, mode: bool = True) -> KAdapterModel:
        """Set training mode; what is frozen, backbone or adapter, stays in eval mode."""
        super().train(mode)
        for part in (self.backbone, *self.adapters.values()) if "backbone" in self._modules else ():
            part.train(mode and any(one.requires_grad for one in part.parameters()))
        return self

    def _new_adapter(self, name: str, config: KnowledgeAdapterConfig) -> KnowledgeAdapter:
        config = config.for_backbone(self.config.num_hidden_layers)
        self.config.adapters[name] = config.to_dict()
        return KnowledgeAdapter(config, self.config.hidden_size)

    def _insert(
        self, name: str, config: KnowledgeAdapterConfig, tensors: dict[str, Tensor] | None = None, where: str = ""
    ) -> None:
        self._check_free(name)
        adapter = self._new_adapter(name, config)
        if tensors is not None:
            try:
                copy_strictly(adapter, tensors, where, f"adapters.{name}.")
            except ValueError:
                del self.config.adapters[name]
                raise
            adapter.requires_grad_(False)
        adapter.to(_device_of(self.backbone)).train(self.training and tensors is None)
        self.adapters[name] = adapter
        if self.config.active_adapters is not None:
            self.config.active_adapters = [*self.config.active_adapters, name]
        self._renew_fusion()

    def _check_free(self, name: str) -> None:
        check_adapter_name(name)
        if hasattr(nn.ModuleDict, name):
            raise ValueError(f"adapter name {name!r} is the name of a module's method; choose another name")
        if name in self.adapters:
            raise ValueError(f"there is an adapter {name!r} already; choose another adapter_name or delete_adapter it")

    def _remove(self, name: str) -> None:
        del self.adapters[name], self.config.adapters[name]
        if self.config.active_adapters is not None:
            self.config.active_adapters = [one for one in self.config.active_adapters if one != name]
        self._renew_fusion()

    def _renew_fusion(self) -> None:
        """Make the fusion for the adapters that there are now, keeping what was learned for each."""
        old, new = self.fusion, type(self.fusion)(list(self.adapters), self.config.hidden_size)
        if isinstance(new, ConcatFusion):
            for name in set(new.projections) & set(old.projections):
                new.projections[name] = old.projections[name]
            if len(self.adapters) > 1:
                logger.warning("fusion 'concat' combines another set of adapters now and is untrained; train it")
        self.fusion = new.to(_device_of(self.backbone)).train(self.training)


def _device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


class Positions(NamedTuple):
    """How a backbone numbers tokens: by a look at their ids or not, from where on, and how many."""

    by_tokens: bool = False
    first: int | None = None
    longest: int | None = None


def _positions_of(backbone: nn.Module) -> Positions:
    embeddings = getattr(backbone, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if table is None or "position_ids" not in inspect.signature(backbone.forward).parameters:
        return Positions()  # relative or rotary positions: padding on the left shifts all of them alike
    padding = getattr(embeddings, "padding_idx", None)  # RoBERTa's rule: padding stays at its id, others follow
    first = 0 if padding is None else padding + 1
    return Positions(padding is not None, first, len(table.weight) - first)


def _drop_backbone(module: KAdapterModel, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    module._notice_training()
    if not module.config.backbone_modified:
        for key in [key for key in state_dict if key.startswith(f"{prefix}backbone.")]:
            del state_dict[key]


def _forgive_backbone(module: KAdapterModel, incompatible: Any) -> None:
    if not module.config.backbone_modified:
        names = tuple(f"backbone.{key}" for key in module.backbone.state_dict())
        incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if not key.endswith(names)]


# ---- heads --------------------------------------------------------------------------------------------------------


class KAdapterHeadModel(KAdapterPreTrainedModel):
    """A `KAdapterModel` with a head on its fused features."""

    def __init__(self, config: KAdapterConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.kadapter = KAdapterModel(config, backbone)
        self.head = self.build_head(config)
        self.post_init()

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head."""
        raise TypeError("a head model says how its head is built")

    def features_at(self, positions: Tensor, *inputs: Any, **kwargs: Any) -> Tensor:
        """Return the fused features at `positions` (batch, n) alone, (batch, n, hidden): gathered, then fused."""
        backbone, adapters = self.kadapter.encode(*inputs, **kwargs)
        gathered = {name: _gather(states, positions) for name, states in adapters.items()}  # (B, n, H) each
        return self.kadapter.fusion(_gather(backbone, positions), gathered)


def _gather(states: Tensor, positions: Tensor) -> Tensor:
    if positions.device.type == "cpu" and positions.numel() and int(positions.max()) >= states.shape[1]:
        raise ValueError(
            f"position {int(positions.max())} lies outside the {states.shape[1]} tokens of the batch; was it cut?"
        )
    index = positions.clamp(min=0).to(states.device)[..., None].expand(-1, -1, states.shape[-1])
    return states.gather(1, index)


def _cross_entropy(logits: Tensor, labels: Tensor | None, num_items_in_batch: Tensor | int | None) -> Tensor | None:
    """Mean over the labels that count, or their sum over the number of such labels in the whole (global) batch."""
    if labels is None:
        return None
    logits, labels = logits.flatten(0, -2).float(), labels.flatten().to(logits.device)
    if num_items_in_batch is None:
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits, labels, reduction="sum") / torch.as_tensor(num_items_in_batch).to(logits.device)


class EntityHead(nn.Module):
    """Linear, dropout, Linear on the concatenated features of the mentions; no activation (official code)."""

    def __init__(self, config: KAdapterConfig, mentions: int) -> None:
        super().__init__()
        self.dense = nn.Linear(mentions * config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, features: Tensor) -> Tensor:
        return self.out_proj(self.dropout(self.dense(features.flatten(1).to(self.dense.weight.dtype))))  # (B, labels)


class KAdapterForSequenceClassification(KAdapterHeadModel):
    """Class of a whole text, read off its first token."""

    _auto_classes = ("AutoModelForSequenceClassification",)

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head for one position."""
        return EntityHead(config, mentions=1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple:
        """Return logits (batch, labels) and, given `labels` (batch,), the mean cross-entropy."""
        if attention_mask is None:
            given = input_ids if input_ids is not None else kwargs["inputs_embeds"]
            attention_mask = torch.ones(given.shape[:2], dtype=torch.long, device=given.device)
        first = attention_mask.argmax(dim=1, keepdim=True)  # (B, 1), whatever stands before it
        logits = self.head(self.features_at(first, input_ids, attention_mask, **kwargs))
        output = SequenceClassifierOutput(_cross_entropy(logits, labels, num_items_in_batch), logits)
        return output.to_tuple() if return_dict is False else output


class KAdapterForEntityPairClassification(KAdapterHeadModel):
    """Relation of a pair of marked mentions: the factual objective, and TACRED's head (fac-adapter.py)."""

    _auto_classes = ("AutoModelForSequenceClassification",)

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head for two mentions."""
        return EntityHead(config, mentions=2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        entity_positions: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple:
        """Return logits (batch, labels) and, given `labels` (batch,), the mean cross-entropy.

        `entity_positions` (batch, 2): tokens of the opening markers of head and tail, as `encode_entities` gives.

        Raises:
            ValueError: `entity_positions` are missing, not two, or out of range.
        """
        _check_positions(entity_positions, mentions=2)
        logits = self.head(self.features_at(entity_positions, input_ids, attention_mask, **kwargs))
        output = SequenceClassifierOutput(_cross_entropy(logits, labels, num_items_in_batch), logits)
        return output.to_tuple() if return_dict is False else output


def _check_positions(entity_positions: Tensor | None, mentions: int) -> None:
    shape = None if entity_positions is None else tuple(entity_positions.shape)
    if shape is None or len(shape) != 2 or shape[1] != mentions:
        raise ValueError(
            f"entity_positions has shape {shape} and must have (batch, {mentions}): the opening marker of each "
            "mention; encode_entities(tokenizer, texts, entity_spans) gives them"
        )


class ArcHead(nn.Module):
    """Biaffine score of every word as the head of every word, whatever their number (Dozat and Manning, 2017)."""

    def __init__(self, config: KAdapterConfig) -> None:
        super().__init__()
        self.dependent = nn.Linear(config.hidden_size, config.arc_size)
        self.governor = nn.Linear(config.hidden_size, config.arc_size)
        self.bilinear = nn.Linear(config.arc_size, config.arc_size, bias=False)
        self.prior = nn.Linear(config.arc_size, 1)
        self.dropout = nn.Dropout(config.classifier_dropout)

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """Score (batch, 1 + words, hidden), the root first: (batch, words, 1 + words)."""
        features = features.to(self.dependent.weight.dtype)
        dependent = self.dropout(F.gelu(self.dependent(features[:, 1:])))  # (B, W, arc)
        governor = self.dropout(F.gelu(self.governor(features)))  # (B, 1 + W, arc)
        scores = self.bilinear(dependent) @ governor.transpose(1, 2) + self.prior(governor).transpose(1, 2)
        return scores.masked_fill(~present[:, None, :].to(scores.device), torch.finfo(scores.dtype).min)


class PositionHead(nn.Module):
    """The official head: one-head attention, two Linears, classes are absolute positions (lin-adapter.py)."""

    def __init__(self, config: KAdapterConfig) -> None:
        super().__init__()
        self.attention = Attention(config.hidden_size, 1, config.classifier_dropout, config.classifier_dropout, 1e-5)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.hidden_size, config.num_positions)

    def forward(self, features: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map (batch, sequence, hidden) to (batch, sequence, positions)."""
        mask = None if attention_mask is None else _attention_mask(attention_mask).to(features.device)
        context = self.attention(features.to(self.dense.weight.dtype), mask)
        return self.out_proj(self.dropout(self.dense(context)))


class KAdapterForDependencyParsing(KAdapterHeadModel):
    """Head of each word among the words of its sentence: the linguistic objective."""

    _auto_classes = ("AutoModelForTokenClassification",)

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new arc scorer, or the official positional head if the configuration says so."""
        return ArcHead(config) if config.dependency_head == "arc" else PositionHead(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        word_positions: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput | tuple:
        """Return logits and, given `labels`, the mean cross-entropy over those that are not -100.

        With the arc head `word_positions` (batch, 1 + words) are the tokens of the root (the first special token) and
        of each word's first sub-token, -1 where there is none; logits are (batch, words, 1 + words) and labels
        (batch, words), 0 for the root. With the official head logits are (batch, sequence, num_positions) and labels
        (batch, sequence), a position for each token.

        Raises:
            ValueError: `word_positions` are missing or out of range.
        """
        if self.config.dependency_head == "official":
            backbone, adapters = self.kadapter.encode(input_ids, attention_mask, **kwargs)
            logits = self.head(self.kadapter.fusion(backbone, adapters), attention_mask)
            if labels is not None and attention_mask is not None:
                labels = labels.masked_fill(attention_mask == 0, -100)
        elif word_positions is None or word_positions.dim() != 2:
            raise ValueError("word_positions (batch, 1 + words) are missing: the root's token and each word's first")
        else:
            features = self.features_at(word_positions, input_ids, attention_mask, **kwargs)
            logits = self.head(features, word_positions >= 0)
        output = TokenClassifierOutput(_cross_entropy(logits, labels, num_items_in_batch), logits)
        return output.to_tuple() if return_dict is False else output


def _register() -> None:
    """Let the Auto classes answer for K-Adapter models: of several heads they take the one a checkpoint names."""
    AutoConfig.register(KAdapterConfig.model_type, KAdapterConfig, exist_ok=True)
    AutoModel.register(KAdapterConfig, KAdapterModel, exist_ok=True)
    for auto in (AutoModelForSequenceClassification, AutoModelForTokenClassification):
        heads = tuple(one for one in KAdapterHeadModel.__subclasses__() if auto.__name__ in one._auto_classes)
        auto.register(KAdapterConfig, heads, exist_ok=True)


if __name__ == "kadapter.modeling_kadapter":  # installed: as remote code it must not stand in for another repository's
    _register()
