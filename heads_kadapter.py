"""What heads are made of: their modules, and the tokens that they read.

Dimensions: B batch, W words, n positions that a head reads.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention_kadapter import Attention, Dropout, attention_mask_of
from .configuration_kadapter import KAdapterConfig

__all__ = [
    "NOT_READ",
    "ArcHead",
    "EntityHead",
    "PositionHead",
    "TokenHead",
    "as_rows",
    "can_be_looked_at",
    "check_positions",
    "check_words",
    "first_tokens",
    "gather",
    "mask_scores",
    "token_mask",
]


# What forward takes beside the inputs of the backbone, and `read` does not look at.
NOT_READ = ("labels", "start_positions", "end_positions", "answer_spans", "answer_mask", "num_items_in_batch")


class EntityHead(nn.Module):
    """Linear, dropout, Linear on the concatenated features of the mentions; no activation (official code)."""

    def __init__(self, config: KAdapterConfig, mentions: int) -> None:
        super().__init__()
        self.dense = nn.Linear(mentions * config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, mentions, hidden) to (batch, labels).

        Raises:
            ValueError: there is another number of mentions.
        """
        if features.shape[1] * features.shape[2] != self.dense.in_features:
            mentions = self.dense.in_features // features.shape[2]
            raise ValueError(f"the features of {features.shape[1]} mentions were given to a head made for {mentions}")
        return self.out_proj(self.dropout(self.dense(features.flatten(1).to(self.dense.weight.dtype))))


class TokenHead(nn.Module):
    """Dropout and a Linear on the features of each token (the official `classifier` of cosmosqa)."""

    def __init__(self, config: KAdapterConfig, outputs: int) -> None:
        super().__init__()
        self.dropout = Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, n, hidden) to (batch, n, outputs)."""
        return self.classifier(self.dropout(features.to(self.classifier.weight.dtype)))


class ArcHead(nn.Module):
    """Biaffine score of every word as the head of every word, whatever their number (Dozat and Manning, 2017)."""

    def __init__(self, config: KAdapterConfig) -> None:
        super().__init__()
        self.dependent = nn.Linear(config.hidden_size, config.arc_size)
        self.governor = nn.Linear(config.hidden_size, config.arc_size)
        self.bilinear = nn.Linear(config.arc_size, config.arc_size, bias=False)
        self.prior = nn.Linear(config.arc_size, 1)
        self.dropout = Dropout(config.classifier_dropout)

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        """Score (batch, 1 + words, hidden), the root first: (batch, words, 1 + words)."""
        features = features.to(self.dependent.weight.dtype)
        dependent = self.dropout(F.gelu(self.dependent(features[:, 1:])))  # (B, W, arc)
        governor = self.dropout(F.gelu(self.governor(features)))  # (B, 1 + W, arc)
        scores = self.bilinear(dependent) @ governor.transpose(1, 2) + self.prior(governor).transpose(1, 2)
        return mask_scores(scores, present[:, None, :])


class PositionHead(nn.Module):
    """The official head: one-head attention, two Linears, classes are absolute positions (lin-adapter.py)."""

    def __init__(self, config: KAdapterConfig) -> None:
        super().__init__()
        self.attention = Attention(config.hidden_size, 1, config.classifier_dropout, config.classifier_dropout, 1e-5)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.hidden_size, config.num_positions)

    def forward(self, features: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Map (batch, sequence, hidden) to (batch, sequence, positions)."""
        context = self.attention(
            features.to(self.dense.weight.dtype), attention_mask_of(attention_mask, features.device)
        )
        return self.out_proj(self.dropout(self.dense(context)))


# ---- tokens -------------------------------------------------------------------------------------------------------


