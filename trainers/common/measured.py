"""What an evaluation measures: predictions, the loss of each label, and an objective's results from both."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import EvalPrediction

__all__ = ["IGNORED", "measured", "predictions_and_losses"]

IGNORED = -100


def measured(objective: Any, prediction: EvalPrediction, evaluated: Any) -> dict[str, float]:
    """Compute an objective's results and the mean loss over all labels."""
    gathered: Any = prediction.predictions  # from `predictions_and_losses`
    (predictions, losses), labels = gathered, prediction.label_ids
    counted = losses[labels != IGNORED]
    loss = float(counted.mean(dtype=np.float64)) if counted.size else 0.0
    more = objective.from_loss(loss) if hasattr(objective, "from_loss") else {}
    return {"loss": loss, **more, **objective.measure(predictions, labels, evaluated)}


def predictions_and_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the arg-max of logits (..., classes) and the loss of each label, both as the labels (...).

    A language model has logits (batch, n, vocabulary) of those labels (batch, sequence) alone that count, in their
    order; what becomes of them stands where these labels do.
    """
    if logits.shape[:-1] != labels.shape:
        return _spread(logits, labels)
    losses = F.cross_entropy(logits.float().flatten(0, -2), labels.flatten(), reduction="none", ignore_index=IGNORED)
    return logits.argmax(dim=-1), losses.view(labels.shape)


def _spread(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    counted = labels != IGNORED
    theirs = torch.arange(logits.shape[1], device=labels.device) < counted.sum(1, keepdim=True)  # (batch, n)
    packed = labels.new_full(theirs.shape, IGNORED).masked_scatter(theirs, labels[counted])
    predictions, losses = predictions_and_losses(logits, packed)
    everywhere = torch.zeros_like(labels)
    return (
        everywhere.masked_scatter(counted, predictions[theirs]),
        everywhere.to(losses.dtype).masked_scatter(counted, losses[theirs]),
    )
