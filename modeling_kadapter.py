"""K-Adapter: knowledge adapters beside a frozen encoder (Wang et al., Findings of ACL 2021, arXiv 2002.01808).

From top to bottom in the order of the paper: one adapter layer, the adapter, the model, its head models. Fusion, what
heads are made of, loading and the adapter verbs are in fusion_, heads_, loading_ and verbs_kadapter.py.
Dimensions: B batch, S sequence, H backbone width, D adapter width, P passages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import ModelOutput, logging

from .artifacts_kadapter import WEIGHTS_FOLLOW, copy_strictly
from .attention_kadapter import Attention, Dropout, Linear, attention_mask_of, check_mask
from .backbone_kadapter import making_models_in_turn, random_backbone
from .configuration_kadapter import KAdapterConfig, KnowledgeAdapterConfig, check_adapter_name, check_choice
from .encoding_kadapter import (
    MARKERS,
    best_spans,
    encode_choices,
    encode_entities,
    encode_passages,
    encode_words,
    mark_entities,
    special_tokens,
)
from .fusion_kadapter import new_fusion
from .heads_kadapter import (
    NOT_READ,
    ArcHead,
    EntityHead,
    PositionHead,
    TokenHead,
    as_rows,
    check_positions,
    check_words,
    first_tokens,
    gather,
    mask_scores,
    token_mask,
)
from .loading_kadapter import TASKS, ArtifactVerbs
from .losses_kadapter import cross_entropy, multi_label_loss, sequence_loss, spans_loss, spans_of
from .saving_kadapter import drop_backbone, forgive_backbone
from .tapping_kadapter import (
    check_keywords,
    check_tapped,
    positions_of,
    prepare_taps,
    run_and_tap,
    set_mode,
    without_capturing_hooks,
)
from .verbs_kadapter import AdapterVerbs

__all__ = [
    "ArcHead",
    "KAdapterConfig",
    "KAdapterForDependencyParsing",
    "KAdapterForEntityClassification",
    "KAdapterForEntityPairClassification",
    "KAdapterForMultipleChoice",
    "KAdapterForQuestionAnswering",
    "KAdapterForSequenceClassification",
    "KAdapterForTokenClassification",
    "KAdapterModel",
    "KAdapterModelOutput",
    "KnowledgeAdapterConfig",
    "best_spans",
    "encode_choices",
    "encode_entities",
    "encode_passages",
    "encode_words",
    "mark_entities",
    "special_tokens",
]

logger = logging.get_logger(__name__)
FEW = 8  # where fewer than one position in so many is read, the last adapter block computes no others


class AdapterBlock(GradientCheckpointingLayer):
    """One post-layer-norm transformer block of an adapter layer."""

    def __init__(self, config: KnowledgeAdapterConfig) -> None:
        super().__init__()
        dropout, eps = config.hidden_dropout_prob, config.layer_norm_eps
        attention_dropout = config.attention_probs_dropout_prob
        self.attention = Attention(config.hidden_size, config.num_attention_heads, dropout, attention_dropout, eps)
        self.intermediate = Linear(config.hidden_size, config.intermediate_size)
        check_choice("hidden_act", config.hidden_act, ACT2FN)
        self.activation = ACT2FN[config.hidden_act]
        self.output = Linear(config.intermediate_size, config.hidden_size)
        self.dropout = Dropout(dropout)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=eps)

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
        self.down_project = Linear(backbone_hidden_size, config.hidden_size)
        self.up_project = Linear(config.hidden_size, backbone_hidden_size)
        for projection in (self.down_project, self.up_project):
            if config.projection_initializer_range is not None and not projection.weight.is_meta:
                nn.init.normal_(projection.weight, std=config.projection_initializer_range)
                nn.init.zeros_(projection.bias)

    def forward(self, states: Tensor, mask: Tensor | None, at: Tensor | None = None) -> Tensor:
        inner = self.down_project(states) if self.blocks else None  # (B, S, D)
        for number, block in enumerate(self.blocks, start=1):
            inner = block(inner, mask, at if number == len(self.blocks) else None)
        states = states if at is None else gather(states, at)
        return states if inner is None else states + self.up_project(inner)  # (B, S or n, H)


class KnowledgeAdapter(nn.Module):
    """One knowledge adapter: h = 0; for i, l in enumerate(layers): h = layer_i(hs[l] + h)."""

    def __init__(self, config: KnowledgeAdapterConfig, backbone_hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(KnowledgeAdapterLayer(config, backbone_hidden_size) for _ in config.layers)

    def forward(
        self, hidden_states: Sequence[Tensor], attention_mask: Tensor | None, at: Tensor | None = None
    ) -> Tensor:
        """Map tapped hidden states, each (batch, sequence, hidden), to the adapter's own, all or `at` (batch, n)."""
        like = next(self.parameters(), hidden_states[0])
        mask = attention_mask_of(attention_mask if self.config.mask_padding else None, like.device)
        skip, outputs = self.config.skip_layers, []
        few = at if at is not None and FEW * at.shape[1] < hidden_states[0].shape[1] and not skip else None
        for number, (layer, state) in enumerate(zip(self.layers, hidden_states, strict=True), start=1):
            state = state.to(like) + outputs[-1] if outputs else state.to(like)
            outputs.append(layer(state, mask, few if number == len(self.layers) else None))
            if skip and number % skip == 0:  # the index is the official code's, whatever was meant by it
                outputs[-1] = outputs[-1] + outputs[number // skip]
        return outputs[-1] if at is few else gather(outputs[-1], at)  # (B, S or n, H)


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

    markers = MARKERS  # around the mentions, as the class is trained with them

    @classmethod
    def encode_entities(
        cls, tokenizer: Any, texts: Sequence[str], entity_spans: Sequence[Sequence[tuple[int, int]]], **kwargs: Any
    ) -> dict[str, Tensor]:
        """Turn raw text with marked mentions into the model's inputs; see the function `encode_entities`.

        `markers` are by default those that this class is trained with: " @" for `KAdapterForEntityClassification`.
        """
        return encode_entities(tokenizer, texts, entity_spans, **{"markers": cls.markers, **kwargs})


class KAdapterModel(KAdapterPreTrainedModel):
    """Knowledge adapters in parallel beside a frozen encoder, and the fusion of their outputs.

    The backbone is frozen, always in eval mode, held in its own dtype and never saved, until a user unfreezes it by
    `model.backbone.requires_grad_(True)`.
    """

    _auto_classes = ("AutoModel",)

    def __init__(self, config: KAdapterConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.adapters_enabled, self.adapters = True, nn.ModuleDict()
        for name in config.adapters:
            self._check_free(name)
            self.adapters[name] = self._new_adapter(name, config.adapter_config(name), WEIGHTS_FOLLOW.get())
        self.fusion = new_fusion(config, list(self.adapters))
        self.post_init()
        self.backbone = backbone if backbone is not None else random_backbone(config)
        self.backbone.requires_grad_(False).eval()
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
        **kwargs: Any,
    ) -> KAdapterModelOutput | tuple:
        """Return fused features, and what they were fused from; other keywords that the backbone knows go to it.

        `hidden_states`, what `tap` returned for the same inputs, stands in for a run of the backbone.
        Shapes: `input_ids`, `attention_mask`, `position_ids` (batch, sequence); `inputs_embeds` (batch, sequence,
        hidden). Outputs at real tokens do not depend on padding (with `mask_padding`).

        Raises:
            TypeError: neither this model nor its backbone knows a keyword.
            ValueError: the mask has another shape, the sequence is too long, or `hidden_states` lack a tapped one.
        """
        if kwargs.get("hidden_states") is not None and (output_hidden_states or kwargs.get("output_attentions")):
            raise ValueError(
                "hidden_states stand for a run of the backbone, so it has no others to output; give input_ids"
            )
        inputs = {"position_ids": position_ids, "inputs_embeds": inputs_embeds, **kwargs}
        last, states, attentions = self._run_backbone(input_ids, attention_mask, output_hidden_states, **inputs)
        every = tuple(states.values()) if output_hidden_states else None
        adapters = self._run_adapters(states, attention_mask)
        fused = self.fusion(last, adapters)  # (B, S, H)
        output = KAdapterModelOutput(fused, last, adapters, every, attentions)
        return output.to_tuple() if return_dict is False else output

    def encode(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, at: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return R and the active adapters' outputs before any fusion, at all positions or those `at` (batch, n)."""
        last, states, _ = self._run_backbone(input_ids, attention_mask, **kwargs)
        return last if at is None else gather(last, at), self._run_adapters(states, attention_mask, at)

    def tap(self, input_ids: Tensor | None, attention_mask: Tensor | None, **kwargs: Any) -> dict[int, Tensor]:
        """Return the hidden states (batch, sequence, hidden) that active adapters tap by layer, and the last as -1."""
        last, states, _ = self._run_backbone(input_ids, attention_mask, **kwargs)
        return check_tapped({**states, -1: last}, self.tapped())

    def _run_backbone(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        every: bool | None = False,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        hidden_states: dict[int, Tensor] | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, dict[int, Tensor], Any]:
        """Return R, the tapped or all hidden states, and the attentions; a graph only if backbone or input train."""
        check_keywords(kwargs, self.backbone)
        check_mask(attention_mask, input_ids if input_ids is not None else inputs_embeds)
        if hidden_states is not None:
            return hidden_states[-1], check_tapped(hidden_states, self.tapped()), None
        if position_ids is None:
            self._positions.check_length(input_ids if input_ids is not None else inputs_embeds)
        if position_ids is None and attention_mask is not None:
            position_ids = self._positions.number(attention_mask, by_mask_alone=inputs_embeds is not None)
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "inputs_embeds": inputs_embeds, **kwargs}
        inputs.update(attention_mask=attention_mask, return_dict=True)
        inputs = {key: value for key, value in inputs.items() if value is not None}
        trains = any(one.requires_grad for one in self.backbone.parameters())
        if trains and torch.is_grad_enabled():
            self.config.backbone_modified = True  # whatever happens next: a changed backbone is never lost in saving
        trains = trains or (inputs_embeds is not None and inputs_embeds.requires_grad)
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            output, states = run_and_tap(self.backbone, inputs, None if every else self.tapped())
        return output.last_hidden_state, states, getattr(output, "attentions", None)

    def _run_adapters(self, states: dict[int, Tensor], mask: Tensor | None, at: Tensor | None = None) -> dict:
        """Run the active adapters on the states that they tap, and let go of all others."""
        adapters = {name: self.adapters[name] for name in self.active_adapters()}
        taps = {layer: states[layer] for layer in self.tapped()}
        states.clear()
        return {name: one([taps[tap] for tap in one.config.layers], mask, at) for name, one in adapters.items()}

    def train(self, mode: bool = True) -> KAdapterModel:
        """Set training mode; what is frozen, backbone or adapter, stays in eval mode."""
        self.training = self.adapters.training = mode
        guarded = (self.backbone, *self.adapters.values())
        for part in (*guarded, *(one for one in self.children() if one not in (self.backbone, self.adapters))):
            set_mode(part, mode and (part not in guarded or any(one.requires_grad for one in part.parameters())))
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and copy take of the model, without the hooks that pickle can't take."""
        modules = {**self._modules, "backbone": without_capturing_hooks(self.backbone)}
        return {**vars(self), "_modules": modules}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        prepare_taps(self.backbone)

    def _new_adapter(self, name: str, config: KnowledgeAdapterConfig, weights_follow: bool) -> KnowledgeAdapter:
        config = config.for_backbone(self.config.num_hidden_layers, self.config.hidden_size)
        with torch.device("meta") if weights_follow else torch.get_default_device():
            adapter = KnowledgeAdapter(config, self.config.hidden_size)
        self.config.adapters[name] = config.to_dict()
        return adapter

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Undo what was done to adapters, fusion and configuration where an exception ends the block."""
        config, adapters = self.config, dict(self.adapters.items())
        stored, active = dict(config.adapters), config.active_adapters
        fusion, enabled = self.fusion, self.adapters_enabled
        try:
            yield
        except BaseException:
            self.adapters.clear()
            self.adapters.update(adapters)
            config.adapters, config.active_adapters = stored, active
            self.fusion, self.adapters_enabled = fusion, enabled
            raise

    @making_models_in_turn
    def _insert(
        self, name: str, config: KnowledgeAdapterConfig, tensors: dict[str, Tensor] | None = None, where: str = ""
    ) -> None:
        self._check_free(name)
        adapter = self._new_adapter(name, config, weights_follow=tensors is not None)
        if tensors is not None:
            copy_strictly(adapter, tensors, where, f"adapters.{name}.")
            adapter.requires_grad_(False)
        adapter.to(self.backbone.device).train(self.training and tensors is None)
        self.adapters[name] = adapter
        if self.config.active_adapters is not None:
            self.config.active_adapters = [*self.config.active_adapters, name]
        self._renew_fusion()

    def _check_free(self, name: str) -> None:
        check_adapter_name(name)
        if hasattr(nn.ModuleDict(), name):
            raise ValueError(f"adapter name {name!r} is an attribute of every module; choose another name")
        if name in self.adapters:
            raise ValueError(f"there is an adapter {name!r} already; choose another adapter_name or delete_adapter it")

    def _remove(self, name: str) -> None:
        del self.adapters[name], self.config.adapters[name]
        if self.config.active_adapters is not None:
            self.config.active_adapters = [one for one in self.config.active_adapters if one != name]
        self._renew_fusion()

    @making_models_in_turn
    def _renew_fusion(self) -> None:
        """Make the fusion for the adapters that there are now, keeping what was learned for each."""
        new = new_fusion(self.config, list(self.adapters))
        if new.keep(self.fusion):
            fusion = self.config.fusion
            logger.warning(f"fusion {fusion!r} combines another set of adapters now and is untrained; train it")
        self.fusion = new.to(self.backbone.device).train(self.training)


# ---- heads --------------------------------------------------------------------------------------------------------


class KAdapterHeadModel(KAdapterPreTrainedModel):
    """A `KAdapterModel` with a head on its fused features.

    What is frozen is read once and kept: `model(states=model.read(**inputs), **rest)` is `model(**inputs, **rest)`.
    """

    problem_types = ("single_label_classification",)  # those that its loss is for
    _own_inputs: tuple[str, ...] = ()  # keywords of the positions that it reads

    def __init__(self, config: KAdapterConfig, backbone: PreTrainedModel | None = None) -> None:
        if config.problem_type is not None and config.problem_type not in self.problem_types:
            raise ValueError(
                f"problem_type={config.problem_type!r} means nothing to {type(self).__name__}, whose loss is for "
                f"{' or '.join(self.problem_types)}; choose such a one, or leave it out"
            )
        super().__init__(config)
        self.kadapter = KAdapterModel(config, backbone)
        self.head = self.build_head(config)
        self.post_init()

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head."""
        raise TypeError("a head model says how its head is built")

    def read(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return all that fusion and head read: {"backbone": R, "adapters.NAME": A}, where the head reads it.

        Shapes: each (batch, n, hidden), n the positions that the head reads. Keywords are those of `forward`; labels
        may be among them and are not looked at.

        Raises:
            ValueError: inputs or positions are missing, of another shape or out of range.
        """
        inputs = {key: one for key, one in kwargs.items() if key not in NOT_READ}
        self._check_keywords(inputs)
        given = input_ids if input_ids is not None else inputs.get("inputs_embeds")
        if given is None:
            raise ValueError(
                "there is nothing to read; give input_ids, inputs_embeds, or states that were read before"
            )
        check_mask(attention_mask, given)
        positions = self._positions_read(given, attention_mask, inputs)
        backbone, adapters = self.kadapter.encode(input_ids, attention_mask, positions, **inputs)
        return {"backbone": backbone, **{f"adapters.{name}": one for name, one in adapters.items()}}

    def _positions_read(self, given: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> Tensor | None:
        """Return the positions (batch, n) that the head reads, None for all; takes its keywords out of `inputs`."""
        return None

    def _check_keywords(self, inputs: dict[str, Any]) -> None:
        check_keywords(inputs, self.kadapter.backbone, (*self._own_inputs, *NOT_READ))
        for key in ("output_hidden_states", "output_attentions"):
            if inputs.get(key):
                raise TypeError(f"a head has no {key}: it reads few positions; call model.base_model(..., {key}=True)")

    def fuse(self, states: dict[str, Tensor] | None = None, **inputs: Any) -> Tensor:
        """Return the fused features (batch, n, hidden) of states, or of inputs that are read first.

        Raises:
            ValueError: the states are of other adapters than the active ones or of another shape, or inputs were given
                beside them.
        """
        if states is None:
            states = self.read(**inputs)
        elif any(inputs.get(key) is not None for key in ("input_ids", "inputs_embeds")):
            raise ValueError("give states or input_ids, not both: states are what was read of input_ids before")
        else:
            self._check_keywords(inputs)
        self._check_states(states)
        adapters = {name: states[f"adapters.{name}"] for name in self.active_adapters()}
        return self.kadapter.fusion(states["backbone"], adapters)

    def _check_states(self, states: dict[str, Tensor]) -> None:
        expected = ["backbone", *(f"adapters.{name}" for name in self.active_adapters())]
        if set(states) != set(expected):
            raise ValueError(
                f"states hold {sorted(states)}, and this model reads {sorted(expected)}; read them again with its read"
            )
        shape = (*states["backbone"].shape[:2], self.kadapter.backbone.config.hidden_size)
        for key, one in states.items():
            if one.shape != shape:
                raise ValueError(
                    f"states[{key!r}] has shape {tuple(one.shape)} and must have (batch, n, hidden), {shape}; read it "
                    "again with this model's read"
                )


class KAdapterForSequenceClassification(KAdapterHeadModel):
    """Class of a whole text, several classes, or one or more numbers, read off its first token."""

    _auto_classes = ("AutoModelForSequenceClassification",)
    problem_types = ("single_label_classification", "multi_label_classification", "regression")

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head for one position."""
        return EntityHead(config, mentions=1)

    def _positions_read(self, given: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> Tensor:
        return first_tokens(attention_mask, given)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple:
        """Return logits (batch, labels) and, given `labels`, the mean loss for `config.problem_type`.

        That is the cross-entropy for classes (batch,), the binary cross-entropy for several labels of a text (batch,
        labels), or the squared error for numbers, (batch,) or (batch, labels). Where it is None the first labels
        decide, as in transformers, and it is stored.

        Raises:
            TypeError: a keyword is unknown.
            ValueError: labels are none of such a problem, or inputs and states are missing.
        """
        logits = self.head(self.fuse(states, input_ids=input_ids, attention_mask=attention_mask, **kwargs))
        output = SequenceClassifierOutput(sequence_loss(self.config, logits, labels, num_items_in_batch), logits)
        return output.to_tuple() if return_dict is False else output


class KAdapterEntityModel(KAdapterHeadModel):
    """What the heads on marked mentions share."""

    mentions = 1
    _own_inputs = ("entity_positions",)
    _loss = staticmethod(cross_entropy)

    @classmethod
    def build_head(cls, config: KAdapterConfig) -> nn.Module:
        """Return a new head for the mentions."""
        return EntityHead(config, cls.mentions)

    def _positions_read(self, given: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> Tensor:
        return check_positions(inputs.pop("entity_positions", None), self.mentions)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        entity_positions: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple:
        """Return logits (batch, labels) and, given `labels`, the loss.

        `entity_positions` (batch, mentions): tokens of the opening markers, as `encode_entities` gives.

        Raises:
            ValueError: `entity_positions` are missing, too few or too many, or out of range; labels of another shape.
        """
        kwargs.update(input_ids=input_ids, attention_mask=attention_mask, entity_positions=entity_positions)
        logits = self.head(self.fuse(states, **kwargs))
        output = SequenceClassifierOutput(self._loss(logits, labels, num_items_in_batch), logits)
        return output.to_tuple() if return_dict is False else output


class KAdapterForEntityClassification(KAdapterEntityModel):
    """Types of one marked mention, any number of them (the official heads of Open Entity and FIGER).

    Labels are (batch, labels), 1 for each type that the mention has; the loss is the mean binary cross-entropy.
    """

    _auto_classes = ("AutoModelForSequenceClassification",)
    _loss = staticmethod(multi_label_loss)
    problem_types = ("multi_label_classification",)
    markers = (" @",)  # with the sign for a space before it, unlike the bare one of relations: so the official scripts

    def __init__(self, config: KAdapterConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config, backbone)
        config.problem_type = "multi_label_classification"


class KAdapterForEntityPairClassification(KAdapterEntityModel):
    """Relation of a pair of marked mentions: the factual objective, and TACRED's head (fac-adapter.py).

    Mentions are head and tail, labels (batch,); the loss is the mean cross-entropy.
    """

    _auto_classes = ("AutoModelForSequenceClassification",)
    mentions = 2


class KAdapterForMultipleChoice(KAdapterHeadModel):
    """The right one of several choices, each a text of its own, by its first token (the official head of CosmosQA)."""

    _auto_classes = ("AutoModelForMultipleChoice",)
    encode_choices = staticmethod(encode_choices)

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head with one score."""
        return TokenHead(config, outputs=1)

    def read(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return all that fusion and head read, (batch, choices, hidden) each; see `KAdapterHeadModel.read`."""
        given, rows = as_rows({"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}, "choices")
        return {key: one.view(len(given), -1, one.shape[-1]) for key, one in super().read(**rows).items()}

    def _positions_read(self, given: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> Tensor:
        return first_tokens(attention_mask, given)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> MultipleChoiceModelOutput | tuple:
        """Return logits (batch, choices) and, given `labels` (batch,), the mean cross-entropy.

        Shapes: `input_ids`, `attention_mask`, `position_ids` (batch, choices, sequence).

        Raises:
            ValueError: an input has another shape or number of choices, or a label is none of them.
        """
        features = self.fuse(states, input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        logits = self.head(features).squeeze(-1)  # (B, choices)
        output = MultipleChoiceModelOutput(cross_entropy(logits, labels, num_items_in_batch), logits)
        return output.to_tuple() if return_dict is False else output


class KAdapterForTokenClassification(KAdapterHeadModel):
    """Class of each token."""

    _auto_classes = ("AutoModelForTokenClassification",)

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head for each token."""
        return TokenHead(config, config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput | tuple:
        """Return logits (batch, sequence, labels) and the mean cross-entropy over `labels` that are not -100.

        Raises:
            ValueError: a label is no class, or inputs and states are missing.
        """
        logits = self.head(self.fuse(states, input_ids=input_ids, attention_mask=attention_mask, **kwargs))
        output = TokenClassifierOutput(cross_entropy(logits, labels, num_items_in_batch), logits)
        return output.to_tuple() if return_dict is False else output


class KAdapterForQuestionAnswering(KAdapterHeadModel):
    """The answer to a question as a span of one of its passages, each a text of its own with the question.

    The setting of SearchQA and Quasar-T in K-Adapter, section 4.2, whose code is not released: a Linear for start and
    end, a softmax over the tokens of all passages, every occurrence of an answer taken for right.
    """

    _auto_classes = ("AutoModelForQuestionAnswering",)
    encode_passages = staticmethod(encode_passages)
    best_spans = staticmethod(best_spans)

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head for start and end."""
        return TokenHead(config, outputs=2)

    def read(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return all that fusion and head read, (batch, passages * sequence, hidden); see `KAdapterHeadModel.read`."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}
        if input_ids is None or input_ids.dim() == 2:
            return super().read(**inputs)
        given, rows = as_rows(inputs, "passages")
        return {key: one.view(len(given), -1, one.shape[-1]) for key, one in super().read(**rows).items()}

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        answer_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        answer_spans: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput | tuple:
        """Return start and end logits, shaped as `input_ids`, and the loss, given positions or spans.

        Shapes: `input_ids`, `attention_mask` and `answer_mask` (True for tokens that may be part of an answer) (batch,
        sequence) or (batch, passages, sequence); `start_positions` and `end_positions` (batch,) of a single passage,
        or `answer_spans` (batch, answers, 3) = (passage, start, end), all occurrences, padded with -1. The loss is
        minus the log of the summed probability of all occurrences, meaned over start and end and over the questions
        that have one. Where there is no mask beside `states`, they are taken for a single passage's.

        Raises:
            ValueError: an input has another shape, or a span lies outside of the answer mask.
        """
        features = self.fuse(states, input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        mask = token_mask(features, input_ids, attention_mask, answer_mask)  # (B, S) or (B, P, S)
        scores = self.head(features).float().unbind(dim=-1)
        start, end = (mask_scores(one.view(mask.shape), mask) for one in scores)
        spans = spans_of(start_positions, end_positions, answer_spans)
        loss = spans_loss(start, end, spans, num_items_in_batch)
        output = QuestionAnsweringModelOutput(loss, start, end)
        return output.to_tuple() if return_dict is False else output


class KAdapterForDependencyParsing(KAdapterHeadModel):
    """Head of each word among the words of its sentence: the linguistic objective."""

    _auto_classes = ("AutoModelForTokenClassification",)
    _own_inputs = ("word_positions",)
    encode_words = staticmethod(encode_words)

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new arc scorer, or the official positional head if the configuration says so."""
        return ArcHead(config) if config.dependency_head == "arc" else PositionHead(config)

    def _positions_read(self, given: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> Tensor | None:
        word_positions = inputs.pop("word_positions", None)
        return None if self.config.dependency_head == "official" else check_words(word_positions)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        word_positions: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
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
        kwargs.update(input_ids=input_ids, attention_mask=attention_mask, word_positions=word_positions)
        features = self.fuse(states, **kwargs)
        if self.config.dependency_head == "official":
            logits = self.head(features, attention_mask)
            if labels is not None and attention_mask is not None:
                labels = labels.masked_fill(attention_mask == 0, -100)
        else:
            logits = self.head(features, check_words(word_positions) >= 0)
        output = TokenClassifierOutput(cross_entropy(logits, labels, num_items_in_batch), logits)
        return output.to_tuple() if return_dict is False else output


def _register() -> None:
    """Let the Auto classes answer for K-Adapter models.

    Of several heads they take the one that a checkpoint names, and where it names none the first: the general one.
    """
    AutoConfig.register(KAdapterConfig.model_type, KAdapterConfig, exist_ok=True)
    AutoModel.register(KAdapterConfig, KAdapterModel, exist_ok=True)
    heads = [globals()[name] for name in __all__ if name.startswith("KAdapterFor")]
    for task in TASKS:
        name, general = f"AutoModelFor{task}", globals()[f"KAdapterFor{task}"]
        others = [head for head in heads if name in head._auto_classes and head is not general]
        getattr(transformers, name).register(KAdapterConfig, (general, *others), exist_ok=True)


if __name__ == "kadapter.modeling_kadapter":  # installed: as remote code it must not stand in for another repository's
    _register()
