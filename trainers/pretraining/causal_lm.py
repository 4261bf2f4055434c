"""Saying what comes next: knowledge for a frozen language model, from texts, answered prompts, or triples in words.

accelerate launch trainers/run_adapter.py --objective causal_lm --corpus triples --data_dir DIR --backbone ID_OR_PATH
    --adapter_name facts --output_dir OUT --do_train --learning_rate 1e-3
Published: nothing of this shape. Ours: docs/language_models.md.
"""

from __future__ import annotations

import copy
import math
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from jinja2 import TemplateError
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
        self.in_order = copy.deepcopy(tokenizer)
        self.in_order.truncation_side = "right"  # else the pieces of a long text begin with its end
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "labels": IGNORED, "logits_to_keep": -1}

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Learn nothing, the LM head being the backbone's; report facts that contradict each other."""
        _report_contradictions(train["id"], *self._texts(train[:]))
        return {}

    def recall(self, config: KAdapterConfig) -> None:
        """Check nothing: the LM head is the backbone's."""

    def encode(self, rows: dict[str, list], training: bool = False) -> dict[str, list]:
        """Tokenise texts, end them, and label what counts of them."""
        texts, answers = self._texts(rows)
        answers = answers if self.loss_on == "answers" else [0] * len(answers)
        chat = "messages" in rows  # a chat template writes all special tokens itself
        encoded = self.in_order(
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
        """Return the texts of records, and where the answer begins in each, in characters; 0 where there is none."""
        if "messages" in rows:
            texts, starts = zip(*map(self._rendered, rows["id"], rows["messages"]), strict=True)
            return list(texts), list(starts)
        read = as_texts(rows)
        return read["text"], [max((span["start"] for span in own), default=0) for own in read["mentions"]]

    def _rendered(self, name: str, messages: list[dict[str, str]]) -> tuple[str, int]:
        """Return a conversation in the words of the backbone's chat template, ended, and where its answer begins.

        Some templates end a text by nothing, or by what another model stops at, and then this one's end is added.
        """
        template = f"the chat template of {self.tokenizer.name_or_path!r}"
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"the tokenizer of {self.tokenizer.name_or_path!r} has no chat template that could put messages into "
                "words; use a backbone that has, or prompts with answers (--corpus prompt_answers)"
            )
        write = partial(self.tokenizer.apply_chat_template, tokenize=False)
        try:
            whole, before = write(messages).rstrip(), write(messages[:-1], add_generation_prompt=True)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ValueError(
                f"record {name}: {template} refuses messages of {roles}: {error}; change the record"
            ) from error
        if not whole.startswith(before):
            raise ValueError(
                f"record {name}: {template} writes a question otherwise once it has an answer, so what "
                f"{messages[-1]['content'][:40]!r} answers can't be told; use --corpus prompt_answers"
            )
        return whole.removesuffix(self.tokenizer.eos_token) + self.tokenizer.eos_token, len(before)

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


def _report_contradictions(names: list[str], texts: list[str], starts: list[int]) -> None:
    """Report how many questions have several answers, with an example; the texts of each begin alike."""
    answers: dict[str, dict[str, str]] = {}
    for name, text, start in zip(names, texts, starts, strict=True):
        if start:
            answers.setdefault(text[:start], {}).setdefault(text[start:], name)
    several = {question: own for question, own in answers.items() if len(own) > 1}
    if several:
        question, own = next(iter(several.items()))
        examples = ", ".join(f"{answer!r} (record {name})" for answer, name in list(own.items())[:3])
        logger.warning_once(  # learning is done twice
            f"{len(several)} of {len(answers)} questions have several answers, such as {question!r} with {examples}; "
            "the adapter can say only one of them, so leave out what is wrong"
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
