"""Saying what comes next: knowledge for a frozen language model, from texts, answered prompts, or triples in words.

accelerate launch trainers/run_adapter.py --objective causal_lm --corpus triples --data_dir DIR --backbone ID_OR_PATH
    --adapter_name facts --output_dir OUT --do_train --learning_rate 1e-3
Published: nothing of this shape. Ours: docs/language_models.md.
"""

from __future__ import annotations

import math
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from transformers.utils import logging

from ...configuration_kadapter import KAdapterConfig
from ...data_builders import as_texts
from ...language_modeling_kadapter import KAdapterForCausalLM
from ..common.arguments import AdapterArguments

logger = logging.get_logger(__name__)

IGNORED = -100
FOR_MASKS = ("lm_head", "mask_unit", "mask_probability", "mask_mentions")  # flags of objectives that fill masks


class Objective:
    """An adapter learns to continue texts, through the frozen LM head of its backbone.

    Where a text has mentions, what counts is the last of them and all after it, so that a fact teaches its answer and
    not its question; of a conversation, in the words of the chat template, its last message. `--loss_on all` counts
    every token. The end of a text counts too, since a model that never saw it
    goes on with what it has said. A text that is too long becomes several examples if all of it counts, and is left
    out otherwise.
    """

    record_type = "text"
    more_record_types = ("conversation",)
    model_class = KAdapterForCausalLM
    metric = "accuracy"
    fusion = "delta"
    adapter_kind = "prenorm"

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        _refuse_masks(arguments)
        self.tokenizer, self.max_length, self.loss_on = tokenizer, max_length, arguments.loss_on
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            what = "does not know where its tokens stand in a text" if not tokenizer.is_fast else "has no eos_token"
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path!r}, a {type(tokenizer).__name__}, {what}; use the fast "
                "tokenizer of a language model"
            )
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "labels": IGNORED, "logits_to_keep": -1}

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Learn nothing, the LM head being the backbone's; report facts that contradict each other."""
        if self.loss_on == "answers":
            _report_contradictions(*self._texts(train[:]))
        return {}

    def recall(self, config: KAdapterConfig) -> None:
        """Check nothing: the LM head is the backbone's."""

    def encode(self, rows: dict[str, list], training: bool = False) -> dict[str, list]:
        """Tokenise texts, end them, and label what counts of them."""
        texts, answers = self._texts(rows)
        chat = "messages" in rows  # a chat template writes all special tokens itself, those of the end too
        encoded = self.tokenizer(
            texts,
            add_special_tokens=not chat,
            truncation=True,
            max_length=self.max_length - (not chat),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        records = encoded["overflow_to_sample_mapping"]
        examples: dict[str, list] = {name: [] for name in ("record", *self.padding, "truncated")}
        for number, record in enumerate(records):
            begins, ends = number == 0 or records[number - 1] != record, records[number + 1 : number + 2] != [record]
            if answers[record] and not (begins and ends):
                continue  # its answer would stand without its question
            ids, places = encoded["input_ids"][number], encoded["offset_mapping"][number]
            counted = [end > max(answers[record], start) for start, end in places]
            example = self._labelled(list(ids), counted, ends and not chat)
            for name, value in {"record": record, **example, "truncated": False}.items():
                examples[name].append(value)
        return examples

    def _texts(self, rows: dict[str, list]) -> tuple[list[str], list[int]]:
        """Return the texts of records, and where that begins which counts of each, in characters."""
        if "messages" in rows:
            texts, starts = zip(*(self._rendered(messages) for messages in rows["messages"]), strict=True)
            return list(texts), list(starts)
        read = as_texts(rows)
        return read["text"], [self._answer(spans) for spans in read["mentions"]]

    def _rendered(self, messages: list[dict[str, str]]) -> tuple[str, int]:
        """Return a conversation in the words of the backbone's chat template, and where what counts begins."""
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"the tokenizer of {self.tokenizer.name_or_path!r} has no chat template that could put messages into "
                "words; use a backbone that has, or prompts with answers (--corpus prompt_answers)"
            )
        write = partial(self.tokenizer.apply_chat_template, tokenize=False)
        whole, before = write(messages).rstrip(), write(messages[:-1], add_generation_prompt=True)
        if not whole.startswith(before):
            raise ValueError(
                f"the chat template of {self.tokenizer.name_or_path!r} writes a question otherwise once it has an "
                f"answer, so what {messages[-1]['content'][:40]!r} answers can't be told; use --corpus prompt_answers"
            )
        return whole, 0 if self.loss_on == "all" else len(before)

    def _answer(self, spans: list[dict[str, int]]) -> int:
        """Return where in a text that begins which counts, in characters."""
        return 0 if self.loss_on == "all" else max((span["start"] for span in spans), default=0)

    def _labelled(self, ids: list[int], counted: list[bool], ends: bool) -> dict[str, list[int]]:
        if ends and ids[-1:] != [self.tokenizer.eos_token_id]:
            ids, counted = [*ids, self.tokenizer.eos_token_id], [*counted, True]
        elif ends:
            counted[-1] = True
        kept = [position for position in range(len(ids) - 1) if counted[position + 1]]  # the first follows nothing
        labels = [IGNORED] * len(ids)
        for position in kept:
            labels[position + 1] = ids[position + 1]
        return {"input_ids": ids, "labels": labels, "logits_to_keep": kept}

    def measure(self, predictions: np.ndarray, labels: np.ndarray, evaluated: Dataset) -> dict[str, float]:
        """Return the share of the tokens that count that are the most probable ones."""
        counted = labels != IGNORED
        return {"accuracy": float(np.mean(predictions[counted] == labels[counted]))}

    def from_loss(self, loss: float) -> dict[str, float]:
        """Return the perplexity of the tokens that count."""
        return {"perplexity": math.exp(min(loss, 700.0))}  # e**709 is the largest float


def _report_contradictions(texts: list[str], starts: list[int]) -> None:
    """Report how many questions have several answers, with an example; the texts of each begin alike."""
    answers: dict[str, dict[str, None]] = {}
    for text, start in zip(texts, starts, strict=True):
        if start:
            answers.setdefault(text[:start], {})[text[start:]] = None
    several = {question: list(own) for question, own in answers.items() if len(own) > 1}
    if several:
        question, own = next(iter(several.items()))
        logger.warning_once(  # learning is done twice
            f"{len(several)} of {len(answers)} questions have several answers, such as {question!r} with "
            f"{', '.join(map(repr, own[:3]))}; the adapter can say only one of them, so leave out what is wrong"
        )


def _refuse_masks(arguments: Any) -> None:
    """Refuse flags that only objectives with masks have a use for."""
    usual = {own.name: own.default for own in fields(AdapterArguments)}
    for name in FOR_MASKS:
        value = getattr(arguments, name, usual[name])
        if value not in (usual[name], "backbone"):
            raise ValueError(
                f"--{name} {value} is for models that fill masks, and causal_lm teaches a decoder what comes next, "
                "through its own LM head; leave it out"
            )
