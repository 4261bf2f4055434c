"""Language models: LM heads on the fused features, the backbone's own or new ones, for masks and for generation.

Dimensions: B batch, S sequence, n positions whose logits are asked for, H backbone width.
"""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationMixin, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast, MaskedLMOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import ModelOutput
from transformers.utils.hub import extract_commit_hash

from .artifacts_kadapter import (
    MASKED_LM,
    Artifact,
    check_same_backbone,
    copy_strictly,
    lm_head_hash,
    read_own,
    tensors_under,
)
from .backbone_kadapter import (
    READING,
    BackboneHead,
    brought_back,
    device_of,
    head_of,
    making_models_in_turn,
    of_beams,
)
from .configuration_kadapter import LM_HEADS, WITHOUT_WEIGHTS, KAdapterConfig, refuse_keywords
from .heads_kadapter import IGNORED, KAdapterHeadModel, check_classes, naming_inputs, register_heads
from .modeling_kadapter import can_be_looked_at, check_cache, tokens_in
from .rows_kadapter import RowAdapters

__all__ = ["KAdapterForCausalLM", "KAdapterForMaskedLM", "LinearLMHead", "TransformLMHead"]

# ---- new LM heads ---------------------------------------------------------------------------------------------------


class LinearLMHead(nn.Module):
    """The paper's new LM head: a Linear from the fused features to the vocabulary (K-Adapter, appendix D)."""

    def __init__(self, config: KAdapterConfig) -> None:
        super().__init__()
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, features: Tensor, embeddings: nn.Module) -> Tensor:
        """Map (batch, n, hidden) to logits (batch, n, vocabulary)."""
        return self.decoder(features.to(self.decoder.weight.dtype))

    def output_embeddings(self, embeddings: nn.Module) -> nn.Module:
        """Return the Linear onto the vocabulary."""
        return self.decoder


class TransformLMHead(nn.Module):
    """A new LM head as BERT has it: dense, activation, layer norm, and the backbone's input embeddings with a bias.

    The embeddings are the backbone's, frozen, and no part of this module: nothing is saved of them.
    """

    def __init__(self, config: KAdapterConfig) -> None:
        super().__init__()
        backbone = config.typed_backbone_config()
        width = getattr(backbone, "embedding_size", None) or config.hidden_size
        self.dense = nn.Linear(config.hidden_size, width)
        self.activation = ACT2FN["gelu"]
        self.layer_norm = nn.LayerNorm(width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, features: Tensor, embeddings: nn.Module) -> Tensor:
        """Map (batch, n, hidden) to logits (batch, n, vocabulary)."""
        states = self.layer_norm(self.activation(self.dense(features.to(self.dense.weight.dtype))))
        weight: Any = brought_back(embeddings, "weight", embeddings.weight)
        return F.linear(states.to(weight), weight).to(self.bias.device) + self.bias

    def output_embeddings(self, embeddings: nn.Module) -> nn.Module:
        """Return a Linear onto the vocabulary with the weight of the embeddings and the bias of this head."""
        weight: Any = embeddings.weight
        decoder = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
        decoder.weight, decoder.bias = weight, self.bias
        return decoder


# ---- an LM head that several adapters share -------------------------------------------------------------------------


def read_lm_head(where: str | os.PathLike, config: KAdapterConfig, **reading: Any) -> Artifact:
    """Read the artifact of a trained LM head for the backbone of `config`; what it tells of itself is its config.

    Raises:
        OSError: there is no such artifact.
        ValueError: it holds no LM head, or that of another vocabulary or backbone, or is damaged.
    """
    artifact = read_own(os.path.expanduser(where), **reading)
    artifact.check()
    held = tensors_under("head.", artifact.tensors)
    kind = artifact.config.get("lm_head")
    if kind not in LM_HEADS[1:] or artifact.head != MASKED_LM or not held:
        holds = "refers to that of another artifact" if kind in LM_HEADS[1:] else f"holds a {artifact.head or 'model'}"
        raise ValueError(
            f"{artifact.where} holds no LM head of its own ({holds}, lm_head={kind!r}); name an artifact that was "
            f"trained with lm_head={' or '.join(map(repr, LM_HEADS[1:]))}"
        )
    sizes = [(fields.get("backbone_config") or {}).get("vocab_size") for fields in (config.to_dict(), artifact.config)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"the LM head of {artifact.where} has a vocabulary of {sizes[1]} tokens, and this backbone one of "
            f"{sizes[0]}; use an LM head that was trained on this backbone"
        )
    check_same_backbone(config.to_dict(), artifact)
    folder = os.path.isdir(artifact.where)
    artifact.config["lm_head_source"] = {
        "name_or_path": os.path.abspath(artifact.where) if folder else artifact.where,
        "revision": None if folder else extract_commit_hash(next(iter(artifact.files)), None),
        "subfolder": reading.get("subfolder") or "",
        "hash": lm_head_hash(kind, held),
    }
    return artifact