def can_be_looked_at(values: Tensor) -> bool:
    """Return whether values are there to be checked: not on another device, nor in a graph that is compiled."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def gather(states: Tensor, positions: Tensor) -> Tensor:
    """Return the states (batch, sequence, hidden) at positions (batch, n), those below 0 at 0: (batch, n, hidden).

    Raises:
        ValueError: a position lies outside the sequence.
    """
    if can_be_looked_at(positions) and positions.numel() and int(positions.max()) >= states.shape[1]:
        raise ValueError(
            f"position {int(positions.max())} lies outside the {states.shape[1]} tokens of the batch; was it cut?"
        )
    index = positions.clamp(min=0).to(states.device)[..., None].expand(-1, -1, states.shape[-1])
    return states.gather(1, index)


def check_positions(entity_positions: Tensor | None, mentions: int) -> Tensor:
    """Return the positions of so many mentions, (batch, mentions).

    Raises:
        ValueError: they are missing or of another shape.
    """
    shape = None if entity_positions is None else tuple(entity_positions.shape)
    if shape is None or len(shape) != 2 or shape[1] != mentions:
        raise ValueError(
            f"entity_positions has shape {shape} and must have (batch, {mentions}): the opening marker of each "
            "mention; encode_entities(tokenizer, texts, entity_spans) gives them"
        )
    return entity_positions


def first_tokens(attention_mask: Tensor | None, given: Tensor) -> Tensor:
    """Return the position (batch, 1) of each row's first real token, whatever stands before it."""
    if attention_mask is None:
        return torch.zeros(len(given), 1, dtype=torch.long, device=given.device)
    return attention_mask.long().argmax(dim=1, keepdim=True)  # of booleans neither PyTorch nor ONNX takes it


def check_words(word_positions: Tensor | None) -> Tensor:
    """Return the positions of root and words, (batch, 1 + words).

    Raises:
        ValueError: they are missing or of another shape.
    """
    if word_positions is None or word_positions.dim() != 2:
        raise ValueError("word_positions (batch, 1 + words) are missing: the root's token and each word's first")
    return word_positions


def as_rows(inputs: dict[str, Any], what: str) -> tuple[Tensor, dict[str, Any]]:
    """Turn inputs (batch, number, sequence) into rows (batch * number, sequence); `what` there is a number of.

    Returns one of the inputs as it was, and the rows. Labels are left out.

    Raises:
        ValueError: an input has no such dimension, or another number than the others, or there is none.
    """
    inputs = {key: one for key, one in inputs.items() if key not in NOT_READ and one is not None}
    tensors = {key: one for key, one in inputs.items() if isinstance(one, Tensor)}
    if not tensors:
        raise ValueError("there is nothing to read; give input_ids, inputs_embeds, or states that were read before")
    given = next(iter(tensors.values()))
    for key, one in tensors.items():
        if one.dim() < 3 or one.shape[:2] != given.shape[:2]:
            raise ValueError(
                f"{key} has shape {tuple(one.shape)} and must have (batch, {what}, sequence): as many {what} in each "
                f"question and in each input, here {tuple(given.shape[:2])}"
            )
    return given, {key: one.flatten(0, 1) if isinstance(one, Tensor) else one for key, one in inputs.items()}


def token_mask(
    features: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None, answer_mask: Tensor | None
) -> Tensor:
    """Return which tokens may be part of an answer, shaped as the inputs were: the answer mask's real tokens.

    Raises:
        ValueError: the masks are of other shapes than the features (batch, passages * sequence, hidden).
    """
    given = {"input_ids": input_ids, "attention_mask": attention_mask, "answer_mask": answer_mask}
    shapes = {key: tuple(one.shape) for key, one in given.items() if one is not None}
    shape = next(iter(shapes.values()), tuple(features.shape[:2]))
    if set(shapes.values()) - {shape} or (shape[0], math.prod(shape[1:])) != tuple(features.shape[:2]):
        raise ValueError(
            f"{shapes} do not go with states of {features.shape[1]} tokens for each of {len(features)} questions; "
            "all are (batch, sequence) or all (batch, passages, sequence)"
        )
    mask = torch.ones(shape, dtype=torch.bool, device=features.device)
    for one in (attention_mask, answer_mask):
        mask = mask if one is None else mask & one.bool().to(mask.device)
    return mask


def mask_scores(scores: Tensor, present: Tensor) -> Tensor:
    """Give the scores of what is not there the smallest number, so that a softmax makes it zero."""
    return scores.masked_fill(~present.bool().to(scores.device), torch.finfo(scores.dtype).min)
