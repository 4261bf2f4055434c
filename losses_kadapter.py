"""The losses of the heads; each is a mean, or a sum over the number of items in the whole (global) batch.

Dimensions: B batch, P passages, S sequence, A answers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .heads_kadapter import can_be_looked_at

__all__ = ["cross_entropy", "multi_label_loss", "regression_loss", "sequence_loss", "spans_loss", "spans_of"]

IGNORED = -100  # the label of what does not count


def cross_entropy(logits: Tensor, labels: Tensor | None, num_items_in_batch: Tensor | int | None) -> Tensor | None:
    """Mean over the labels that count, or their sum over the number of such labels in the whole (global) batch.

    Raises:
        ValueError: a label is no class of the logits, or labels are of another shape or no whole numbers.
    """
    if labels is None:
        return None
    if labels.is_floating_point() or labels.numel() != logits[..., 0].numel():
        shape = tuple(logits.shape[:-1])
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}, and must be {shape} whole numbers, a "
            "class each; other problems than classes are chosen by problem_type"
        )
    if can_be_looked_at(labels):
        for label in labels[((labels < 0) & (labels != IGNORED)) | (labels >= logits.shape[-1])][:1].tolist():
            raise ValueError(f"label {label} is none of the {logits.shape[-1]} classes, 0 to {logits.shape[-1] - 1}")
    logits, labels = logits.flatten(0, -2).float(), labels.flatten().to(logits.device).long()
    if num_items_in_batch is None:
        return F.cross_entropy(logits, labels)
    return _share(F.cross_entropy(logits, labels, reduction="sum"), num_items_in_batch)


def multi_label_loss(logits: Tensor, labels: Tensor | None, num_items_in_batch: Tensor | int | None) -> Tensor | None:
    """Mean binary cross-entropy over all labels of all examples, or their sum over the number in the global batch.

    Raises:
        ValueError: the labels are not (batch, labels), or lie outside 0 to 1.
    """
    if labels is None:
        return None
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and must have {tuple(logits.shape)}: 0 or 1 for each"
        )
    if can_be_looked_at(labels) and not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError("labels of a text that may have several must be 0 or 1 each, and one lies outside")
    logits, labels = logits.float(), labels.to(logits.device).float()
    if num_items_in_batch is None:
        return F.binary_cross_entropy_with_logits(logits, labels)
    return _share(F.binary_cross_entropy_with_logits(logits, labels, reduction="sum"), num_items_in_batch)


def regression_loss(logits: Tensor, labels: Tensor | None, num_items_in_batch: Tensor | int | None) -> Tensor | None:
    """Mean squared error over all values, or its sum over their number in the global batch.

    Raises:
        ValueError: the labels are not (batch, labels), or (batch,) for a single value.
    """
    if labels is None:
        return None
    if labels.shape != logits.shape and not (
        logits.shape[1] == 1 and labels.dim() == 1 and len(labels) == len(logits)
    ):
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and must have {tuple(logits.shape)}: num_labels numbers each"
        )
    logits, labels = logits.float(), labels.to(logits.device).float().view(logits.shape)
    if num_items_in_batch is None:
        return F.mse_loss(logits, labels)
    return _share(F.mse_loss(logits, labels, reduction="sum"), num_items_in_batch)


def sequence_loss(
    config: Any, logits: Tensor, labels: Tensor | None, num_items_in_batch: Tensor | int | None
) -> Tensor | None:
    """Return the loss of `config.problem_type`, which the first labels decide where it is None, as in transformers.

    One label is a regression; of several, whole numbers are classes, and others say of each class how true it is.

    Raises:
        ValueError: the labels are none of such a problem.
    """
    if labels is None:
        return None
    problem_type = config.problem_type
    if problem_type is None and config.num_labels == 1:
        problem_type = "regression"
    elif problem_type is None:
        classes = labels.dtype in (torch.long, torch.int)
        problem_type = "single_label_classification" if classes else "multi_label_classification"
    if problem_type == "single_label_classification" and config.num_labels == 1:
        raise ValueError("a single class teaches nothing: give num_labels=2, or problem_type='regression'")
    loss = SEQUENCE_LOSSES[problem_type](logits, labels, num_items_in_batch)
    config.problem_type = problem_type
    return loss


SEQUENCE_LOSSES = {
    "regression": regression_loss,
    "single_label_classification": cross_entropy,
    "multi_label_classification": multi_label_loss,
}


def _share(loss: Tensor, num_items_in_batch: Tensor | int) -> Tensor:
    return loss / torch.as_tensor(num_items_in_batch).to(loss.device)


def spans_of(
    start_positions: Tensor | None, end_positions: Tensor | None, answer_spans: Tensor | None
) -> Tensor | None:
    """Return answers as (batch, answers, 3) = (passage, start, end), whichever way they were given.

    Raises:
        ValueError: both ways or half of one were used, or the spans have another shape.
    """
    if (start_positions is None) != (end_positions is None):
        raise ValueError("start_positions and end_positions go together, (batch,) each")
    if start_positions is None or end_positions is None:
        if answer_spans is not None and (answer_spans.dim() != 3 or answer_spans.shape[-1] != 3):
            shape = tuple(answer_spans.shape)
            raise ValueError(f"answer_spans has shape {shape} and must have (batch, answers, 3): passage, start, end")
        return answer_spans
    if answer_spans is not None:
        raise ValueError("give start_positions and end_positions, or answer_spans, not both")
    passage = torch.where(start_positions < 0, -1, 0)
    return torch.stack([passage, start_positions, end_positions], dim=-1)[:, None]  # (B, 1, 3)


def spans_loss(
    start: Tensor, end: Tensor, answer_spans: Tensor | None, num_items_in_batch: Tensor | int | None
) -> Tensor | None:
    """Mean over questions of - log of the summed probability of all occurrences, halved over start and end.

    `start` and `end` are masked logits (batch, [passages,] sequence), a softmax over all tokens of a question;
    `answer_spans` (batch, answers, 3) = (passage, start, end), -1 where there is none. A question without any
    occurrence counts nothing and is left out of the mean.

    Raises:
        ValueError: the spans are of another number of questions, or one is reversed or lies outside the tokens that
            may be part of an answer.
    """
    if answer_spans is None:
        return None
    if len(answer_spans) != len(start):
        raise ValueError(f"answer_spans are of {len(answer_spans)} questions, and there are {len(start)}")
    spans = answer_spans.to(start.device)
    start, end = start.view(len(start), -1, start.shape[-1]), end.view(len(end), -1, end.shape[-1])
    if can_be_looked_at(spans):
        _check_spans(spans, start)
    answerable = (spans[..., 0] >= 0).any(dim=1)  # (B,)
    losses = sum(_occurrence_loss(scores, spans, column) for scores, column in ((start, 1), (end, 2))) / 2
    number = answerable.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    return _share(losses.masked_fill(~answerable, 0.0).sum(), number)


def _occurrence_loss(scores: Tensor, spans: Tensor, column: int) -> Tensor:
    """Return - log of the summed probability of the tokens at which an answer starts, or ends: (batch,)."""
    flat = scores.flatten(1).float()  # (B, P * S)
    place = spans[..., 0] * scores.shape[-1] + spans[..., column]  # (B, A)
    there = spans[..., 0] >= 0
    occurs = torch.zeros_like(flat).scatter_add_(1, place.masked_fill(~there, 0), there.to(flat.dtype)) > 0
    occurring = flat.masked_fill(~occurs, torch.finfo(flat.dtype).min)
    return flat.logsumexp(dim=1) - occurring.logsumexp(dim=1)


def _check_spans(spans: Tensor, scores: Tensor) -> None:
    batch, passages, length = scores.shape
    passage, start, end = spans.unbind(dim=-1)  # (B, A) each
    there = passage >= 0
    inside = (passage < passages) & (start >= 0) & (start <= end) & (end < length)
    rows = torch.arange(batch, device=spans.device)[:, None].expand_as(passage)
    allowed = scores > torch.finfo(scores.dtype).min
    index = [rows, passage.clamp(0, passages - 1)]
    for at in (start, end):
        inside = inside & allowed[(*index, at.clamp(0, length - 1))]
    wrong = (there & ~inside).nonzero()
    if len(wrong):
        row, answer = wrong[0].tolist()
        raise ValueError(
            f"answer_spans[{row}, {answer}] = {tuple(spans[row, answer].tolist())} is reversed, or lies outside the "
            f"{passages} passages of {length} tokens or on a token that can't be part of an answer; was it cut?"
        )