def with_lm_head(artifact: Artifact, config: KAdapterConfig, reading: dict[str, Any]) -> Artifact:
    """Return a masked-LM model's artifact with the tensors of the LM head that `config` asks for, and note its source.

    That is the head in the artifact, the one to which it refers, or a trained one that is named by id or path. The
    backbone's own needs no tensors, and for a new one the artifact is left without any.

    Raises:
        OSError: the LM head can't be read.
        ValueError: it is of another vocabulary or backbone, or has changed.
    """
    written, asked = artifact.config, config.lm_head or LM_HEADS[0]
    stored = (written.get("lm_head") or LM_HEADS[0]) if artifact.head == MASKED_LM else None
    source = written.get("lm_head_source") or {} if asked == stored else {}
    own = {key: value for key, value in reading.items() if key not in ("revision", "subfolder")}
    if asked in LM_HEADS and not source:
        config.lm_head, config.lm_head_source = asked, None
        return artifact if asked == stored else _without_lm_head(artifact)
    if asked in LM_HEADS:
        shared = _referred_lm_head(source, artifact.where, config, own)
    elif os.path.isdir(os.path.expanduser(asked)) or "/" in asked:
        shared = read_lm_head(asked, config, **own)
    else:
        raise ValueError(
            f"lm_head={asked!r} is none of {list(LM_HEADS)}, and no directory or id ORG/NAME of a trained LM head; "
            "choose one of these"
        )
    config.lm_head, config.lm_head_source = shared.config["lm_head"], shared.config["lm_head_source"]
    tensors = {**_without_lm_head(artifact).tensors}
    tensors.update({key: tensor for key, tensor in shared.tensors.items() if key.startswith("head.")})
    changed = {"architectures": [MASKED_LM], "lm_head": config.lm_head}
    return replace(artifact, config={**written, **changed}, tensors=tensors, files={**artifact.files, **shared.files})


def _without_lm_head(artifact: Artifact) -> Artifact:
    if artifact.head != MASKED_LM:
        return artifact
    tensors = {key: tensor for key, tensor in artifact.tensors.items() if not key.startswith("head.")}
    return replace(artifact, config={**artifact.config, "architectures": ["KAdapterModel"]}, tensors=tensors)


def _referred_lm_head(source: dict[str, Any], where: str, config: KAdapterConfig, reading: dict[str, Any]) -> Artifact:
    reading = {**reading, **{key: source[key] for key in ("revision", "subfolder") if source.get(key)}}
    location = f"{source['name_or_path']!r}" + (f" (revision {source['revision']})" if source.get("revision") else "")
    try:
        shared = read_lm_head(source["name_or_path"], config, **reading)
    except OSError as error:
        raise OSError(
            f"the LM head that {where} was trained with can't be read from {location}: {error}. Put it back there, or "
            "name another place by lm_head=ID_OR_PATH"
        ) from error
    actual = shared.config["lm_head_source"]["hash"]
    if actual != source["hash"]:
        raise ValueError(
            f"the LM head has changed since {where} was trained with it: {location} holds {actual[:12]}, not "
            f"{source['hash'][:12]}; put the old one back, or name the one to use by lm_head=ID_OR_PATH"
        )
    shared.config["lm_head_source"] = source
    return shared


# ---- head models ----------------------------------------------------------------------------------------------------


FIXED_VOCABULARY = (
    "an LM head is made for its vocabulary, so the embeddings of a language model can't be exchanged or resized; "
    "resize the backbone's own language model, save it, and build on that"
)


