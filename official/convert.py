"""Make a K-Adapter model of a checkpoint of the official code (microsoft/K-Adapter), exact to the digit.

Sizes come from the file. Which hidden states are tapped, the number of attention heads and `skip_layers` are not in
it and must be given. A converted adapter attends to padding (`mask_padding=False`), as it was trained; equality also
needs the official position ids, `position_ids=torch.arange(2, length + 2)`, for padding too.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from ..configuration_kadapter import KnowledgeAdapterConfig
from ..heads_kadapter import (
    KAdapterForDependencyParsing,
    KAdapterForEntityClassification,
    KAdapterForEntityPairClassification,
    KAdapterForMultipleChoice,
    KAdapterForSequenceClassification,
)
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
# The head models of the official code; any other has parameters of the same names with another meaning.
OFFICIAL_HEADS = (
    KAdapterForDependencyParsing,
    KAdapterForEntityClassification,
    KAdapterForEntityPairClassification,
    KAdapterForMultipleChoice,
    KAdapterForSequenceClassification,
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
    report: Callable[[str], None] = logger.info,
) -> KAdapterPreTrainedModel:
    """Return the model that an official file holds, on its backbone, ready for `save_pretrained`.

    A pre-training file gives its adapter alone or, with `keep_head`, the model that was pre-trained. Any other file
    gives all its adapters, the fusion that it holds (or `fusion`) and, with `keep_head`, the task's head. `backbone`
    is a Hub id, directory or module; backbone tensors in the file are kept where they differ from it. `layers` and
    `skip_layers` are `--adapter_list` and `--adapter_skip_layers` of the official scripts. `name` is needed where the
    file does not name its adapters. `report` is called with each sentence on what was left out or kept.

    Raises:
        OSError: the file or the backbone can't be found.
        ValueError: the file is damaged, foreign, lacks a tensor or has an unknown one, or does not fit the options.
    """
    official = read_official(file)
    adapters = {
        one: _adapter_config(official, prefix, layers, num_attention_heads, skip_layers)
        for one, prefix in _adapter_names(official, name, report).items()
    }
    kind, fields = _head(official) if keep_head else (KAdapterModel, {})
    fields.update(adapters=adapters, fusion=_fusion(official, fusion, keep_head))
    fields["inner_projections"] = fields["fusion"] == "concat" and official.has(*INNER)
    model = kind.from_backbone(backbone, **fields, **_backbone_keywords(backbone, backbone_revision))
    _fill(model, official, _may_be_left_out(official, model, keep_head), report)
    return model.eval()


def official_names(model: KAdapterPreTrainedModel) -> dict[str, str]:
    """Return, for each parameter that is saved with a model, its name in the official code.

    The rule: tensors of an adapter stand under "adapter." after a prefix. With several adapters the prefix is the
    adapter's name, "fac_adapter." for "fac". A single converted adapter keeps the prefix of the file that it came
    from, also under another name. Any other single adapter has the pre-training layout, without a prefix, if a head
    with fusion "concat" stands on it (as in both pre-training models and no other official one), and "fac_adapter."
    else. The learned fusion is `com_dense` in the pre-training layout, `task_dense_fac` and `task_dense` in the
    others. A backbone that was trained along is `model.`; a frozen one is not saved and not named.

    Raises:
        ValueError: the official code has nothing like a part of this model, such as its head.
    """
    return _names(model, with_backbone=model.config.backbone_modified)


# ---- what is to be built ------------------------------------------------------------------------------------------


def _adapter_names(official: OfficialCheckpoint, name: str | None, report: Callable[[str], None]) -> dict[str, str]:
    """Return the prefix of each adapter in the file by the name that it gets."""
    if official.of_pretraining and name is None:
        raise ValueError(f"{official.where} does not name its adapter; say it, for example --name fac")
    if len(official.prefixes) == 1:
        (prefix,) = official.prefixes
        return {name or prefix.removesuffix("_adapter."): prefix}
    names = {prefix.removesuffix("_adapter."): prefix for prefix in official.prefixes}
    if name is not None:
        report(f"name {name!r} is not used: the file names its adapters {' and '.join(names)}")
    return names


def _adapter_config(
    official: OfficialCheckpoint, prefix: str, layers: Sequence[int], heads: int, skip_layers: int
) -> KnowledgeAdapterConfig:
    sizes, number = official.adapter_sizes(prefix), official.number_of_layers(prefix)
    if len(layers) != number:
        raise ValueError(
            f"{official.where} has {number} layers in {prefix}adapter, and {len(layers)} were given, "
            f"{list(layers)}; give --layers {number} times, as --adapter_list of the official script had them"
        )
    if heads > 0 and sizes["hidden_size"] % heads:
        raise ValueError(
            f"{official.where}: the inner width {sizes['hidden_size']} does not divide into {heads} attention heads; "
            "say how many the adapter was trained with by --num-attention-heads"
        )
    return KnowledgeAdapterConfig(
        layers=list(layers),
        num_attention_heads=heads,
        layer_norm_eps=1e-5,
        skip_layers=skip_layers,
        mask_padding=False,
        training={"corpus": f"official checkpoint {Path(official.where).name}", "official_prefix": prefix},
        **sizes,
    )


def _head(official: OfficialCheckpoint) -> tuple[type[KAdapterPreTrainedModel], dict[str, Any]]:
    """Return the head model of the file, told by the shapes of the head, and its configuration."""
    if official.has("classifier."):
        return _choice_head(official)
    if not official.has(*PRETRAINING_HEAD):
        raise ValueError(f"{official.where} holds no head (no tensor 'out_proj.weight'); use --drop-head")
    (classes, width), dense = (*official.shape("out_proj.weight"), 0)[:2], tuple(official.shape("dense.weight"))
    if official.has("self_attention."):
        return KAdapterForDependencyParsing, {"dependency_head": "official", "num_positions": classes}
    kinds = {(width, width): KAdapterForEntityClassification, (width, 2 * width): KAdapterForEntityPairClassification}
    if dense not in kinds:
        raise ValueError(
            f"{official.where}: the head's tensor 'dense.weight' has shape {dense}, and one or two mentions need one "
            f"of {list(kinds)}; use the file as the official code saved it, or --drop-head"
        )
    return kinds[dense], {"num_labels": classes}


def _choice_head(official: OfficialCheckpoint) -> tuple[type[KAdapterPreTrainedModel], dict[str, Any]]:
    if not official.has("task_dense"):
        raise ValueError(
            f"{official.where} was fine-tuned on CosmosQA by fusion 'add', where the backbone counts once more for "
            "each adapter, and no K-Adapter here does so; use --drop-head for its adapters"
        )
    return KAdapterForMultipleChoice, {}


def _backbone_keywords(backbone: Any, revision: str | None) -> dict[str, Any]:
    if isinstance(backbone, torch.nn.Module):
        return {}
    keywords = {"dtype": torch.float32}  # as the official code held it
    return keywords if revision is None else {**keywords, "revision": revision}


def _fusion(official: OfficialCheckpoint, fusion: str | None, keep_head: bool) -> str:
    if not official.of_pretraining:
        return fusion or ("concat" if official.has("task_dense") else "add")
    found = "concat" if keep_head else "add"
    if fusion not in (None, found):
        raise ValueError(
            f"{official.where} is a pre-training file, so fusion={fusion!r} can't be had: with its head it is "
            "'concat' (com_dense), without 'add'; leave --fusion away"
        )
    return found


def _may_be_left_out(official: OfficialCheckpoint, model: KAdapterPreTrainedModel, keep_head: bool) -> tuple[str, ...]:
    """Return how the names begin that the model has no place for, by the user's will or as never used."""
    left_out = UNUSED
    if not keep_head:
        left_out += PRETRAINING_HEAD if official.of_pretraining else HEAD
    if model.config.fusion == "add":
        left_out += (*(f"task_dense{one}." for one in ("", "_fac", "_lin")), *INNER)
    elif len(official.prefixes) == 1 and not official.of_pretraining:
        left_out += ("task_dense.",)  # created by the official code, but with one adapter there is nothing to combine
    return left_out


