"""Base class for tasks that choose one of several answers."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset

from ...configuration_kadapter import KAdapterConfig
from ...heads_kadapter import KAdapterForMultipleChoice
from ...processing_kadapter import join_choice, special_tokens, tokenize_apart
from ._base import BaseTask, probabilities

__all__ = ["ChoiceTask"]


class ChoiceTask(BaseTask):
    """Each choice is a separate text, `<s> context </s> question </s> choice </s>`, scored at its first token.

    Long texts are cut at the end, token by token from the longer of context and question with choice, as in the
    official script. That script pads with the id of `<s>`; ours uses the padding id, which is masked.
    """

    record_type = "multiple_choice"
    model_class = KAdapterForMultipleChoice
    tag = "multiple-choice"
    metric, headline = "accuracy", "accuracy"

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        super().__init__(tokenizer, max_length, arguments)
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "labels": 0}
        self.prefix, self.separator = special_tokens(tokenizer)
        self.number: int | None = None

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Learn how many choices a question has; the head knows no labels."""
        self.number = len(train[0]["choices"])
        return {}

    def recall(self, config: KAdapterConfig) -> None:
        """Do nothing: the head scores any number of choices."""

    def strata(self, rows: Dataset) -> list[str]:
        """Return the index of each record's right choice, from 0."""
        return [str(label) for label in rows["label"]]

    gold = strata

    def encode(self, rows: dict[str, list], training: bool = False, labelled: bool = True) -> dict[str, list]:
        """Tokenise each question with each of its choices.

        Raises:
            ValueError: a question has another number of choices than the first, or no label.
        """
        self._check(rows, labelled)
        contexts, questions = (tokenize_apart(self.tokenizer, rows[name]) for name in ("context", "question"))
        number = len(rows["choices"][0])
        choices = tokenize_apart(self.tokenizer, [choice for choices in rows["choices"] for choice in choices])
        examples: dict[str, list] = {name: [] for name in ("record", "input_ids", "length", "truncated")}
        for record, (context, question) in enumerate(zip(contexts, questions, strict=True)):
            own = choices[record * number : (record + 1) * number]
            marks = (self.prefix, self.separator, self.max_length)
            texts = [join_choice(context, question + self.separator + choice, *marks) for choice in own]
            examples["record"].append(record)
            examples["input_ids"].append([ids for ids, _ in texts])
            examples["length"].append(max(len(ids) for ids, _ in texts))
            examples["truncated"].append(any(truncated for _, truncated in texts))
        return {**examples, "labels": rows["label"]} if labelled else examples

    def _check(self, rows: dict[str, list], labelled: bool) -> None:
        number = self.number or len(rows["choices"][0])
        first = "the first" if self.number is None else "the first of training"
        for record, choices, label in zip(rows["id"], rows["choices"], rows["label"], strict=True):
            if len(choices) != number:
                raise ValueError(
                    f"record {record!r} has {len(choices)} choices and {first} has {number}; give the same number"
                )
            if labelled and not 0 <= label < number:
                raise ValueError(f"record {record!r} has no label; add it, or predict the file by --do_predict")

    def answers(self, decided: np.ndarray, rows: Dataset) -> list[tuple[str, dict[str, float]]]:
        """Return the index of the best choice of each question, and the probabilities of all."""
        return [
            (str(int(row.argmax())), {str(index): float(score) for index, score in enumerate(row)})
            for row in probabilities(decided)
        ]
