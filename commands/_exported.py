"""Predictions of an exported directory, without torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..runtime import MANIFEST, ExportedModel, read_export
from ..runtime.answers import Question
from ._answers import MASK, Prediction
from ._choosing import refusal_of

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
    artifact: str, head: str, device: str, backbone: str | None
) -> Callable[[Sequence[dict[str, Any]], int | None, int], Iterator[Prediction]]:
    """Open an exported directory and return what predicts of examples, how many answers of each, in batches of a size.

    Raises:
        ImportError: the runtime is not installed.
        ValueError: a device or a backbone is chosen, which graphs have no choice of, or a file is damaged.
    """
    if device != "cpu":
        raise ValueError(
            f"--device {device} can't run {artifact}, which holds exported graphs for the CPU; leave it out"
        )
    if backbone is not None:
        raise ValueError(
            f"--backbone {backbone} has no use, since {artifact} holds its encoder as a graph; leave it out"
        )
    model = ExportedModel.from_directory(os.path.expanduser(artifact))

    def predict(examples: Sequence[dict[str, Any]], top: int | None, batch_size: int) -> Iterator[Prediction]:
        questions = [_question(model, head, example, top) for example in examples]
        for first in range(0, len(questions), batch_size):
            batch = slice(first, first + batch_size)
            for example, answers in zip(examples[batch], model.answer(questions[batch]), strict=True):
                yield Prediction(example["text"], _values(head, answers), example.get("adapter_names"))

    return predict


def _question(model: ExportedModel, head: str, example: dict[str, Any], top: int | None) -> Question:
    """Read an example for a head; an error names its place."""
    text: Any = example["text"]
    if head == LANGUAGE_MODEL:
        text = MASK.sub(lambda _: model.reader().mask, text)
    if head == PARSER:
        from ..processing_kadapter import split_words

        text = split_words(text)
    try:
        return model.read(text, example.get("entity_spans"), top, example.get("adapter_names"))
    except ValueError as error:
        raise refusal_of(error, example["where"]) from error


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
