"""Which graphs a model becomes, with the samples that they are traced with."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..backbone_kadapter import positions_of
from ..fusion_kadapter import DeltaFusion
from ..heads_kadapter import KAdapterHeadModel
from ..modeling_kadapter import KAdapterModel
from .modules import AdapterGraph, EncoderGraph, FusionGraph, WholeGraph
from .tracing import Sample, Traced

__all__ = [
    "MENTIONS",
    "adapter",
    "check_model",
    "encoder",
    "features_of",
    "fused_adapters",
    "fusion",
    "reads_of",
    "whole",
]

MENTIONS = {"KAdapterForEntityClassification": 1, "KAdapterForEntityPairClassification": 2}
SUMMARY = ("KAdapterForSequenceClassification", "KAdapterForMultipleChoice")
WHOLE = (*SUMMARY, "KAdapterForTokenClassification", "KAdapterForQuestionAnswering")
HEADS = ("KAdapterModel", *MENTIONS, *WHOLE, "KAdapterForDependencyParsing", "KAdapterForMaskedLM")
SEVERAL = "KAdapterModelWithHeads"
CHOICES = 2  # of a sample


def check_model(model: Any, single: bool = False) -> None:
    """Refuse a model that does not become graphs, or not a `single` one.

    Raises:
        ValueError: it is such a model; the sentence says why.
    """
    name = type(model).__name__
    if name == SEVERAL:
        raise ValueError(
            f"a {name} is exported head by head: export model.heads[NAME] for each of {list(model.heads)}, and put "
            "them together by ExportedModel.add_head"
        )
    if name not in HEADS:
        raise ValueError(f"a {name} has no exported form; there is one of {', '.join(HEADS)}. Run this one in PyTorch")
    if single and name == "KAdapterForQuestionAnswering":
        raise ValueError(
            f"a {name} has no single graph, since it looks at its inputs to tell what can't be part of an answer; "
            "export it without --single"
        )
    core = model.base_model
    for each in core.adapters.active:
        if core.adapters[each].changes_inputs:
            raise ValueError(
                f"adapter {each!r} of kind {core.adapters[each].config.kind!r} changes the input embeddings, so no "
                "graph of the encoder serves others beside it; delete_adapter it, or run this model in PyTorch"
            )
    for key, tensor in model.named_parameters():  # a frozen backbone's are in no state_dict
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(f"{key} has dtype {tensor.dtype}; load the model with dtype='float32' to export it")


def takes_token_types(core: KAdapterModel) -> bool:
    """Return whether an encoder tells several types of tokens apart."""
    types = getattr(core.backbone.config, "type_vocab_size", 0) or 0
    return types > 1 and "token_type_ids" in inspect.signature(type(core.backbone).forward).parameters


def features_of(core: KAdapterModel, name: str) -> str:
    """Return what the graph of an adapter returns: "adapters", "contributions", or "either" of equal ones."""
    return core.fusion.reads if core.adapters[name].holds_tapped_states else "either"


def fused_adapters(core: KAdapterModel) -> list[str] | None:
    """Return the adapters that a fusion with weights was made for; None for a fusion of any adapters."""
    return core.adapters.fused if any(True for _ in core.fusion.parameters()) else None


def reads_of(model: Any) -> str:
    """Return which positions a head reads, in the words of the manifest."""
    name = type(model).__name__
    if name in SUMMARY:
        return "last" if model.base_model.causal else "first"
    if name in MENTIONS:
        return "entity_positions"
    if name == "KAdapterForDependencyParsing" and model.config.dependency_head == "arc":
        return "word_positions"
    return "positions" if name == "KAdapterForMaskedLM" else "all"


def tokens(core: KAdapterModel, batch: int, sequence: int, *, types: bool) -> Sample:
    """Return token ids and mask of sentences, the first padded on the left and the last on the right."""
    generator = torch.Generator().manual_seed(batch)
    size = core.backbone.config.vocab_size
    mask = torch.ones(batch, sequence, dtype=torch.long)
    if batch > 1:
        mask[0, :2], mask[-1, -2:] = 0, 0
    padding = getattr(core.backbone.config, "pad_token_id", None) or 0
    ids = torch.randint(0, size, (batch, sequence), generator=generator)
    ids = torch.where(ids == padding, (padding + 1) % size, ids)
    sample: Sample = {"input_ids": torch.where(mask == 1, ids, padding), "attention_mask": mask}
    return {**sample, "token_type_ids": torch.zeros_like(mask)} if types else sample


def states(core: KAdapterModel, *shape: int) -> Tensor:
    """Return random states (..., hidden)."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, core.config.hidden_size, generator=generator)


def encoder(core: KAdapterModel, layers: Sequence[int]) -> Traced:
    """Return the encoder, whose graph returns its last hidden state and those at these layers."""
    types = takes_token_types(core)
    keywords = {"use_cache": False} if core.causal else {}
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    hidden = ("batch", "sequence", core.config.hidden_size)
    return Traced(
        what=f"the encoder {type(core.backbone).__name__}",
        module=EncoderGraph(core.backbone, positions_of(core.backbone), layers, **keywords),
        sample=lambda batch, sequence: tokens(core, batch, sequence, types=types),
        dimensions=dict.fromkeys(inputs, ("batch", "sequence")),
        inputs=inputs,
        outputs=dict.fromkeys(["last_hidden_state", *(f"hidden_state_{layer}" for layer in layers)], hidden),
        longest=positions_of(core.backbone).longest,
        reads_padding=not core.causal,
    )


