"""The model for a row of the results table: the adapters on a backbone, and which of its parameters train."""

from __future__ import annotations

import copy
from collections.abc import Container, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import set_seed

from ...artifacts_kadapter import read_artifact
from ...configuration_kadapter import KAdapterConfig, KnowledgeAdapterConfig, split_composition
from ...fusion_kadapter import new_fusion
from ..common.output_directory import MULTITASK
from .arguments import RowArguments, TaskArguments

__all__ = [
    "NONE",
    "RANDOM",
    "TAPS",
    "HeadOnFeatures",
    "add_adapters",
    "check_adapters",
    "check_trains",
    "chosen_adapters",
    "new_model",
    "plugged_model",
    "random_names",
    "row_name",
    "stored_adapters",
    "trained_model",
]

NONE, TAPS, RANDOM = "none", "taps", "random"


def check_adapters(task: RowArguments) -> None:
    """Refuse a contradictory choice of adapters.

    Raises:
        ValueError: `none` is combined with adapters, or `random` is followed by no artifact.
    """
    names = task.adapters
    if NONE in names and len(names) > 1:
        raise ValueError(f"--adapters {' '.join(names)}: none stands alone; leave out either it or the others")
    if names[-1:] == [RANDOM]:
        raise ValueError(f"--adapters {' '.join(names)}: random takes the shapes of the artifacts named after it")


def row_name(task: RowArguments, names: list[str]) -> str:
    """Return the name of the row in reports: `--row`, or a name derived from the adapters."""
    if task.row:
        return task.row
    if not names:
        return "multitask" if (Path(task.backbone) / MULTITASK).is_file() else "backbone"
    return RANDOM if _all_random(task) else "+".join(names)


def random_names(task: RowArguments, names: list[str]) -> list[str]:
    """Return which of these adapters of a row have random weights."""
    drawn = {name for name, _, at_random in _named(task) if at_random}
    return [name for name in names if name in drawn]


def _all_random(task: RowArguments) -> bool:
    return task.adapters[:1] == [RANDOM] and task.trained_model is None


def new_model(model_class: Any, task: TaskArguments, fields: dict[str, Any], seed: int, dtype: torch.dtype) -> Any:
    """Build the model of a row; head and fusion are initialised identically in all rows of the same seed.

    Raises:
        OSError: the backbone or an adapter can't be read.
        ValueError: an adapter belongs to another backbone, or two adapters have the same name.
    """
    fields = {**fields, "classifier_dropout": task.classifier_dropout}
    model = model_class.from_backbone(
        task.backbone, revision=task.backbone_revision, dtype=dtype, fusion="add", **fields
    )
    set_seed(seed)
    add_adapters(model, task)
    core = model.base_model
    model.config.fusion = task.fusion
    torch.manual_seed(seed)  # independent of what the adapters drew
    core.fusion = new_fusion(model.config, core.adapters.featured)
    _note_missing_entity(core, task)
    torch.manual_seed(seed)  # independent of what the fusion drew
    model.renew_head()
    return freeze(model, task)


def add_adapters(model: Any, task: RowArguments) -> None:
    """Add the adapters of a row: artifacts, the sum of the tapped states, or random weights of artifacts' shapes."""
    for artifact, at_random in _artifacts(task):
        if artifact == TAPS:
            model.add_adapter(TAPS, KnowledgeAdapterConfig(num_hidden_layers=0, layers=task.layers))
        elif at_random:
            _add_random(model, artifact, task)
        else:
            model.load_adapter(artifact)


def _note_missing_entity(core: Any, task: TaskArguments) -> None:
    """Let the maps of a row say what becomes of an entity that the table lacks, for whoever uses the model later."""
    for name in core.adapters.in_front if task.missing_entity else ():
        adapter = core.adapters[name]
        adapter.config = replace(adapter.config, missing_entity=task.missing_entity)
        core.config.adapters[name] = adapter.config.to_dict()


def _artifacts(task: RowArguments) -> Iterator[tuple[str, bool]]:
    """Yield the artifacts that the flags name, or `taps`, and whether their weights are drawn at random."""
    at_random = False
    for name in task.adapters:
        if name == RANDOM:
            at_random = True
        elif name != NONE:
            yield from ((artifact, at_random) for artifact in ([TAPS] if name == TAPS else split_composition(name)))


def _add_random(model: Any, artifact: str, task: RowArguments) -> None:
    """Add adapters with an artifact's names and shapes, initialised as torch does by default (without knowledge)."""
    for name, values in read_artifact(artifact).config["adapters"].items():
        shape = {key: value for key, value in values.items() if key not in ("training", "source")}
        new = KnowledgeAdapterConfig.from_dict({**shape, "projection_initializer_range": None}, f" of {artifact}")
        model.add_adapter(_random_name(task, name, model.base_model.adapters), new)


