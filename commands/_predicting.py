"""Predictions of an artifact's head, by the pipelines of transformers and of this package."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from transformers import pipeline

from .. import heads_kadapter, language_modeling_kadapter, pipelines_kadapter
from ..configuration_kadapter import KAdapterConfig
from ..processing_kadapter import read_tokenizer
from ..several_heads_kadapter import KAdapterModelWithHeads
from ._answers import MASK, Prediction
from ._choosing import refusal_of

__all__ = ["asked", "head_class", "predictor", "tokenizer_of"]

PIPELINES = {
    **{
        pipeline_class.head: pipeline_class.task_name
        for pipeline_class in (
            pipelines_kadapter.EntityPairClassificationPipeline,
            pipelines_kadapter.EntityClassificationPipeline,
            pipelines_kadapter.DependencyParsingPipeline,
        )
    },
    "KAdapterForSequenceClassification": "text-classification",
    "KAdapterForTokenClassification": "token-classification",
    "KAdapterForMaskedLM": "fill-mask",
}


def predictor(
    artifact: str,
    head: str,
    device: str,
    backbone: str | None = None,
    revision: str | None = None,
    name: str | None = None,
) -> Callable[[Sequence[dict[str, Any]], int | None, int], Iterator[Prediction]]:
    """Load an artifact and return what predicts of examples, how many answers of each, in batches of a size.

    `head` is the class of the head, and `name` its name where there are several. The classes are the package's own,
    and the tokenizer is one that needs no code: nothing of the artifact runs.

    Raises:
        OSError: the artifact, its backbone or a tokenizer can't be read.
        ValueError: the artifact is damaged.
    """
    reading = {} if revision is None else {"revision": revision}
    where = os.path.expanduser(artifact)
    chosen = KAdapterModelWithHeads if name is not None else head_class(head)
    model = chosen.from_pretrained(where, backbone=backbone, **reading)
    model = model if name is None else model.heads[name]
    return asked(model, tokenizer_of(where, model.config, reading), head, device)


def head_class(name: str) -> Any:
    """Return the class of a head by its name."""
    return getattr(language_modeling_kadapter if hasattr(language_modeling_kadapter, name) else heads_kadapter, name)


def asked(
    model: Any, tokenizer: Any, head: str, device: str
) -> Callable[[Sequence[dict[str, Any]], int | None, int], Iterator[Prediction]]:
    """Return what predicts of examples by a model with this head, how many answers of each, in batches of a size."""
    task: Any = PIPELINES[head]  # three of them are none that transformers' types know
    pipe = pipeline(task, model=model, tokenizer=tokenizer, device=device)

    def predict(examples: Sequence[dict[str, Any]], top: int | None, batch_size: int) -> Iterator[Prediction]:
        options = {} if head == "KAdapterForMaskedLM" else {"batch_size": batch_size}
        if top is not None and pipe.task not in ("token-classification", "dependency-parsing"):
            options["top_k"] = top
        for example in examples:
            _check_adapters(model, example)
        inputs = (_input(pipe, example) for example in examples)
        for example, answer in zip(examples, pipe(inputs, **options), strict=True):
            yield Prediction(example["text"], _values(pipe, answer), example.get("adapter_names"))

    return predict


def _check_adapters(model: Any, example: dict[str, Any]) -> None:
    """Refuse adapters of a text that the model can't join, before any text is answered."""
    if example.get("adapter_names") is None:
        return
    core = model.base_model
    try:
        core.fusion.check_rows(core.adapters.of_rows([example["adapter_names"]], 1))
    except ValueError as error:
        raise refusal_of(error, example["where"]) from error


def tokenizer_of(where: str, config: KAdapterConfig, reading: dict[str, Any]) -> Any:
    """Return an artifact's tokenizer, or that of its backbone, which needs no code.

    Raises:
        OSError: neither has one.
    """
    own = read_tokenizer(where, config, **reading)
    source = config.backbone_name_or_path
    if own is None and source:
        own = read_tokenizer(source, config, revision=config.backbone_revision)
    if own is None:
        raise OSError(
            f"neither {where} nor its backbone {source} has a tokenizer that can be read; save one beside it"
        )
    return own


def _input(pipe: Any, example: dict[str, Any]) -> Any:
    """Return an example as its pipeline takes it."""
    text = example["text"]
    if pipe.task == "fill-mask":
        text = MASK.sub(lambda found: pipe.tokenizer.mask_token, text)
    beside = {key: example[key] for key in ("entity_spans", "adapter_names") if example.get(key) is not None}
    return {"words" if pipe.task == "dependency-parsing" else "text": text, **beside}


def _values(pipe: Any, answer: Any) -> dict[str, Any]:
    """Return the answer of a pipeline, of whatever nesting, by one layout for each task."""
    if pipe.task == "dependency-parsing":
        return answer
    answers = [answer] if isinstance(answer, dict) else answer
    if pipe.task == "fill-mask":
        masks = answers if answers and isinstance(answers[0], list) else [answers]
        return {"masks": [[_labelled(own, "token_str") for own in mask] for mask in masks]}
    if pipe.task == "token-classification":
        extra = ("word", "start", "end")
        return {
            "answers": [
                {**_labelled(own, "entity"), **{key: own[key] for key in extra if key in own}} for own in answers
            ]
        }
    return {"answers": [_labelled(own, "label") for own in answers]}


def _labelled(answer: dict[str, Any], label: str) -> dict[str, Any]:
    return {"label": str(answer[label]).strip(), "score": float(answer["score"])}