def adapter(core: KAdapterModel, name: str) -> Traced:
    """Return an adapter, whose graph maps hidden states to what the fusion reads."""
    module, hidden = core.adapters[name], ("batch", "sequence", core.config.hidden_size)
    layers = list(module.tapped_layers)

    def sample(batch: int, sequence: int) -> Sample:
        mask = tokens(core, batch, sequence, types=False)["attention_mask"]
        return {"hidden_states": [states(core, batch, sequence) + layer for layer in layers], "attention_mask": mask}

    return Traced(
        what=f"adapter {name!r}",
        module=AdapterGraph(module, contributions=core.fusion.reads == DeltaFusion.reads),
        sample=sample,
        dimensions={"hidden_states": hidden, "attention_mask": ("batch", "sequence")},
        inputs=[*(f"hidden_state_{layer}" for layer in layers), "attention_mask"],
        outputs={"adapter_hidden_state": hidden},
        longest=positions_of(core.backbone).longest,
        reads_padding=not core.causal,
    )


def fusion(model: Any) -> Traced:
    """Return fusion and head, whose graph takes the states of encoder and adapters where the head reads."""
    core, width = model.base_model, model.config.hidden_size
    learned, reads = fused_adapters(core), reads_of(model)
    positions = MENTIONS.get(type(model).__name__) or (1 if reads in ("first", "last") else "positions")
    number: str | int = "adapters" if learned is None else len(learned)
    hidden = ("batch", positions, width)
    dimensions: dict[str, Any] = {"backbone_hidden_state": hidden, "adapter_hidden_states": (number, *hidden)}
    dimensions["present"] = (number, "batch")
    if type(model).__name__ == "KAdapterForDependencyParsing":
        own = "word_positions" if reads == "word_positions" else "attention_mask"
        dimensions[own] = ("batch", positions)

    def sample(batch: int, sequence: int) -> Sample:
        read = positions if isinstance(positions, int) else sequence
        adapters = number if isinstance(number, int) else 1 + sequence % 3
        given: Sample = {"backbone_hidden_state": states(core, batch, read)}
        given["adapter_hidden_states"] = states(core, adapters, batch, read)
        given["present"] = torch.ones(adapters, batch)
        mask = tokens(core, batch, read, types=False)["attention_mask"] if read > 2 else torch.ones(batch, read)
        given |= {"attention_mask": mask, "word_positions": torch.arange(read).repeat(batch, 1)}
        return {name: given[name] for name in dimensions}

    return Traced(
        what=f"fusion {core.config.fusion!r} and head of {type(model).__name__}",
        module=FusionGraph(model),
        sample=sample,
        dimensions=dimensions,
        inputs=list(dimensions),
        outputs={"last_hidden_state": hidden, **logits_of(model, positions)},
        longest=positions_of(core.backbone).longest,
    )


def logits_of(model: Any, positions: str | int) -> dict[str, tuple[str | int, ...]]:
    """Return the shape of a head's logits by name; none without a head."""
    name, labels = type(model).__name__, len(model.config.id2label or ())
    if not isinstance(model, KAdapterHeadModel):
        return {}
    if name == "KAdapterForDependencyParsing":
        arc = model.config.dependency_head == "arc"
        return {"logits": ("batch", "words", "1 + words") if arc else ("batch", positions, model.config.num_positions)}
    if name in MENTIONS or name == "KAdapterForSequenceClassification":
        return {"logits": ("batch", labels)}
    if name == "KAdapterForMultipleChoice":
        return {"logits": ("batch", 1)}
    widths = {"KAdapterForQuestionAnswering": 2, "KAdapterForMaskedLM": model.config.vocab_size}
    return {"logits": ("batch", positions, widths.get(name, labels))}


def whole(model: Any) -> Traced:
    """Return encoder, active adapters, fusion and head, whose graph takes what the model takes."""
    core, name = model.base_model, type(model).__name__
    types, mentions = takes_token_types(core), MENTIONS.get(name, 0)
    choices = name == "KAdapterForMultipleChoice"
    shape: tuple[str | int, ...] = ("batch", "choices", "sequence") if choices else ("batch", "sequence")
    dimensions = dict.fromkeys(["input_ids", "attention_mask", *(["token_type_ids"] if types else [])], shape)
    if mentions:
        dimensions["entity_positions"] = ("batch", mentions)
    elif reads_of(model) == "word_positions":
        dimensions["word_positions"] = ("batch", "1 + words")

    def sample(batch: int, sequence: int) -> Sample:
        given = tokens(core, batch * CHOICES if choices else batch, sequence, types=types)
        if choices:
            given = {key: value.unflatten(0, (batch, CHOICES)) for key, value in given.items()}
        given["entity_positions"] = torch.arange(mentions).repeat(batch, 1)
        given["word_positions"] = torch.arange(sequence - 1).repeat(batch, 1)
        return {key: given[key] for key in dimensions}

    outputs = logits_of(model, "sequence")
    if choices:
        outputs = {"logits": ("batch", "choices")}
    outputs = outputs or dict.fromkeys(
        ("last_hidden_state", "backbone_hidden_state"), (*shape, core.config.hidden_size)
    )
    return Traced(
        what=f"the whole of {name} on {type(core.backbone).__name__}",
        module=WholeGraph(model, list(outputs)),
        sample=sample,
        dimensions=dimensions,
        inputs=list(dimensions),
        outputs=outputs,
        longest=positions_of(core.backbone).longest,
        reads_padding=not core.causal,
    )