class KAdapterLanguageModel(KAdapterHeadModel):
    """Base class of models with an LM head, which may be the backbone's own: that is frozen, and never saved."""

    def __init__(
        self, config: KAdapterConfig, backbone: PreTrainedModel | None = None, head: nn.Module | None = None
    ) -> None:
        lm_task = self._lm_task(config.lm_head)
        if head is None and lm_task is not None:
            head, backbone = head_of(config, backbone, lm_task)
        super().__init__(config, backbone, head)
        self.register_state_dict_post_hook(_drop_backbone_head)
        self.register_load_state_dict_post_hook(_forgive_backbone_head)

    def _own_modules(self) -> Iterator[tuple[str, nn.Module]]:
        backbones = isinstance(self.head, BackboneHead) and not self.config.backbone_modified
        yield from ((name, module) for name, module in super()._own_modules() if name != "head" or not backbones)

    def _write(self, path: Any, config: KAdapterConfig, tensors: dict[str, Tensor], *args: Any) -> None:
        if any(key.startswith("head.") for key in tensors):
            self._check_vocabulary()
        super()._write(path, config, tensors, *args)

    def _check_vocabulary(self) -> None:
        """Raise ValueError where embeddings were resized beneath an LM head, which could not be loaded again."""
        decoder: Any = self.get_output_embeddings()
        for tensor in (getattr(decoder, name, None) for name in ("weight", "bias")):
            if tensor is not None and len(tensor) != self.config.vocab_size:
                raise ValueError(
                    f"the LM head has {len(tensor)} tokens, and the embeddings beneath it {self.config.vocab_size}: "
                    f"{FIXED_VOCABULARY}"
                )

    def renew_head(self) -> None:
        """Put a new LM head in the place of this one, unless it is the backbone's own."""
        if not isinstance(self.head, BackboneHead):
            super().renew_head()

    def train_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Train these adapters and nothing else, unless the LM head is new; also makes these adapters active."""
        super().train_adapter(adapter_names)
        if isinstance(self.head, BackboneHead):
            self.head.requires_grad_(False)

    def logits(self, features: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Return a score for each token of the vocabulary."""
        return self.head(features, self.get_input_embeddings())

    # ---- what reads and writes tokens ------------------------------------------------------------------------------

    def get_output_embeddings(self) -> nn.Module:
        """Return the LM head's Linear onto the vocabulary, whose weight may be that of the input embeddings."""
        return self.head.output_embeddings(self.get_input_embeddings())

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        """Refuse: an LM head is made for its vocabulary."""
        raise ValueError(FIXED_VOCABULARY)

    def set_input_embeddings(self, value: Any) -> None:
        """Refuse: an LM head is made for its vocabulary."""
        raise ValueError(FIXED_VOCABULARY)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Refuse: an LM head is made for its vocabulary."""
        raise ValueError(FIXED_VOCABULARY)


def _drop_backbone_head(module: Any, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Take the LM head of a frozen backbone out of a state dict, as a hook after it was made."""
    if isinstance(module.head, BackboneHead) and not module.config.backbone_modified:
        for key in [key for key in state_dict if key.startswith(f"{prefix}head.")]:
            del state_dict[key]


def _forgive_backbone_head(module: Any, incompatible: Any) -> None:
    """Miss no tensors of the LM head of a frozen backbone, as a hook after a state dict was loaded."""
    if isinstance(module.head, BackboneHead) and not module.config.backbone_modified:
        names = tuple(f"head.{key}" for key in module.head.state_dict())
        incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if not key.endswith(names)]


