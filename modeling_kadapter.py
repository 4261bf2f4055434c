"""K-Adapter: knowledge adapters beside a frozen encoder (Wang et al., Findings of ACL 2021, arXiv 2002.01808).

From top to bottom in the order of the paper: one adapter layer, the adapter, fusion, the model, its heads; then how an
artifact is written and read. Dimensions: B batch, S sequence, H backbone width, D adapter width, M mentions, W words.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput
from transformers.utils import ModelOutput, logging

from .artifacts_kadapter import (
    READING,
    Artifact,
    check_same_backbone,
    copy_strictly,
    merge,
    read_artifact,
    read_parts,
    resolve_backbone,
    upload,
    without_pooler,
    write_artifact,
)
from .configuration_kadapter import KAdapterConfig, KnowledgeAdapterConfig, check_adapter_name

__all__ = [
    "KAdapterForDependencyParsing",
    "KAdapterForEntityPairClassification",
    "KAdapterModel",
    "KAdapterModelOutput",
    "encode_entities",
]

logger = logging.get_logger(__name__)
OWN_FIELDS = (  # what from_backbone takes for our configuration; every other keyword is the backbone's
    *("adapters", "active_adapters", "fusion", "classifier_dropout", "dependency_head", "arc_size", "num_positions"),
    *("id2label", "label2id", "num_labels", "problem_type"),
)
IGNORED = (  # keywords of other models that mean nothing here
    *("trust_remote_code", "adapter_kwargs", "use_safetensors", "weights_only", "low_cpu_mem_usage", "code_revision"),
    *("attn_implementation", "dtype"),
)
FOR_BACKBONE = ("device_map", "max_memory", "offload_folder", "quantization_config", *READING[2:])


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
        return features[0] if self.combine is None else self.combine(torch.cat(features, dim=-1))


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


class KAdapterPreTrainedModel(PreTrainedModel):
    """What the model and its heads share: adapter verbs, loading and saving.

    The adapter verbs have PEFT's names. They act on the `KAdapterModel` inside, `model.base_model`.
    """

    config_class = KAdapterConfig
    base_model_prefix = "kadapter"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _no_split_modules = ("KnowledgeAdapter",)
    _auto_classes: tuple[str, ...] = ()

    def init_weights(self) -> None:
        """Do nothing: adapters and heads initialise themselves as published, and the backbone keeps its weights."""

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing, for the same reason."""

    # ---- adapters -------------------------------------------------------------------------------------------------

    def add_adapter(
        self, adapter_name: str, adapter_config: KnowledgeAdapterConfig | dict[str, Any] | None = None
    ) -> None:
        """Add a new, untrained adapter, and make it active besides the others.

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
        self.base_model._insert(adapter_name, adapter_config or KnowledgeAdapterConfig())

    def load_adapter(self, id_or_path: str, adapter_name: str | None = None, **kwargs: Any) -> list[str]:
        """Load the adapters of an artifact, frozen and active besides the others, and return their names.

        `adapter_name` renames the adapter of an artifact that holds one. `revision`, `subfolder`, `token` and
        `cache_dir` mean the adapter's repository. No code of the artifact is run.

        Raises:
            ValueError: a name is taken, the artifact is damaged or belongs to another backbone.
        """
        _refuse_keywords(kwargs, READING, "load_adapter")
        part = read_artifact(id_or_path, **kwargs)
        check_same_backbone(self.config.to_dict(), part)
        names = list(part.config["adapters"])
        if adapter_name is not None and len(names) != 1:
            raise ValueError(f"{part.where} holds {names}, which adapter_name={adapter_name!r} can't rename; drop it")
        renamed = {name: adapter_name or name for name in names}
        for old, new in renamed.items():
            adapter_config = KnowledgeAdapterConfig.from_dict(part.config["adapters"][old], f" of {part.where}")
            self.base_model._insert(new, adapter_config, _tensors_of(part.tensors, old), part.where)
        return list(renamed.values())

    def delete_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Remove adapters; with "concat" fusion the remaining features are fused anew and need training."""
        for name in self._known(adapter_names):
            self.base_model._remove(name)

    def set_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Make exactly these adapters active, in the order in which they were added.

        Raises:
            ValueError: an adapter is unknown, or the fusion is "concat", which is made for all of its adapters.
        """
        core, names = self.base_model, self._known(adapter_names)
        if isinstance(core.fusion, ConcatFusion) and set(names) != set(core.adapters):
            raise ValueError(
                f"fusion 'concat' was made for all of {list(core.adapters)}, not for {names} alone; use fusion='add' "
                "or delete_adapter"
            )
        self.config.active_adapters = [name for name in core.adapters if name in names]
        core.adapters_enabled = True

    def active_adapters(self) -> list[str]:
        """Return the names of the adapters in use; none while they are disabled."""
        core = self.base_model
        if not core.adapters_enabled:
            return []
        active = self.config.active_adapters
        return [name for name in core.adapters if active is None or name in active]

    def disable_adapters(self) -> None:
        """Answer with the backbone's features alone until `enable_adapters`."""
        self.base_model.adapters_enabled = False

    def enable_adapters(self) -> None:
        """Use the active adapters again."""
        self.base_model.adapters_enabled = True

    def train_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Train these adapters, the fusion and the head, and nothing else; also makes these adapters active."""
        core, names = self.base_model, self._known(adapter_names)
        if set(names) - set(self.active_adapters()):
            self.set_adapter(sorted({*self.active_adapters(), *names}))
        self.requires_grad_(True)
        core.backbone.requires_grad_(False)
        for name, adapter in core.adapters.items():
            adapter.requires_grad_(name in names)
        self.train(self.training)

    def print_trainable_parameters(self) -> None:
        """Print how many parameters train, of how many."""
        counts = [(one.numel(), one.requires_grad) for one in self.parameters()]
        total, trainable = sum(n for n, _ in counts), sum(n for n, trains in counts if trains)
        share = 100 * trainable / max(total, 1)
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {share:.4f}")

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: dict | None = None
    ) -> dict[str, Tensor]:
        """Return one adapter's tensors by their names inside the adapter; the name may be left out if there is one."""
        names = self._known(adapter_name if adapter_name is not None else list(self.base_model.adapters))
        if len(names) != 1:
            raise ValueError(f"say which adapter you mean, of {names}")
        tensors = self.state_dict() if state_dict is None else state_dict
        return _tensors_of({key.removeprefix("kadapter."): one for key, one in tensors.items()}, names[0])

    def enable_peft_hotswap(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: our adapters stand outside the backbone and are exchanged by load_adapter and set_adapter."""
        raise ValueError("knowledge adapters need no hot-swapping; load several and choose by set_adapter")

    def _known(self, names: str | Sequence[str]) -> list[str]:
        names = [names] if isinstance(names, str) else list(names)
        for name in names:
            if name not in self.base_model.adapters:
                raise ValueError(f"no adapter {name!r}; there are {list(self.base_model.adapters)}")
        return names

    # ---- what is the backbone's -----------------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """Return the backbone's input embeddings."""
        return self.base_model.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's input embeddings; the backbone is saved with the model from then on."""
        self.base_model.backbone.set_input_embeddings(value)
        self.config.backbone_modified = True

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the backbone's input embeddings; the backbone is saved with the model from then on."""
        backbone = self.base_model.backbone
        embeddings = backbone.resize_token_embeddings(*args, **kwargs)
        embeddings.requires_grad_(False)
        self.config.backbone_config = backbone.config.to_dict()
        self.config.backbone_modified = True
        return embeddings

    # ---- artifacts ------------------------------------------------------------------------------------------------

    @classmethod
    def from_backbone(cls, backbone: str | os.PathLike | PreTrainedModel, **kwargs: Any) -> KAdapterPreTrainedModel:
        """Stand a model without adapters beside a backbone, given as Hub id, directory or module.

        Keywords that are fields of `KAdapterConfig` (`fusion`, `adapters`, `num_labels`, `id2label`, ...) are used
        for it, all others (`revision`, `dtype`, `attn_implementation`, `trust_remote_code`, ...) load the backbone.

        Raises:
            OSError: there is no such checkpoint.
            ValueError: the checkpoint lacks tensors of its own architecture.
        """
        own = {key: kwargs.pop(key) for key in OWN_FIELDS if key in kwargs}
        config = KAdapterConfig()
        module = resolve_backbone(config, backbone, kwargs)
        for key, value in own.items():
            setattr(config, key, value)
        config = KAdapterConfig(**{key: value for key, value in config.to_dict().items() if key != "architectures"})
        return cls(config, module)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | Sequence[str | os.PathLike],
        *model_args: Any,
        config: KAdapterConfig | None = None,
        backbone: str | os.PathLike | PreTrainedModel | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        compose_with: Sequence[str | os.PathLike] = (),
        dtype: torch.dtype | str | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> KAdapterPreTrainedModel:
        """Load one artifact, or compose several, onto their frozen backbone, which comes from its own repository.

        Several are named by a list, by `compose_with`, or by the shorthand "org/kadapter-fac+lin". A composition is
        fused by "add". `revision`, `subfolder` and `trust_remote_code` mean the artifact's repository; the backbone
        has `backbone_kwargs` and its pinned revision, and `backbone` to say where it is found now. `dtype`,
        `device_map`, `attn_implementation`, `quantization_config` and `token` reach the backbone too.

        Raises:
            OSError: there is no such artifact or backbone.
            ValueError: a tensor is missing, extra, damaged or of another shape, an adapter occurs twice, the
                backbone is not the one the adapters were trained on, or a keyword is unknown.
        """
        reading = {key: kwargs.pop(key) for key in READING if kwargs.get(key) is not None}
        for_backbone = {key: kwargs.pop(key) for key in FOR_BACKBONE if kwargs.get(key) is not None}
        for_backbone.update({key: value for key, value in reading.items() if key in FOR_BACKBONE})
        dtype = dtype if dtype is not None else kwargs.pop("torch_dtype", None)
        if isinstance(dtype, str) and dtype != "auto":
            dtype = getattr(torch, dtype)
        attention = kwargs.pop("attn_implementation", None) or getattr(config, "_attn_implementation", None)
        for key, value in (("dtype", dtype), ("attn_implementation", attention)):
            if value is not None:
                for_backbone[key] = value
        part = merge(read_parts(pretrained_model_name_or_path, compose_with, reading))
        config = cls._config_for(part, config, kwargs)
        module = resolve_backbone(config, backbone, {**for_backbone, **(backbone_kwargs or {})})
        if config.backbone_modified and module.config.vocab_size != config.vocab_size:
            module.resize_token_embeddings(config.vocab_size)
        model = cls(config, module)
        model._load_strictly(part)
        for own in (model.base_model.adapters, model.base_model.fusion, getattr(model, "head", None)):
            if own is not None:
                own.to(device=_device_of(module), dtype=dtype if isinstance(dtype, torch.dtype) else None)
        model.eval()
        info = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, info) if output_loading_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save all adapters, the fusion and the head as one artifact; the backbone only if it was modified.

        A new directory gets its name when it is complete; in an old one each file is replaced as a whole.

        Raises:
            OSError: the disk is full or the directory can't be written; what was there before is untouched.
        """
        known = ("max_shard_size", "safe_serialization", "variant", "token", "repo_id", "commit_message", "private")
        _refuse_keywords(kwargs, known, "save_pretrained")
        if not is_main_process:
            return
        core = self.base_model
        if any(one.requires_grad for one in core.backbone.parameters()):
            self.config.backbone_modified = True
        tensors = self.state_dict() if state_dict is None else dict(state_dict)
        if not self.config.backbone_modified:
            frozen = ("backbone.", "kadapter.backbone.")
            tensors = {key: one for key, one in tensors.items() if not key.startswith(frozen)}
        self._write(save_directory, self.config, tensors, type(self))
        if push_to_hub:
            repo_id = kwargs.pop("repo_id", Path(save_directory).name)
            own = ("commit_message", "private", "token")
            self.push_to_hub(repo_id, **{key: kwargs[key] for key in own if key in kwargs})

    def save_adapter(self, path: str | os.PathLike, adapter_name: str) -> None:
        """Save one adapter as an artifact of its own, which AutoModel loads and which any other composes with."""
        (name,) = self._known(adapter_name)
        config = KAdapterConfig(**self.config.to_dict())
        config.adapters, config.active_adapters, config.fusion = {name: self.config.adapters[name]}, None, "add"
        config.backbone_modified, config.id2label, config.label2id = False, None, None
        tensors = {f"adapters.{name}.{key}": one for key, one in self.get_adapter_state_dict(name).items()}
        self._write(path, config, tensors, KAdapterModel)

    def _write(self, path: Any, config: KAdapterConfig, tensors: dict[str, Tensor], kind: type) -> None:
        config.architectures = [kind.__name__]
        config.dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.") if tensors else None
        config.auto_map = {"AutoConfig": "configuration_kadapter.KAdapterConfig"}
        config.auto_map["AutoModel"] = "modeling_kadapter.KAdapterModel"
        config.auto_map.update({auto: f"modeling_kadapter.{kind.__name__}" for auto in kind._auto_classes})
        write_artifact(path, Path(inspect.getfile(KAdapterModel)).parent, config, tensors)

    @classmethod
    def _config_for(cls, part: Artifact, config: KAdapterConfig | None, overrides: dict[str, Any]) -> KAdapterConfig:
        """Return the configuration that AutoModel read, or read it here; what the artifact says of itself wins."""
        overrides = {key: value for key, value in overrides.items() if key not in IGNORED and key[0] != "_"}
        values = dict(part.config)
        if config is not None:
            changed = config.to_dict()
            values.update(
                {key: changed[key] for key in ("id2label", "label2id", "problem_type", "classifier_dropout")}
            )
        typed, unused = KAdapterConfig.from_dict(values, return_unused_kwargs=True, **overrides)
        _refuse_keywords(
            unused, [*OWN_FIELDS, *READING, "backbone", "backbone_kwargs", "compose_with"], "from_pretrained"
        )
        typed.name_or_path = part.where
        return typed

    def _load_strictly(self, part: Artifact) -> None:
        """Copy an artifact's tensors: all of the model's, and all of a head's if it is this head's artifact."""
        saved_as = (part.config.get("architectures") or ["KAdapterModel"])[0]
        head_class = globals().get(saved_as)
        if head_class is None or not hasattr(head_class, "_auto_classes"):
            raise ValueError(
                f"{part.where} holds a {saved_as}, which this kadapter does not know; install a newer one"
            )
        tensors = dict(part.tensors)
        if saved_as != type(self).__name__ and saved_as != "KAdapterModel":
            with torch.device("meta"):
                declared = {f"head.{key}" for key in head_class.build_head(self.config).state_dict()}
            tensors = {key: one for key, one in tensors.items() if key not in declared}
        core = {key: one for key, one in tensors.items() if not key.startswith("head.")}
        head = {key.removeprefix("head."): one for key, one in tensors.items() if key.startswith("head.")}
        copy_strictly(self.base_model, core, part.where)
        if saved_as == type(self).__name__ and self is not self.base_model:
            copy_strictly(self.head, head, part.where)
        elif head:
            raise ValueError(f"{part.where} has unknown tensor {'head.' + min(head)!r}; fetch or save it again")
        elif self is not self.base_model:
            logger.warning(f"{part.where} has no head of {type(self).__name__}: its head is new and needs training")

    def push_adapter_to_hub(self, repo_id: str, adapter_name: str, **kwargs: Any) -> str:
        """Upload one adapter as a repository of its own and return the commit's address."""
        return upload(repo_id, lambda folder: self.save_adapter(folder, adapter_name), **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload the whole artifact, as `save_pretrained` writes it, and return the commit's address.

        Keywords: `private`, `token`, `commit_message`, `revision`, `create_pr`.

        Raises:
            ValueError: the name holds a "+", which the Hub refuses.
        """
        return upload(repo_id, self.save_pretrained, **kwargs)

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
            self.adapters[name] = self._new_adapter(name, config.adapter_config(name))
        self.fusion = FUSION_CLASSES[config.fusion](list(self.adapters), config.hidden_size)
        self.post_init()
        self.backbone = backbone if backbone is not None else _random_backbone(config)
        self.backbone.requires_grad_(False).eval()
        self._own_positions = _numbers_positions_regardless(self.backbone)
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
        states = self._run_backbone(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        adapters = self._run_adapters(states.hidden_states, attention_mask)
        output = KAdapterModelOutput(
            last_hidden_state=self.fusion(states.last_hidden_state, adapters),
            backbone_hidden_state=states.last_hidden_state,
            adapter_hidden_states=adapters,
            hidden_states=states.hidden_states if output_hidden_states else None,
            attentions=getattr(states, "attentions", None),
        )
        return output.to_tuple() if return_dict is False else output

    def encode(self, input_ids: Tensor | None, attention_mask: Tensor | None, **kwargs: Any) -> tuple[Tensor, dict]:
        """Return R and the active adapters' outputs, each (batch, sequence, hidden), before any fusion."""
        position_ids, inputs_embeds = kwargs.pop("position_ids", None), kwargs.pop("inputs_embeds", None)
        states = self._run_backbone(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        return states.last_hidden_state, self._run_adapters(states.hidden_states, attention_mask)

    def _run_backbone(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        **kwargs: Any,
    ) -> ModelOutput:
        """Run the backbone, without a graph unless it trains or its input does, and keep its hidden states."""
        if position_ids is None and attention_mask is not None and self._own_positions:
            real = attention_mask.bool()
            index = torch.arange(real.shape[1], device=real.device).expand_as(real)
            position_ids = torch.where(real, real.long().cumsum(dim=1) - 1, index)  # left padding too starts at 0
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "inputs_embeds": inputs_embeds, **kwargs}
        inputs = {key: value for key, value in inputs.items() if value is not None}
        trains = any(one.requires_grad for one in self.backbone.parameters())
        trains = trains or (inputs_embeds is not None and inputs_embeds.requires_grad)
        with torch.set_grad_enabled(torch.is_grad_enabled() and trains):
            inputs.update(output_hidden_states=True, return_dict=True)
            return self.backbone(attention_mask=attention_mask, **inputs)

    def _run_adapters(self, hidden_states: Sequence[Tensor], attention_mask: Tensor | None) -> dict[str, Tensor]:
        outputs = {}
        for name in self.active_adapters():
            adapter = self.adapters[name]
            outputs[name] = adapter([hidden_states[layer] for layer in adapter.config.layers], attention_mask)
        return outputs

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
        check_adapter_name(name)
        if name in self.adapters:
            raise ValueError(f"there is an adapter {name!r} already; choose another adapter_name or delete_adapter it")
        active, adapter = self.active_adapters(), self._new_adapter(name, config)
        if tensors is not None:
            try:
                copy_strictly(adapter, tensors, where)
            except ValueError:
                del self.config.adapters[name]
                raise
            adapter.requires_grad_(False)
        adapter.to(_device_of(self.backbone)).train(self.training and tensors is None)
        self.adapters[name] = adapter
        if self.config.active_adapters is not None:
            self.config.active_adapters = [*active, name]
        self._renew_fusion()

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


def _numbers_positions_regardless(backbone: nn.Module) -> bool:
    """Tell whether a backbone has absolute positions that it counts without a look at the padding, as BERT does."""
    embeddings = getattr(backbone, "embeddings", None)
    if getattr(embeddings, "position_embeddings", None) is None or hasattr(embeddings, "padding_idx"):
        return False  # relative positions, or RoBERTa's own rule
    return "position_ids" in inspect.signature(backbone.forward).parameters


def _drop_backbone(module: KAdapterModel, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    if not module.config.backbone_modified and not any(one.requires_grad for one in module.backbone.parameters()):
        for key in [key for key in state_dict if key.startswith(f"{prefix}backbone.")]:
            del state_dict[key]


def _forgive_backbone(module: KAdapterModel, incompatible: Any) -> None:
    if not module.config.backbone_modified:
        names = tuple(f"backbone.{key}" for key in module.backbone.state_dict())
        incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if not key.endswith(names)]


def _random_backbone(config: KAdapterConfig) -> PreTrainedModel:
    """Build an untrained backbone, as AutoModel.from_config does for any model."""
    backbone_config = config.typed_backbone_config()
    return AutoModel.from_config(backbone_config, **without_pooler(backbone_config))


def _tensors_of(tensors: dict[str, Tensor], adapter_name: str) -> dict[str, Tensor]:
    prefix = f"adapters.{adapter_name}."
    return {key.removeprefix(prefix): one for key, one in tensors.items() if key.startswith(prefix)}


def _refuse_keywords(kwargs: dict[str, Any], known: Iterable[str], function: str) -> None:
    for key, value in kwargs.items():
        if key not in known:
            raise TypeError(f"{function} has no keyword {key!r} (value {value!r}); it takes {', '.join(known)}")


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


# ---- raw text -----------------------------------------------------------------------------------------------------

MARKERS = ("@", "#")


def encode_entities(
    tokenizer: Any,
    texts: Sequence[str],
    entity_spans: Sequence[Sequence[tuple[int, int]]],
    max_length: int | None = None,
) -> dict[str, Tensor]:
    """Turn raw text with marked mentions into input_ids, attention_mask and entity_positions.

    `entity_spans` gives for each text one (start, end) in characters for each mention: one for typing, head and tail
    for relations. The first is marked by "@", the second by "#", before and after, as bare tokens; the position is
    the opening marker's (fac-adapter.py). Where both open at one place the second stands outside.

    Raises:
        ValueError: a span is empty, reversed or outside its text, there are none or more than two, the numbers differ,
            or `max_length` tokens do not reach to the last opening marker; the sentence says for which text.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    encoded = mark_entities(tokenizer, texts, entity_spans)
    for number, (ids, positions) in enumerate(encoded):
        if max_length is not None and max(positions) >= max_length - 1:
            raise ValueError(
                f"text {number}: max_length={max_length} tokens cut off a mention; raise it or shorten it"
            )
        if max_length is not None and len(ids) > max_length:
            del ids[max_length - 1 : -1]
    padded = tokenizer.pad({"input_ids": [ids for ids, _ in encoded]}, return_tensors="pt", padding_side="right")
    positions = torch.tensor([positions for _, positions in encoded])  # (B, M)
    return {
        "input_ids": padded["input_ids"],
        "attention_mask": padded["attention_mask"],
        "entity_positions": positions,
    }


def mark_entities(
    tokenizer: Any, texts: Sequence[str], entity_spans: Sequence[Sequence[tuple[int, int]]]
) -> list[tuple[list[int], list[int]]]:
    """Return for each text its token ids, special tokens included, and the positions of the opening markers."""
    if len(texts) != len(entity_spans):
        raise ValueError(f"{len(texts)} texts but spans for {len(entity_spans)}; give spans for each text")
    pieces = [_pieces(number, *one) for number, one in enumerate(zip(texts, entity_spans, strict=True))]
    segments = [" " + piece for one in pieces for piece in one if not isinstance(piece, tuple) and piece]
    ids = iter(tokenizer(segments, add_special_tokens=False)["input_ids"] if segments else [])
    prefix, suffix = _special_tokens(tokenizer)
    markers = [_marker_ids(tokenizer, marker) for marker in MARKERS]
    return [
        _assemble(one, ids, prefix, suffix, markers, len(spans))
        for one, spans in zip(pieces, entity_spans, strict=True)
    ]


def _pieces(number: int, text: str, spans: Sequence[tuple[int, int]]) -> list[str | tuple[int, bool]]:
    """Cut a text at its markers: stripped strings, and (mention, opens) for each marker."""
    if not 1 <= len(spans) <= len(MARKERS):
        raise ValueError(f"text {number}: {len(spans)} mentions; one or two can be marked")
    cuts = []
    for mention, (start, end) in enumerate(spans):
        if not 0 <= start < end <= len(text):
            raise ValueError(
                f"text {number}: span ({start}, {end}) of mention {mention} is empty, reversed or outside its "
                f"{len(text)} characters; give (start, end) with 0 <= start < end <= {len(text)}"
            )
        cuts += [(start, True, -mention), (end, False, mention)]
    pieces, last = [], 0
    for at, opens, mention in sorted(cuts):
        pieces += [text[last:at].strip(), (abs(mention), opens)]
        last = at
    return [*pieces, text[last:].strip()]


def _assemble(
    pieces: list, segments: Any, prefix: list[int], suffix: list[int], markers: list[list[int]], mentions: int
) -> tuple[list[int], list[int]]:
    ids, positions = list(prefix), [0] * mentions
    for piece in pieces:
        if isinstance(piece, tuple):
            mention, opens = piece
            if opens:
                positions[mention] = len(ids)
            ids += markers[mention]
        elif piece:
            ids += next(segments)
    return ids + suffix, positions


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return what a tokenizer puts before and after a single text."""
    ids = tokenizer("@")["input_ids"]
    inner = tokenizer("@", add_special_tokens=False)["input_ids"]
    start = next(at for at in range(len(ids)) if ids[at : at + len(inner)] == inner)
    return ids[:start], ids[start + len(inner) :]


def _marker_ids(tokenizer: Any, marker: str) -> list[int]:
    one = tokenizer.convert_tokens_to_ids(marker)
    if one is not None and one != tokenizer.unk_token_id:
        return [one]
    return tokenizer(marker, add_special_tokens=False)["input_ids"]


KAdapterModel.register_for_auto_class("AutoModel")
