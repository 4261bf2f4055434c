"""Convert a checkpoint of the official code (microsoft/K-Adapter) into a K-Adapter model with the same outputs.

The sizes are read from the file. The tapped hidden states, the number of attention heads and `skip_layers` are not
stored in it and must be passed. A converted adapter attends to padding (`mask_padding=False`), as in its training;
equal outputs also need the official position ids, `position_ids=torch.arange(2, length + 2)`, for padding too.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from .. import heads_kadapter as heads
from ..configuration_kadapter import KnowledgeAdapterConfig
from ..modeling_kadapter import KAdapterModel, KAdapterPreTrainedModel
from .checkpoint import (
    BACKBONE,
    HEAD,
    INNER,
    PRETRAINING_HEAD,
    UNUSED,
    OfficialCheckpoint,
    official_name,
    read_official,
)

__all__ = ["convert_official", "official_names"]

logger = logging.get_logger(__name__)
# The head models of the official code; parameters of the same names mean something else in other head models.
OFFICIAL_HEADS = (
    heads.KAdapterForDependencyParsing,
    heads.KAdapterForEntityClassification,
    heads.KAdapterForEntityPairClassification,
    heads.KAdapterForMultipleChoice,
    heads.KAdapterForSequenceClassification,
)


def convert_official(
    file: str | os.PathLike,
    backbone: Any,
    layers: Sequence[int],
    *,
    name: str | None = None,
    num_attention_heads: int = 12,
    skip_layers: int = 0,
    keep_head: bool = False,
    fusion: str | None = None,
    backbone_revision: str | None = None,
    log: Callable[[str], None] = logger.info,
) -> KAdapterPreTrainedModel:
    """Return the model in an official file, on its backbone, ready for `save_pretrained`.

    A pre-training file gives its adapter alone or, with `keep_head`, the model that was pre-trained. Any other file
    gives all its adapters, the fusion that it holds (or `fusion`) and, with `keep_head`, the task's head.

    Args:
        file: the official .bin or .safetensors file.
        backbone: Hub id, directory or module; backbone tensors in the file replace its own if they differ.
        layers: `--adapter_list` of the official scripts.
        name: name of the adapter, required if the file does not name its adapters.
        num_attention_heads: attention heads of the adapter's blocks.
        skip_layers: `--adapter_skip_layers` of the official scripts.
        keep_head: whether to convert the head too.
        fusion: "concat" or "add"; by default as the file has it.
        backbone_revision: commit, tag or branch of the backbone.
        log: function that receives each sentence about what was kept or left out.

    Raises:
        OSError: the file or the backbone can't be found.
        ValueError: the file is damaged, is not an official file, has missing or unknown tensors, or does not match the
            options.
    """
    official = read_official(file)
    adapters = {
        adapter: _adapter_config(official, prefix, layers, num_attention_heads, skip_layers)
        for adapter, prefix in _adapter_names(official, name, log).items()
    }
    model_class, fields = _head(official) if keep_head else (KAdapterModel, {})
    fields.update(adapters=adapters, fusion=_fusion(official, fusion, keep_head))
    fields["inner_projections"] = fields["fusion"] == "concat" and official.has(*INNER)
    model = model_class.from_backbone(backbone, **fields, **_backbone_keywords(backbone, backbone_revision))
    _fill(model, official, _ignored_prefixes(official, model, keep_head), log)
    return model.eval()


def official_names(model: KAdapterPreTrainedModel) -> dict[str, str]:
    """Return the official name of each parameter that is saved with a model.

    Tensors of an adapter are named "adapter." after a prefix. With several adapters, the prefix is the adapter's name,
    "fac_adapter." for "fac". A single converted adapter keeps the prefix of its file, even if it was renamed. Any
    other single adapter has the pre-training layout, without a prefix, if the model has a head and fusion "concat" (as
    only the two pre-training models of the official code do), and else a prefix like "fac_adapter.". The learned
    fusion is `com_dense` in the pre-training layout, and `task_dense_fac` and `task_dense` in the others. A backbone
    that was fine-tuned is `model.`; a frozen backbone is not saved and has no names.

    Raises:
        ValueError: the official code has no counterpart of a parameter, for example of the head.
    """
    return _names(model, with_backbone=model.config.backbone_modified)


# ---- the configuration --------------------------------------------------------------------------------------------


def _adapter_names(official: OfficialCheckpoint, name: str | None, log: Callable[[str], None]) -> dict[str, str]:
    """Return the prefix of each adapter in the file, by the name that the adapter gets in the model."""
    if official.of_pretraining and name is None:
        raise ValueError(f"{official.where} does not name its adapter; pass a name, for example --name fac")
    if len(official.prefixes) == 1:
        (prefix,) = official.prefixes
        return {name or prefix.removesuffix("_adapter."): prefix}
    names = {prefix.removesuffix("_adapter."): prefix for prefix in official.prefixes}
    if name is not None:
        log(f"name {name!r} is not used: the file names its adapters {' and '.join(names)}")
    return names


def _adapter_config(
    official: OfficialCheckpoint, prefix: str, layers: Sequence[int], heads: int, skip_layers: int
) -> KnowledgeAdapterConfig:
    sizes, number = official.adapter_sizes(prefix), official.number_of_layers(prefix)
    if len(layers) != number:
        raise ValueError(
            f"{official.where} has {number} layers in {prefix}adapter, and {len(layers)} were given, "
            f"{list(layers)}; pass --layers {number} times, with the values of the official script's --adapter_list"
        )
    if heads > 0 and sizes["hidden_size"] % heads:
        raise ValueError(
            f"{official.where}: the inner width {sizes['hidden_size']} does not divide into {heads} attention heads; "
            "pass the number that the adapter was trained with as --num-attention-heads"
        )
    shape: dict[str, Any] = dict(sizes)
    return KnowledgeAdapterConfig(
        layers=list(layers),
        num_attention_heads=heads,
        layer_norm_eps=1e-5,
        skip_layers=skip_layers,
        mask_padding=False,
        training={"corpus": f"official checkpoint {Path(official.where).name}", "official_prefix": prefix},
        **shape,
    )


def _head(official: OfficialCheckpoint) -> tuple[type[KAdapterPreTrainedModel], dict[str, Any]]:
    """Return the head model of the file, recognised by the shapes of the head, and its configuration."""
    if official.has("classifier."):
        return _choice_head(official)
    if not official.has(*PRETRAINING_HEAD):
        raise ValueError(f"{official.where} holds no head (no tensor 'out_proj.weight'); use --drop-head")
    (classes, width), dense = (*official.shape("out_proj.weight"), 0)[:2], tuple(official.shape("dense.weight"))
    if official.has("self_attention."):
        return heads.KAdapterForDependencyParsing, {"dependency_head": "official", "num_positions": classes}
    models = {
        (width, width): heads.KAdapterForEntityClassification,
        (width, 2 * width): heads.KAdapterForEntityPairClassification,
    }
    if dense not in models:
        raise ValueError(
            f"{official.where}: the head's tensor 'dense.weight' has shape {dense}, and a head for one or two "
            f"mentions has {' or '.join(map(str, models))}; use the file as the official code saved it, or --drop-head"
        )
    return models[dense], {"num_labels": classes}


def _choice_head(official: OfficialCheckpoint) -> tuple[type[KAdapterPreTrainedModel], dict[str, Any]]:
    if not official.has("task_dense"):
        raise ValueError(
            f"{official.where} was fine-tuned on CosmosQA with fusion 'add', which adds the backbone once more for "
            "each adapter; no fusion of this project does so; use --drop-head to convert the adapters alone"
        )
    return heads.KAdapterForMultipleChoice, {}


def _backbone_keywords(backbone: Any, revision: str | None) -> dict[str, Any]:
    if isinstance(backbone, torch.nn.Module):
        return {}
    keywords = {"dtype": torch.float32}  # as in the official code
    return keywords if revision is None else {**keywords, "revision": revision}


def _fusion(official: OfficialCheckpoint, fusion: str | None, keep_head: bool) -> str:
    if not official.of_pretraining:
        return fusion or ("concat" if official.has("task_dense") else "add")
    only = "concat" if keep_head else "add"
    if fusion not in (None, only):
        raise ValueError(
            f"{official.where} is a pre-training file, so fusion={fusion!r} is not possible: with its head the fusion "
            "is 'concat' (com_dense), without it 'add'; leave --fusion out"
        )
    return only


def _ignored_prefixes(
    official: OfficialCheckpoint, model: KAdapterPreTrainedModel, keep_head: bool
) -> tuple[str, ...]:
    """Return the prefixes of tensors that are not converted, because the user drops them or nothing uses them."""
    ignored: tuple[str, ...] = UNUSED
    if not keep_head:
        ignored += PRETRAINING_HEAD if official.of_pretraining else HEAD
    if model.config.fusion == "add":
        ignored += ("task_dense.", "task_dense_fac.", "task_dense_lin.", *INNER)
    elif len(official.prefixes) == 1 and not official.of_pretraining:
        ignored += ("task_dense.",)  # the official code creates it even if there is only one adapter to combine
    return ignored


# ---- names --------------------------------------------------------------------------------------------------------


def _names(model: KAdapterPreTrainedModel, with_backbone: bool) -> dict[str, str]:
    if model is not model.base_model and not isinstance(model, OFFICIAL_HEADS):
        raise ValueError(
            f"the official code has no head like that of {type(model).__name__}, so it has no official names"
        )
    prefixes = {name: _prefix(model, name) for name in model.config.adapters}
    saved = {ours: ours.removeprefix("kadapter.") for ours, _ in model.named_parameters()}
    return {
        ours: official_name(inside, prefixes)
        for ours, inside in saved.items()
        if with_backbone or not inside.startswith("backbone.")
    }


def _prefix(model: KAdapterPreTrainedModel, name: str) -> str:
    config = model.config
    recorded = (config.adapters[name].get("training") or {}).get("official_prefix")
    if len(config.adapters) == 1 and recorded is not None:
        return recorded
    with_head = model is not model.base_model
    return "" if len(config.adapters) == 1 and with_head and config.fusion == "concat" else f"{name}_adapter."


# ---- tensors ------------------------------------------------------------------------------------------------------


def _fill(
    model: KAdapterPreTrainedModel,
    official: OfficialCheckpoint,
    ignored: tuple[str, ...],
    log: Callable[[str], None],
) -> None:
    """Copy every tensor of the file but the ignored into the model, and check that every parameter gets a tensor."""
    names = _names(model, with_backbone=official.has(BACKBONE))
    parameters = dict(model.named_parameters())
    _check_width(model, official)
    official.check({theirs: parameters[ours].shape for ours, theirs in names.items()}, ignored)
    left_out = {prefix.rstrip(".") for prefix in ignored if official.has(prefix)}
    if left_out:
        log(f"left out of {official.where}: {', '.join(sorted(left_out))}")
    pairs = [
        (parameters[ours], official.tensors[theirs]) for ours, theirs in names.items() if theirs.startswith(BACKBONE)
    ]
    differing = sum(not torch.equal(ours, theirs.to(ours)) for ours, theirs in pairs)
    model.config.backbone_modified = differing > 0
    _log_backbone(model, official, differing, len(pairs), log)
    with torch.no_grad():
        for ours, theirs in names.items():
            parameters[ours].copy_(official.tensors[theirs])


def _check_width(model: KAdapterPreTrainedModel, official: OfficialCheckpoint) -> None:
    for prefix in official.prefixes:
        width = official.shape(f"{prefix}adapter.0.up_project.weight")[0]
        if width != model.config.hidden_size:
            raise ValueError(
                f"{official.where} was made for a backbone of width {width}, and {_name_of_backbone(model)} has "
                f"{model.config.hidden_size}; name the backbone that it was trained on"
            )


def _log_backbone(
    model: KAdapterPreTrainedModel,
    official: OfficialCheckpoint,
    differing: int,
    total: int,
    log: Callable[[str], None],
) -> None:
    backbone = _name_of_backbone(model)
    if differing:
        log(
            f"the backbone in {official.where} differs from {backbone} in {differing} of {total} tensors, so it is "
            "saved with the adapters (backbone_modified); such adapters can't be composed with others"
        )
    elif total:
        log(f"the backbone in {official.where} equals {backbone} bit for bit and is not saved again")
    elif not official.of_pretraining:
        log(
            f"{official.where} holds no backbone, and the official script fine-tuned its backbone: outputs are equal "
            f"only if {backbone} is that backbone (pytorch_pretrained_model.bin of a step checkpoint)"
        )


def _name_of_backbone(model: KAdapterPreTrainedModel) -> str:
    return model.config.backbone_name_or_path or "the backbone given as a module"