class KAdapterForMaskedLM(KAdapterLanguageModel):
    """The token at each masked position: what a model knows, read off its fused features by an LM head.

    The LM head is `config.lm_head`: "backbone", the backbone's own, frozen and never saved; "transform" or "linear", a
    new one, which is an artifact of its own where the model has no adapters. Adapters share a trained one by
    `lm_head=ID_OR_PATH`, and what is saved then refers to it. Logits are (batch, sequence, vocabulary), or (batch, n,
    vocabulary) at `positions` (batch, n); labels go with them, and the loss is the mean cross-entropy over those that
    are not -100.
    """

    _auto_classes = ("AutoModelForMaskedLM",)
    _own_inputs = ("positions",)
    _own_fields = ("lm_head",)
    output_class = MaskedLMOutput

    def __init__(
        self, config: KAdapterConfig, backbone: PreTrainedModel | None = None, head: nn.Module | None = None
    ) -> None:
        config.lm_head = config.lm_head or LM_HEADS[0]
        super().__init__(config, backbone, head)

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new LM head; that of a backbone is untrained."""
        if config.lm_head in (None, LM_HEADS[0]):
            return head_of(config, None, "MaskedLM")[0]
        return {"transform": TransformLMHead, "linear": LinearLMHead}[config.lm_head](config)

    @classmethod
    @making_models_in_turn
    def from_backbone(cls, backbone: str | PreTrainedModel, lm_head: str | None = None, **kwargs: Any) -> Any:
        """Return a model without adapters on a backbone, as the other models' `from_backbone`, and its LM head.

        `lm_head` is "backbone", which is the default, "transform" or "linear", or the id or path of a trained one.

        Raises:
            ValueError: the backbone's checkpoint has no LM head, or the trained one is of another backbone.
        """
        named = lm_head is not None and lm_head not in LM_HEADS
        model = super().from_backbone(backbone, lm_head=LM_HEADS[1] if named else lm_head, **kwargs)
        if named:
            model.load_lm_head(lm_head)
        return model

    @classmethod
    def _lm_task(cls, lm_head: str | None) -> str | None:
        return "MaskedLM" if lm_head in (None, LM_HEADS[0]) else None

    @classmethod
    def _read_head(cls, artifact: Artifact, config: KAdapterConfig, reading: dict[str, Any]) -> Artifact:
        return with_lm_head(artifact, config, reading)

    def _load_strictly(self, artifact: Artifact, ignore_mismatched_sizes: bool = False) -> tuple[set[str], set[tuple]]:
        new = super()._load_strictly(artifact, ignore_mismatched_sizes)
        if self.config.lm_head_source:
            self.head.requires_grad_(False)
        return new

    def renew_head(self) -> None:
        """Put a new LM head in the place of this one, unless it is the backbone's own or a trained one."""
        if not self.config.lm_head_source:
            super().renew_head()

    @making_models_in_turn
    def load_lm_head(self, id_or_path: str, **kwargs: Any) -> None:
        """Load a trained LM head, frozen, in place of this one; what is saved refers to it while it is unchanged.

        `revision`, `subfolder`, `token` and `cache_dir` mean its repository.

        Raises:
            OSError: there is no such artifact.
            TypeError: a keyword is unknown.
            ValueError: it holds no LM head, or that of another vocabulary or backbone, or is damaged.
        """
        refuse_keywords(kwargs, READING, "load_lm_head")
        shared = read_lm_head(id_or_path, self.config, **kwargs)
        config = copy.copy(self.config)
        config.lm_head = shared.config["lm_head"]
        with torch.device("meta"):
            head = self.build_head(config)
        copy_strictly(head, tensors_under("head.", shared.tensors), shared.where, "head.")
        self.head = head.to(device_of(self.kadapter.backbone)).requires_grad_(False).train(self.training)
        self.config.lm_head, self.config.lm_head_source = config.lm_head, shared.config["lm_head_source"]

    def train_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Train these adapters, the fusion and a new LM head, and nothing else; also makes these adapters active.

        The backbone's own LM head and one that was loaded stay frozen; `head.requires_grad_(True)` trains the latter.
        """
        super().train_adapter(adapter_names)
        if self.config.lm_head_source:
            self.head.requires_grad_(False)

    @naming_inputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> ModelOutput | tuple:
        """Return logits for each token, or at `positions` alone, and, given `labels`, the loss.

        Logits for a whole vocabulary are most of the cost, so training gives the `positions` (batch, n) of its masks,
        -1 where there are fewer, with labels (batch, n) that are -100 there.

        Raises:
            ValueError: `positions` are of another shape or out of range, or a label is no token.
        """
        arguments = (attention_mask, labels, num_items_in_batch, return_dict, states)
        return super().forward(input_ids, *arguments, positions=positions, **kwargs)

    def _positions_read(self, tokens: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> Tensor | None:
        positions = inputs.pop("positions", None)
        if positions is not None and (positions.dim() != 2 or len(positions) != len(tokens)):
            raise ValueError(
                f"positions have shape {tuple(positions.shape)} and must have (batch, n), here ({len(tokens)}, n): "
                "the tokens whose logits are asked for, -1 where there are fewer"
            )
        return positions

    def release_backbone(self) -> None:
        """Let the frozen backbone's weights leave memory, unless the LM head multiplies by its embeddings.

        Raises:
            ValueError: it does, or the backbone trains or was changed.
        """
        if not isinstance(self.head, LinearLMHead):
            raise ValueError(f"the LM head {self.config.lm_head!r} multiplies by the backbone's embeddings; keep it")
        super().release_backbone()


class KAdapterForCausalLM(KAdapterLanguageModel, GenerationMixin):
    """The next token of a text, by the LM head of a frozen decoder: what it knows, with what its adapters add.

    Logits are the LM head's for the state after the backbone's last norm plus the contributions, scaled and capped as
    the backbone does. They are (batch, sequence, vocabulary), or (batch, n, vocabulary) for `logits_to_keep`.
    `labels` (batch, sequence) are the input ids, -100 where they do not count; each token is compared with the label
    after it. Without adapters, or with new ones of kind "prenorm", all is the backbone's own, to the bit. `generate`
    keeps what adapters attend to in the backbone's cache, behind its layers.
    """

    _auto_classes = ("AutoModelForCausalLM",)
    _own_inputs = ("logits_to_keep", "past_key_values")
    output_class = CausalLMOutputWithPast

    def __init__(
        self, config: KAdapterConfig, backbone: PreTrainedModel | None = None, head: nn.Module | None = None
    ) -> None:
        if config.fusion not in WITHOUT_WEIGHTS:
            raise ValueError(
                f"fusion={config.fusion!r} changes what a language model says without adapters; choose one of "
                f"{list(WITHOUT_WEIGHTS)}"
            )
        super().__init__(config, backbone, head)
        if not self.kadapter.causal:
            raise ValueError(
                f"the backbone ({self.kadapter.backbone.config.model_type}) looks both ways, so it does not tell the "
                "next token; use a decoder, or KAdapterForMaskedLM"
            )
        language_model = self.head.backbone
        self.generation_config = copy.deepcopy(language_model.generation_config)  # which knows where texts end
        self._is_stateful = language_model._is_stateful  # whether its cache can't go back, as candidates need
        reads = inspect.signature(type(self.kadapter.backbone).forward).parameters
        self._caches = "past_key_values" in reads and language_model._supports_default_dynamic_cache()
        if not self._caches:
            self.generation_config.use_cache = False

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return the LM head of an untrained backbone."""
        return head_of(config, None, "CausalLM")[0]

    @classmethod
    def _lm_task(cls, lm_head: str | None) -> str | None:
        return "CausalLM"

    @naming_inputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
        adapter_names: Any = None,
        **kwargs: Any,
    ) -> ModelOutput | tuple:
        """Return logits, the cache, and, given `labels`, the mean cross-entropy of each token's successor.

        `logits_to_keep` are the last so many tokens (0 for all), or positions (n,) or (batch, n), -1 where there are
        fewer; labels are of the whole sequence whatever they are. `past_key_values` hold earlier tokens, which the
        mask begins with; without it a cache is made as the backbone's configuration says, but not in training or
        where there are labels or states. `states`, what `read` returned, stand in for a run of backbone and adapters.
        `adapter_names` names the adapters of each row of a mixed batch, as `KAdapterModel.forward` says.

        Raises:
            TypeError: a keyword is unknown, or `past_key_values` are no cache.
            ValueError: an adapter looks ahead, the cache does not go with the adapters or the batch, or an input has
                another shape.
        """
        embeds = inputs_embeds if states is None else states.get("backbone")
        rows = self.kadapter.row_adapters(adapter_names, input_ids, embeds, kwargs.get("hidden_states"))
        self._check_looks_back(rows)
        reads = states is None and kwargs.get("hidden_states") is None
        if not reads and past_key_values is not None:
            raise ValueError("states were read of whole texts, so there is no cache to go on from; leave it out")
        if use_cache is None:
            wanted = self._caches and getattr(self._own_config(), "use_cache", False)
            use_cache = wanted and not self.training and labels is None
        if past_key_values is None and use_cache and reads:
            past_key_values = DynamicCache(config=self._own_config())
        self._check_keeps(use_cache, past_key_values)
        check_rows(past_key_values, embeds if input_ids is None else input_ids)
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs.update(position_ids=position_ids, inputs_embeds=inputs_embeds, logits_to_keep=logits_to_keep)
        inputs.update(kwargs, past_key_values=past_key_values, adapter_names=rows)
        logits = self.logits(self.fuse(states, **inputs), inputs)
        loss = None if labels is None else self.loss(logits, labels, num_items_in_batch, inputs)
        output = self.output_class(loss, logits, past_key_values)
        return output.to_tuple() if return_dict is False else output

    def _own_config(self) -> Any:
        return self.kadapter.backbone.config

    def _check_keeps(self, use_cache: bool | None, past_key_values: Cache | None) -> None:
        """Raise ValueError where a cache is asked for, and the backbone keeps one of its own kind or none."""
        if not self._caches and (use_cache or past_key_values is not None):
            raise ValueError(
                f"{type(self.kadapter.backbone).__name__} keeps no cache in which adapters could keep theirs; leave "
                "out use_cache and past_key_values"
            )

    def _check_looks_back(self, row_adapters: RowAdapters | None) -> None:
        """Refuse adapters in use whose tokens see those after them, which they would only have to repeat."""
        adapters = self.kadapter.adapters
        for name in adapters.fused_in(row_adapters):
            if adapters[name].looks_ahead:
                raise ValueError(
                    f"adapter {name!r} looks ahead (causal=False), so it can't tell the next token; use it under a "
                    "head for classification, or switch it off by set_adapter"
                )

    def _positions_read(self, tokens: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> Tensor | None:
        return kept_positions(inputs.pop("logits_to_keep", 0), tokens)

    def loss(self, logits: Tensor, labels: Tensor, num_items: Tensor | int | None, inputs: dict[str, Any]) -> Tensor:
        """Return the loss of transformers for causal language models, on the tokens whose logits there are.

        Raises:
            ValueError: the labels are of another shape than the inputs, or one is no token.
        """
        tokens = next(
            (given for given in map(inputs.get, ("input_ids", "inputs_embeds")) if given is not None), labels
        )
        following = F.pad(labels, (0, 1), value=IGNORED)[..., 1:]
        fits = labels.dim() == 2 and labels.shape == tokens.shape[:2]
        positions = kept_positions(inputs["logits_to_keep"], labels) if fits else None
        if positions is not None:
            positions = positions.to(labels.device)
            following = following.gather(1, positions.clamp(min=0)).masked_fill(positions < 0, IGNORED)
        if not fits or following.shape != logits.shape[:-1]:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)} and must have (batch, sequence) of the inputs, of which "
                f"there are logits {tuple(logits.shape)}; give the input ids, -100 where they do not count"
            )
        check_classes(following, logits.shape[-1])
        return self.loss_function(
            logits=logits,
            labels=labels,
            vocab_size=logits.shape[-1],
            num_items_in_batch=num_items,
            shift_labels=following.contiguous(),
        )

    def generate(self, inputs: Tensor | None = None, *args: Any, adapter_names: Any = None, **kwargs: Any) -> Any:
        """Go on from texts as transformers does, each through the adapters that `adapter_names` has for it.

        Beams and several answers of a text share its adapters.

        Raises:
            ValueError: `adapter_names` don't go with the texts, the adapters or another way to generate, the backbone
                keeps no cache, or it is to exit early.
        """
        self._check_keeps(kwargs.get("use_cache"), kwargs.get("past_key_values"))
        self._check_ways(kwargs, adapter_names is not None)
        if adapter_names is not None:
            texts = [text for text in (inputs, *map(kwargs.get, ("input_ids", "inputs_embeds"))) if text is not None]
            kwargs["adapter_names"] = self.kadapter.row_adapters(adapter_names, next(iter(texts), None))
        return super().generate(inputs, *args, **kwargs)

    def _check_ways(self, keywords: dict[str, Any], mixed: bool) -> None:
        """Raise ValueError for ways to generate that read no adapters, or in a `mixed` batch not those of each row."""
        options = keywords.get("generation_config") or self.generation_config
        early = keywords.get("assistant_early_exit", options.assistant_early_exit)
        if early is not None:
            raise ValueError(
                f"assistant_early_exit={early} takes blocks away for a draft, and a frozen backbone keeps all of its "
                "own; give prompt_lookup_num_tokens, or a smaller assistant_model"
            )
        if mixed and keywords.get("guidance_scale", options.guidance_scale) not in (None, 1):
            raise ValueError(
                "guidance_scale compares each text with another, which transformers reads without adapter_names; "
                "choose the adapters of all rows by set_adapter"
            )
        if mixed and keywords.get("assistant_model") is not None:
            raise ValueError(
                "assistant_model drafts a single text, and would be asked to read adapter_names too; choose the "
                "adapters of the text by set_adapter"
            )

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse, and `generate_batch` with it: the cache of continuous batching holds nothing of adapters.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "continuous batching, as of generate_batch, keeps no keys and values of adapters; call generate with a "
            "batch that is padded on the left"
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: Any,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        adapter_names: Any = None,
        knowledge_slots: Any = None,
        knowledge_embeds: Any = None,
        next_sequence_length: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the inputs of one step of `generate`; see transformers. A map's entities are those of the prompt.

        Raises:
            ValueError: the cache is of a fixed size, or holds as many tokens as the text or more.
        """
        if past_key_values is not None:
            check_cache(past_key_values)
        if next_sequence_length is not None and next_sequence_length < 1:
            past = tokens_in(past_key_values)
            raise ValueError(
                f"the cache holds {past} tokens and the text has {past + next_sequence_length}; give the whole text, "
                "that in the cache and what comes after it, or a new cache"
            )
        kwargs.update(inputs_embeds=inputs_embeds, next_sequence_length=next_sequence_length)
        if isinstance(adapter_names, RowAdapters):  # of the texts, before they became beams
            kwargs["adapter_names"] = adapter_names.repeated(len(input_ids) // len(adapter_names.names))
        if not tokens_in(past_key_values):  # else the cache holds the prompt, which was read with its entities
            both = {"knowledge_slots": knowledge_slots, "knowledge_embeds": knowledge_embeds}
            kwargs.update({key: of_beams(own, len(input_ids)) for key, own in both.items()})
        return super().prepare_inputs_for_generation(input_ids, past_key_values=past_key_values, **kwargs)


def check_rows(past_key_values: Cache | None, tokens: Tensor | None) -> None:
    """Raise ValueError where a cache holds the texts of another batch than these tokens (batch, sequence, ...)."""
    if past_key_values is not None and tokens_in(past_key_values) and tokens is not None:
        held = (getattr(layer, "keys", None) for layer in past_key_values.layers)
        keys = next((keys for keys in held if keys is not None and keys.numel()), tokens)  # of 8 bits: none at hand
        if len(keys) != len(tokens):
            raise ValueError(
                f"the cache holds {len(keys)} texts, and the batch has {len(tokens)}; give those that filled it, or "
                "a new cache"
            )


def kept_positions(logits_to_keep: int | Tensor, tokens: Tensor) -> Tensor | None:
    """Return the positions (batch, n) of the tokens (batch, sequence, ...) whose logits are asked for; None for all.

    Raises:
        ValueError: they are a mask, of another shape, or outside the tokens.
    """
    batch, length = tokens.shape[:2]
    if isinstance(logits_to_keep, int) and logits_to_keep >= 0:
        last = torch.arange(max(0, length - logits_to_keep), length, device=tokens.device)
        return last.expand(batch, -1) if logits_to_keep else None
    positions = torch.as_tensor(logits_to_keep)
    if positions.dtype not in (torch.long, torch.int) or positions.dim() not in (1, 2):
        raise ValueError(
            f"logits_to_keep has shape {tuple(positions.shape)} and dtype {positions.dtype}; give a number of last "
            "tokens, at least 0, or positions, (n,) or (batch, n)"
        )
    if positions.dim() == 2:
        return positions
    if (
        can_be_looked_at(positions)
        and len(positions)
        and not -length <= int(positions.min()) <= int(positions.max()) < length
    ):
        raise ValueError(
            f"logits_to_keep has positions from {int(positions.min())} to {int(positions.max())}, and there are "
            f"{length} tokens; give those of tokens, from the end if they are negative"
        )
    return (positions % length).expand(batch, -1)


# the classes of which Trainer shifts the labels that it smooths: others would learn to repeat each token
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[KAdapterConfig.model_type] = KAdapterForCausalLM.__name__

if __name__ == "kadapter.language_modeling_kadapter":  # installed: as remote code it stands in for no repository's
    register_heads(globals())
