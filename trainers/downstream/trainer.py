"""The trainer of downstream runs: what was decided for every record, judged by the task's metric."""

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
        answered: for each record of the last evaluation its id, gold answer, prediction and scores.
    """

    answered: list[dict[str, Any]]
    evaluated_in: np.ndarray

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.preprocess_logits_for_metrics = None  # the task judges, in `prediction_step`

    def _get_eval_sampler(self, eval_dataset: Split) -> Sampler[int]:
        self.evaluated_in = np.argsort(-column(eval_dataset, "length"), kind="stable")  # the longest first
        return InOrder(self.evaluated_in.tolist())

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, Tensor, Tensor | None]:
        """Return what decides each example of a batch, and each example's own loss in the place of labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            decided, losses = self.objective.judge(model(**inputs), inputs)
        return None, decided, losses

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the metric's results over all records, and the mean loss of those that have one."""
        self.answered = self.answers(self.eval_dataset, prediction.predictions)
        predictions, gold = ([one[key] for one in self.answered] for key in ("prediction", "gold"))
        results = metrics.load(self.objective.metric).compute(predictions, gold, **self.objective.settings)
        losses = prediction.label_ids[~np.isnan(prediction.label_ids)]
        loss = float(losses.mean(dtype=np.float64)) if len(losses) else 0.0
        return {"loss": loss, **{key: float(value) for key, value in results.items()}, "records": len(gold)}

    def answers(self, split: Split, decided: np.ndarray, labelled: bool = True) -> list[dict[str, Any]]:
        """Return id, gold answer, prediction and scores of every record, those that could not be encoded too."""
        task, rows, gold = self.objective, split.rows, None
        in_place = np.empty_like(decided)
        in_place[self.evaluated_in] = decided  # as the records stand, not as they were evaluated
        found = dict(zip(split.column("record").tolist(), task.answers(in_place, split.encoded_rows()), strict=True))
        gold = task.gold(rows) if labelled else [None] * len(rows)
        answered = []
        for record, (name, true) in enumerate(zip(rows["id"], gold, strict=True)):
            prediction, scores = found.get(record, (task.wrong(true) if labelled else None, None))
            told = {"gold": true} if labelled else {}
            answered.append({"id": name, **told, "prediction": prediction, "scores": scores})
        return answered
