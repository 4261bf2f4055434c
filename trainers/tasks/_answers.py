"""Base class for tasks that find the answer to a question in one of several passages, by distant supervision."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from ...configuration_kadapter import KAdapterConfig
from ...data_builders import occurrences
from ...heads_kadapter import KAdapterForQuestionAnswering, spans_loss
from ...processing_kadapter import PassageTokens, best_spans, join_passages
from ._base import BaseTask

__all__ = ["AnswerTask"]

NOWHERE = [-1, -1, -1]


class AnswerTask(BaseTask):
    """`<s> question </s> passage </s>` for each passage, start and end over the tokens of all passages of a question.

    Where an answer occurs, as whole words and in any case, however often and in whichever passages, counts as right
    (distant supervision). A question whose answers occur nowhere in what fits is dropped in training, and predicted
    like all others in evaluation. Long passages are cut at their end, a question at half of the length. All passages
    are read, unless `--max_passages` says how many, the first ones.
    """

    record_type = "question_answering"
    model_class = KAdapterForQuestionAnswering
    tag = "question-answering"
    metric, headline = "question_answering", "exact_match"
    reads_all_tokens = True

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} does not tell the characters of tokens; use a fast tokenizer"
            )
        super().__init__(tokenizer, max_length, arguments)
        self.max_passages, self.max_answer_length = arguments.max_passages, arguments.max_answer_length
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "answer_mask": 0, "answer_spans": -1}

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Learn nothing: the head knows no labels."""
        return {}

    def recall(self, config: KAdapterConfig) -> None:
        """Take nothing, for the same reason."""

    def strata(self, rows: Dataset) -> list[str]:
        """Return one group of all records."""
        return [""] * len(rows)

    def encode(self, rows: dict[str, list], training: bool = False, labelled: bool = True) -> dict[str, list]:
        """Tokenise each question with each of its passages, and find its answers in them.

        Raises:
            ValueError: a question has no passage, or no answer although it is evaluated.
        """
        columns = ["record", "input_ids", "answer_mask", "length", "truncated"] + ["answer_spans"] * labelled
        examples: dict[str, list] = {name: [] for name in columns}
        for record, (name, question, passages) in enumerate(
            zip(rows["id"], rows["question"], rows["passages"], strict=True)
        ):
            answers = rows["answers"][record] if labelled else []
            if not passages or (labelled and not answers):
                lacks = "answer; add one, or predict the file by --do_predict" if passages else "passage; add one"
                raise ValueError(f"record {name!r} has no {lacks}")
            texts = self._texts(question, passages[: self.max_passages])
            cut = len(texts) < len(passages) or any(text.truncated for text in texts)
            numbered = enumerate(texts)
            spans = [span for number, text in numbered for span in self._spans(number, text, passages, answers)]
            if training and not spans:
                continue
            values = [record, [text.input_ids for text in texts], [text.answerable() for text in texts]]
            values += [max(len(text.input_ids) for text in texts), cut]
            for column, value in zip(columns, [*values, spans or [NOWHERE]], strict=False):
                examples[column].append(value)
        return examples

    def left_out(self, rows: Dataset) -> list[str]:
        """Return how many questions lost passages to `--max_passages`, and how many of these their only answer."""
        most = self.max_passages
        cut = [row for row in rows if len(row["passages"]) > most] if most is not None else []
        lost = 0
        for row in cut:
            holding = (number for number, text in enumerate(row["passages"]) if occurrences(text, row["answers"]))
            lost += next(holding, -1) >= most
        summary = f"{len(cut)} questions lost passages to --max_passages {most}, {lost} of them their only answer"
        return [summary] if cut else []

    def _texts(self, question: str, passages: list[str]) -> list[PassageTokens]:
        """Join a question with each passage, the passage cut to fit."""
        return join_passages(self.tokenizer, question, passages, self.max_length)

    def _spans(self, number: int, text: PassageTokens, passages: list[str], answers: list[str]) -> list[list[int]]:
        """Return [passage, start, end] in tokens of each occurrence that fits."""
        spans = []
        for start, end in occurrences(f" {passages[number]}", answers):
            tokens = [token for token, (first, last) in enumerate(text.offsets) if last > start and first < end]
            if tokens and text.offsets[tokens[-1]][1] >= end:
                spans.append([number, text.first + tokens[0], text.first + tokens[-1]])
        return spans

    def judge(self, output: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return passage, start, end and probability of the best span, and the loss of each question."""
        start, end, spans = output.start_logits, output.end_logits, batch.get("answer_spans")
        best, probabilities = best_spans(start, end, self.max_answer_length)
        decided = torch.cat([best.float(), probabilities[:, None]], dim=1)  # (B, 4), the probability last
        if spans is None:
            return decided, None
        questions = zip(start.split(1), end.split(1), spans.split(1), strict=True)
        losses: list[Any] = [spans_loss(*question, None) for question in questions]
        answerable = (spans[..., 0] >= 0).any(dim=1)
        return decided, torch.stack(losses).masked_fill(~answerable.to(start.device), torch.nan)

    def answers(self, decided: np.ndarray, rows: Dataset) -> list[tuple[str, dict[str, float]]]:
        """Return the text of the best span of each question, its passage and its probability.

        Where no passage has a token, as of characters that the tokenizer drops, the answer is "".
        """
        answered = []
        for (passage, start, end, probability), row in zip(decided, rows, strict=True):
            chosen = row["passages"][int(passage)]
            (text,) = self._texts(row["question"], [chosen])
            pointed_at = text.offsets[max(0, int(start) - text.first) : max(0, int(end) - text.first + 1)]
            answer = f" {chosen}"[pointed_at[0][0] : pointed_at[-1][1]].strip() if pointed_at else ""
            likely = round(float(probability), 6) if pointed_at else 0.0
            answered.append((answer, {"passage": int(passage), "probability": likely}))
        return answered

    def gold(self, rows: Dataset) -> list[list[str]]:
        """Return the accepted answers of each question."""
        return list(rows["answers"])
