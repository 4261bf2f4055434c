"""The trainer of downstream runs: it collects an answer for every record and evaluates them with the task's metric."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import EvalPrediction

from ... import metrics
from ..common.encoding import column
from ..common.sampler import InOrder
from ..common.trainable_checkpoints import TrainableOnlyTrainer
from .dataset import Split

__all__ = ["TaskTrainer"]


class TaskTrainer(TrainableOnlyTrainer):
    """A `TrainableOnlyTrainer` whose results count every record exactly once, whatever the batches and processes.

    Attributes:
        answered: the id, gold answer, prediction and scores of each record in the last evaluation.
        evaluated_in: the order in which the examples were evaluated.
    """

    answered: list[dict[str, Any]]
    evaluated_in: np.ndarray

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.preprocess_logits_for_metrics = None  # the task does this in `prediction_step`

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int]:
        self.evaluated_in = np.argsort(-column(eval_dataset, "length"), kind="stable")  # longest first
        return InOrder(self.evaluated_in.tolist())

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, Tensor, Tensor | None]:
        """Return what decides each example of a batch, and each example's own loss instead of labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            decided, losses = self.objective.judge(model(**inputs), inputs)
        return None, decided, losses

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the metric's results over all records, and the mean loss of the examples that have one."""
        self.answered = self.answers(self.evaluated, prediction.predictions)
        predictions, gold = ([answer[key] for answer in self.answered] for key in ("prediction", "gold"))
        results = metrics.load(self.objective.metric).compute(predictions, gold, **self.objective.settings)
        losses = prediction.label_ids[~np.isnan(prediction.label_ids)]
        loss = float(losses.mean(dtype=np.float64)) if len(losses) else 0.0
        return {"loss": loss, **{key: float(value) for key, value in results.items()}, "records": len(gold)}

    def answers(self, split: Split, decided: Any, labelled: bool = True) -> list[dict[str, Any]]:
        """Return id, gold answer, prediction and scores of every record, including those that could not be encoded."""
        task, rows = self.objective, split.rows
        ordered = np.empty_like(decided)
        ordered[self.evaluated_in] = decided  # in the order of the records, not of the evaluation
        answers = dict(zip(split.column("record").tolist(), task.answers(ordered, split.encoded_rows()), strict=True))
        gold = task.gold(rows) if labelled else [None] * len(rows)
        answered = []
        for record, (name, true) in enumerate(zip(rows["id"], gold, strict=True)):
            prediction, scores = answers.get(record, (task.wrong(true) if labelled else None, None))
            known = {"gold": true} if labelled else {}
            answered.append({"id": name, **known, "prediction": prediction, "scores": scores})
        return answered
