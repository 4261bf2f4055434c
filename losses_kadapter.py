"""The losses of the heads; each is a mean, or a sum over the number of items in the whole (global) batch.

Dimensions: B batch, P passages, S sequence, A answers.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .heads_kadapter import can_be_looked_at

__all__ = ["cross_entropy", "multi_label_loss", "spans_loss", "spans_of"]


def cross_entropy(logits: Tensor, labels: Tensor | None, num_items_in_batch: Tensor | int | None) -> Tensor | None:
    """Mean over the labels that count, or their sum over the number of such labels in the whole (global) batch.

    Raises:
        ValueError: a label is no class of the logits.
    """
    if labels is None:
        return None
    if can_be_looked_at(labels) and labels.numel() and int(labels.max()) >= logits.shape[-1]:
        raise ValueError(
            f"label {int(labels.max())} is none of the {logits.shape[-1]} classes, 0 to {logits.shape[-1] - 1}"
        )
    logits, labels = logits.flatten(0, -2).float(), labels.flatten().to(logits.device)
    if num_items_in_batch is None:
        return F.cross_entropy(logits, labels)
    return _share(F.cross_entropy(logits, labels, reduction="sum"), num_items_in_batch)


def multi_label_loss(logits: Tensor, labels: Tensor | None, num_items_in_batch: Tensor | int | None) -> Tensor | None:
    """Mean binary cross-entropy over all labels of all examples, or their sum over the number in the global batch.

    Raises:
        ValueError: the labels are not (batch, labels).
    """
    if labels is None:
        return None
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and must have {tuple(logits.shape)}: 0 or 1 for each"
        )
    logits, labels = logits.float(), labels.to(logits.device).float()
    if num_items_in_batch is None:
        return F.binary_cross_entropy_with_logits(logits, labels)
    return _share(F.binary_cross_entropy_with_logits(logits, labels, reduction="sum"), num_items_in_batch)


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
