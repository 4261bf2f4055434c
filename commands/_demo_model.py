"""What the demo page asks: predictions with and without adapters, and how much each adapter adds to each token."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..artifacts_kadapter import read_artifact
from ..configuration_kadapter import split_composition
from ..modeling_kadapter import KAdapterModel
from ..trainers.fact_probing.model import without_adapters
from ._answers import MASK, Prediction
from ._predicting import asked, head_class, tokenizer_of
from ._texts import ASKED, examples_of, mentions_of, texts_of

__all__ = ["MAX_CHARACTERS", "Answer", "DemoModel", "load"]

MAX_CHARACTERS = 2000  # a heat map of more would be no picture


@dataclass
class Answer:
    """What is shown of a text."""

    predictions: dict[str, str]  # by row: "encoder alone", an adapter, or several joined by "+"
    tokens: list[str]
    added: dict[str, list[float]]  # by adapter and token, the length of its contribution as a share of the encoder's


@dataclass
class DemoModel:
    """A model with adapters and perhaps a head, and its tokenizer."""

    artifact: str
    model: Any
    tokenizer: Any
    head: str | None
    predict: Callable[[Sequence[dict[str, Any]], int | None, int], Iterator[Prediction]] | None

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that make features, which are those that can be chosen."""
        return list(self.model.base_model.adapters.featured)

    @property
    def chosen_together(self) -> bool:
        """Whether the fusion was made for all adapters, so that none can be left out but all."""
        return self.model.config.fusion == "concat"

    def answer(self, text: str, chosen: Sequence[str]) -> Answer:
        """Return predictions without adapters, with each that was chosen and with all of these, and what each adds.

        Raises:
            ValueError: there is no text or too much of it, or it lacks the mentions or the mask that the head reads.
        """
        if not (text or "").strip():
            raise ValueError("There is nothing to read: type a sentence.")
        if len(text) > MAX_CHARACTERS:
            raise ValueError(
                f"The text has {len(text):,} characters, and this page reads at most {MAX_CHARACTERS:,}: shorten it."
            )
        chosen = [name for name in self.adapters if name in chosen]
        if self.chosen_together and 0 < len(chosen) < len(self.adapters):
            raise ValueError(
                f"The fusion 'concat' was made for all of {', '.join(self.adapters)}: choose all or none."
            )
        example = self._example(text)
        predictions = {row: self._predicted(example) for row in self._rows(chosen)} if self.predict else {}
        return Answer(predictions, *self._added(example, chosen))

    def _example(self, text: str) -> dict[str, Any]:
        if self.head is not None:
            return examples_of(self.artifact, self.head, texts_of([text]))[0]
        plain, spans = mentions_of(text)
        return {"text": plain, "entity_spans": spans} if spans else {"text": plain}

    def _rows(self, chosen: Sequence[str]) -> Iterator[str]:
        """Yield the rows while the model is switched to each."""
        with without_adapters(self.model):
            yield "encoder alone"
        alone = [] if self.chosen_together else [[name] for name in chosen]
        for names in [*alone, *([list(chosen)] if len(chosen) > len(alone[:1]) else [])]:
            with self._using(names):
                yield "+".join(names)

    @contextmanager
    def _using(self, names: Sequence[str]) -> Iterator[None]:
        before = self.model.active_adapters()
        front = [name for name in before if name not in self.adapters]  # a map stays in front of the encoder
        self.model.set_adapter([*front, *names])
        try:
            yield
        finally:
            self.model.set_adapter(before)

    def _predicted(self, example: dict[str, Any]) -> str:
        assert self.predict is not None
        (prediction,) = self.predict([example], None, 1)
        return "\n".join(prediction.lines())

    @torch.no_grad()
    def _added(self, example: dict[str, Any], chosen: Sequence[str]) -> tuple[list[str], dict[str, list[float]]]:
        """Return the tokens, and for each adapter that was chosen the shares of its contributions."""
        inputs = self._inputs(example)
        if inputs["input_ids"].shape[1] > self.tokenizer.model_max_length:
            raise ValueError(
                f"The text has {inputs['input_ids'].shape[1]} tokens, and this model reads at most "
                f"{self.tokenizer.model_max_length}: shorten it."
            )
        with self._using(self.adapters):
            states, contributions = self.model.base_model.contributions(**inputs)
        length = states[0].float().norm(dim=-1).clamp_min(1e-9)
        shares = {name: contributions[name][0].float().norm(dim=-1) / length for name in chosen}
        tokens = self.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        return tokens, {name: share.tolist() for name, share in shares.items()}

    def _inputs(self, example: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Return what the encoder reads: with markers around mentions where there are any."""
        text = MASK.sub(lambda found: self.tokenizer.mask_token or found[0], example["text"])
        if "entity_spans" in example:
            read = self.model.encode_entities(self.tokenizer, [text], [example["entity_spans"]])
        else:
            read = self.tokenizer([text], return_tensors="pt")
        return {key: read[key].to(self.model.base_model.device) for key in ("input_ids", "attention_mask")}


def load(artifacts: Sequence[str], device: str = "cpu", backbone: str | None = None) -> DemoModel:
    """Load the first artifact with its head, if it has one, and the adapters of all others beside it.

    Raises:
        OSError: an artifact, the backbone or a tokenizer can't be read.
        ValueError: an artifact is damaged, or they don't fit together.
    """
    names = [os.path.expanduser(part) for artifact in artifacts for part in split_composition(artifact)]
    first = read_artifact(names[0])
    head = first.head
    if head is not None and head not in ASKED:
        examples_of(names[0], head, [])  # says why it can't be asked
    model = (head_class(head) if head else KAdapterModel).from_pretrained(names[0], backbone=backbone)
    if len(names) > 1 and model.config.fusion == "concat":
        raise ValueError(
            f"{names[0]} is fused by 'concat', whose weights are made for its own adapters; show it without others"
        )
    for name in names[1:]:
        model.load_adapter(name)
    tokenizer = tokenizer_of(names[0], model.config, {})
    model.to(device).eval()
    return DemoModel(names[0], model, tokenizer, head, asked(model, tokenizer, head, device) if head else None)