# ---- names --------------------------------------------------------------------------------------------------------


def _names(model: KAdapterPreTrainedModel, with_backbone: bool) -> dict[str, str]:
    if model is not model.base_model and not isinstance(model, OFFICIAL_HEADS):
        raise ValueError(f"the official code has no head like that of {type(model).__name__}, so it has no name there")
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
    may_be_left_out: tuple[str, ...],
    report: Callable[[str], None],
) -> None:
    """Copy every tensor of the file to its place, and leave none over and no place empty."""
    names = _names(model, with_backbone=official.has(BACKBONE))
    parameters = dict(model.named_parameters())
    _check_width(model, official)
    official.check({theirs: parameters[ours].shape for ours, theirs in names.items()}, may_be_left_out)
    left_out = {one.rstrip(".") for one in may_be_left_out if official.has(one)}
    if left_out:
        report(f"left out of {official.where}: {', '.join(sorted(left_out))}")
    backbone = {ours: official.tensors[theirs] for ours, theirs in names.items() if theirs.startswith(BACKBONE)}
    differing = [ours for ours, one in backbone.items() if not torch.equal(parameters[ours], one.to(parameters[ours]))]
    model.config.backbone_modified = bool(differing)
    _report_backbone(model, official, len(differing), len(backbone), report)
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


def _report_backbone(
    model: KAdapterPreTrainedModel,
    official: OfficialCheckpoint,
    differing: int,
    of: int,
    report: Callable[[str], None],
) -> None:
    backbone = _name_of_backbone(model)
    if differing:
        report(
            f"the backbone in {official.where} differs from {backbone} in {differing} of {of} tensors, so it is saved "
            "with the adapters (backbone_modified); such adapters compose with no others"
        )
    elif of:
        report(f"the backbone in {official.where} equals {backbone} bit for bit and is not saved again")
    elif not official.of_pretraining:
        report(
            f"{official.where} holds no backbone and the official script fine-tuned one: outputs are equal only if "
            f"{backbone} is that one (pytorch_pretrained_model.bin of a step checkpoint)"
        )


def _name_of_backbone(model: KAdapterPreTrainedModel) -> str:
    return model.config.backbone_name_or_path or "the backbone given as a module"