def _random_name(task: RowArguments, name: str, taken: Container[str]) -> str:
    """Return the name of random weights: random_NAME next to trained adapters, so that reports show which they are."""
    return name if _all_random(task) and name not in taken else f"{RANDOM}_{name}"


def _named(task: RowArguments) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield the adapters that the flags choose: name in the model, stored configuration, whether drawn at random."""
    taken: list[str] = []
    for artifact, at_random in _artifacts(task):
        drawn = at_random and artifact != TAPS
        held = {TAPS: {}} if artifact == TAPS else read_artifact(artifact).config["adapters"]
        for name, values in held.items():
            taken.append(_random_name(task, name, taken) if drawn else name)
            yield taken[-1], values, drawn


def chosen_adapters(task: RowArguments) -> dict[str, str | None]:
    """Return the names of the adapters that the flags choose, each with its hash if it was trained.

    Raises:
        OSError: an artifact can't be read.
    """
    return {name: None if drawn else values.get("source", {}).get("hash") for name, values, drawn in _named(task)}


def stored_adapters(task: RowArguments) -> dict[str, dict[str, Any]]:
    """Return the stored configurations of the adapters that the flags choose, by their names in the model.

    Raises:
        OSError: an artifact can't be read.
    """
    return {name: values for name, values, _ in _named(task)}


def freeze(model: Any, task: TaskArguments) -> Any:
    """Freeze or unfreeze the parts of a model as the flags say. Gradients still flow through what is frozen.

    Before a map that trains, a frozen encoder drops out as it is configured to, as in the official code.
    """
    core = model.base_model
    core.fusion.requires_grad_(not task.freeze_head)
    model.head.requires_grad_(not task.freeze_head)
    core.backbone.requires_grad_(not task.freeze_backbone)
    if not (task.freeze_backbone or task.freeze_head):  # an LM head that is the backbone's own trains with it
        for weight in model.head.parameters():
            weight.requires_grad_(True)
    for adapter in core.adapters.values():
        adapter.requires_grad_(not (task.freeze_map if adapter.changes_inputs else task.freeze_adapters))
    if task.backbone_dropout is not None:
        core.backbone_dropout(task.backbone_dropout)
    elif any(weight.requires_grad for weight in _in_front(core)):
        core.backbone_dropout("configured")
    return model.train(model.training)


def check_trains(model: Any) -> None:
    """Refuse to train a model of which all is frozen.

    Raises:
        ValueError: so it is.
    """
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(
            "nothing of this model trains: encoder and adapters are frozen, and its head is the encoder's own; give "
            "--freeze_backbone false, --freeze_adapters false, --freeze_map false or a new head, --lm_head transform"
        )


def _in_front(core: Any) -> Iterator[nn.Parameter]:
    """Yield the parameters of what stands before the encoder."""
    for name in core.adapters.in_front:
        yield from core.adapters[name].parameters()


def trained_model(
    model_class: Any, folder: Path, config: KAdapterConfig, task: TaskArguments, dtype: torch.dtype
) -> Any:
    """Load the model that an earlier run left in a folder, frozen; the flags say where its backbone comes from."""
    backbone = None if config.backbone_modified else task.backbone
    own = {"backbone_kwargs": {"dtype": dtype}, "classifier_dropout": config.classifier_dropout}
    model = model_class.from_pretrained(folder, backbone=backbone, **own)
    model.requires_grad_(False)
    return model


def plugged_model(
    model_class: Any, folder: Path, config: KAdapterConfig, task: TaskArguments, seed: int, dtype: torch.dtype
) -> Any:
    """Load a trained model and plug in the maps of a row, all frozen.

    Raises:
        OSError: the model, its backbone or a map can't be read.
        ValueError: a map belongs to another encoder, or the model has an adapter of its name.
    """
    model = trained_model(model_class, folder, config, task, dtype)
    set_seed(seed)
    add_adapters(model, task)
    _note_missing_entity(model.base_model, task)
    model.requires_grad_(False)
    return model.eval()


class HeadOnFeatures(nn.Module):
    """Fusion and head of a model that learns from kept states, so that no step touches what is frozen.

    They have the names and the order that they have in the model, so checkpoints of the two are interchangeable.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        setattr(self, model.base_model_prefix, nn.ModuleDict({"fusion": model.base_model.fusion}))
        self.head = model.head
        self.config = copy.copy(model.config)  # Trainer reads it, and writes into it
        self.whole = (model,)  # in a tuple, so that it is not registered as a submodule

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Pass on to the whole model; the head itself keeps too little to be computed twice."""
        self.whole[0].activation_checkpointing_enable(**options)

    def forward(self, **inputs: Any) -> Any:
        """Run the whole model, which reads the kept states."""
        return self.whole[0](**inputs)
