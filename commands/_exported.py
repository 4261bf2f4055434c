"""Predictions of an exported directory, without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..runtime import MANIFEST, ExportedModel, read_export
from ._answers import MASK, Prediction

__all__ = ["exported_config", "exported_predictor"]

PARSER, LANGUAGE_MODEL = "KAdapterForDependencyParsing", "KAdapterForMaskedLM"


def exported_config(artifact: str) -> dict[str, Any] | None:
    """Return head and adapters of an exported directory as a configuration has them; None for another artifact."""
    where = os.path.expanduser(artifact)
    if not Path(where, MANIFEST).is_file():
        return None
    manifest = read_export(where).manifest
    head = (manifest["head"] or {"class": "KAdapterModel"})["class"]
    return {"architectures": [head], **{key: manifest[key] for key in ("adapters", "active_adapters")}}


def exported_predictor(
    artifact: str, head: str
) -> Callable[[Sequence[dict[str, Any]], int | None, int], Iterator[Prediction]]:
    """Open an exported directory and return what predicts of examples, how many answers of each, in batches of a size.

    Raises:
        ImportError: the runtime is not installed.
        ValueError: a file is damaged.
    """
    model = ExportedModel.from_directory(os.path.expanduser(artifact))

    def predict(examples: Sequence[dict[str, Any]], top: int | None, batch_size: int) -> Iterator[Prediction]:
        texts: list[Any] = [example["text"] for example in examples]
        if head == LANGUAGE_MODEL:
            texts = [MASK.sub(lambda _: model.reader().mask, text) for text in texts]
        if head == PARSER:
            from ..processing_kadapter import split_words

            texts = [split_words(text) for text in texts]
        spans = [example["entity_spans"] for example in examples] if "entity_spans" in examples[0] else None
        names = [example["adapter_names"] for example in examples] if "adapter_names" in examples[0] else None
        answered = model.predict(texts, spans, top, adapter_names=names, batch_size=batch_size)
        for example, answers in zip(examples, answered, strict=True):
            yield Prediction(example["text"], _values(head, answers), example.get("adapter_names"))

    return predict


def _values(head: str, answers: Any) -> dict[str, Any]:
    """Return answers in the layout of the command."""
    if head == PARSER:
        from ..pipelines_kadapter import draw_tree

        return {**answers, "tree": draw_tree(answers["words"], answers["heads"])}
    if head == LANGUAGE_MODEL:
        return {"masks": answers}
    if head == "KAdapterForTokenClassification":
        kept = ("score", "word", "start", "end")
        return {"answers": [{"label": each["entity"], **{key: each[key] for key in kept}} for each in answers]}
    return {"answers": answers}
