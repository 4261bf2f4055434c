"""The trainer of downstream runs: what was decided for every record, judged by the task's metric."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import EvalPrediction
from transformers.utils import SAFE_WEIGHTS_NAME

from .. import metrics
from .examples import column
from .task_data import Split
from .trainer import InOrder, KAdapterTrainer

__all__ = ["TaskTrainer"]


class TaskTrainer(KAdapterTrainer):
    """A `KAdapterTrainer` whose results count every record exactly once, whatever the batches and processes.

    Checkpoints hold what trains and nothing else: not the frozen adapters, which stay as they are.

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

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: where states are kept there are no tokens to count."""
        return 0

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            os.makedirs(folder, exist_ok=True)
            save_file(
                {name: one.contiguous() for name, one in self._trained().items()}, f"{folder}/{SAFE_WEIGHTS_NAME}"
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load what trains, if the checkpoint holds just that; the optimizer's state would be amiss otherwise.

        Raises:
            ValueError: it was made by other flags.
        """
        with safe_open(f"{resume_from_checkpoint}/{SAFE_WEIGHTS_NAME}", "pt") as file:
            held = {(name, *file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
        amiss = held ^ {(name, *one.shape) for name, one in self._trained().items()}
        if amiss:
            name, *shape = min(amiss)
            raise ValueError(
                f"{resume_from_checkpoint!r} was made by other flags: {name!r} of shape {shape} is in it or in the "
                "model, not in both; resume by the flags that it was made by, or start anew by --overwrite_output_dir"
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _trained(self) -> dict[str, Tensor]:
        return {name: one.detach() for name, one in self.model.named_parameters() if one.requires_grad}

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Forgive that frozen tensors are in no checkpoint."""
        trained = self._trained()
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name in trained]
        super()._issue_warnings_after_load(load_result)
