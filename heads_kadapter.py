"""Head models on the fused features, what they are made of, and their losses.

Dimensions: B batch, S sequence, H backbone width, W words, P passages, A answers, n positions that a head reads.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import ModelOutput

from .artifacts_kadapter import TASKS
from .backbone_kadapter import check_keywords, making_models_in_turn, pooler_of
from .configuration_kadapter import KAdapterConfig
from .modeling_kadapter import (
    Attention,
    Dropout,
    KAdapterModel,
    KAdapterPreTrainedModel,
    attention_mask_of,
    can_be_looked_at,
    check_mask,
    tokens_in,
)
from .processing_kadapter import best_spans, encode_choices, encode_passages, encode_words
from .rows_kadapter import RowAdapters

__all__ = [
    "IGNORED",
    "NOT_READ",
    "ArcHead",
    "EntityHead",
    "KAdapterForDependencyParsing",
    "KAdapterForEntityClassification",
    "KAdapterForEntityPairClassification",
    "KAdapterForMultipleChoice",
    "KAdapterForPairMatching",
    "KAdapterForQuestionAnswering",
    "KAdapterForSequenceClassification",
    "KAdapterForTokenClassification",
    "KAdapterHeadModel",
    "MatchHead",
    "PositionHead",
    "TokenHead",
    "check_classes",
    "cross_entropy",
    "multi_label_loss",
    "naming_inputs",
    "register_heads",
    "regression_loss",
    "sequence_loss",
    "spans_loss",
    "spans_of",
]

# ---- what heads are made of -----------------------------------------------------------------------------------------


# What forward takes beside the inputs of the backbone, and `read` does not look at.
OF_MAPS = ("knowledge_slots", "knowledge_embeds")  # dicts, where there are several maps
Forward = TypeVar("Forward", bound=Callable[..., Any])
NOT_READ = ("labels", "start_positions", "end_positions", "answer_spans", "answer_mask", "num_items_in_batch")


def naming_inputs(forward: Forward) -> Forward:
    """Name in the signature of a `forward` what reaches backbone, maps and the choice of adapters by keyword.

    By the signature transformers' Trainer knows which columns of a dataset a model takes; the others it drops.
    """
    own = inspect.signature(forward)
    parameters = [*own.parameters.values()]
    named = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in ("token_type_ids", "position_ids", "inputs_embeds", *OF_MAPS, "adapter_names")
        if name not in own.parameters
    ]
    signature = own.replace(parameters=[*parameters[:-1], *named, parameters[-1]])  # the last is **kwargs
    vars(forward)["__signature__"] = signature
    return forward


def number_of_labels(config: KAdapterConfig) -> int:
    """Return how many labels a head has."""
    return len(config.id2label or ())


class EntityHead(nn.Module):
    """Linear, dropout, Linear on the concatenated features of the mentions; no activation (official code)."""

    def __init__(self, config: KAdapterConfig, mentions: int) -> None:
        super().__init__()
        self.dense = nn.Linear(mentions * config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.hidden_size, number_of_labels(config))

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


class MatchHead(nn.Module):
    """BERT's pooler, a Linear and tanh, and a Linear that scores how well two texts match (BERT-PAIR)."""

    def __init__(self, config: KAdapterConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.hidden_size, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, pairs, hidden) to scores (batch, pairs)."""
        pooled = torch.tanh(self.dense(features.to(self.dense.weight.dtype)))
        return self.out_proj(self.dropout(pooled)).squeeze(-1)


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


# ---- the positions that a head reads --------------------------------------------------------------------------------


def check_positions(entity_positions: Tensor | None, mentions: int) -> Tensor:
    """Return the positions of so many mentions, (batch, mentions).

    Raises:
        ValueError: they are missing or of another shape.
    """
    shape = None if entity_positions is None else tuple(entity_positions.shape)
    if entity_positions is None or shape is None or len(shape) != 2 or shape[1] != mentions:
        raise ValueError(
            f"entity_positions has shape {shape} and must have (batch, {mentions}): the opening marker of each "
            "mention; encode_entities(tokenizer, texts, entity_spans) gives them"
        )
    return entity_positions


def summary_tokens(attention_mask: Tensor | None, inputs: Tensor, last: bool) -> Tensor:
    """Return the position (batch, 1) of each row's first real token, or of its last, whatever stands around it."""
    if attention_mask is None:
        position = inputs.shape[1] - 1 if last else 0
        return torch.full((len(inputs), 1), position, dtype=torch.long, device=inputs.device)
    real = attention_mask.long()  # of booleans neither PyTorch nor ONNX takes argmax
    real = real * torch.arange(1, real.shape[1] + 1, device=real.device) if last else real
    return real.argmax(dim=1, keepdim=True)


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
    inputs = {key: value for key, value in inputs.items() if key not in NOT_READ and value is not None}
    several = {key: inputs.pop(key) for key in tuple(inputs) if key in OF_MAPS and isinstance(inputs[key], dict)}
    tensors = {key: value for key, value in inputs.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError("there is nothing to read; give input_ids, inputs_embeds, or states that were read before")
    first = next(iter(tensors.values()))
    for key, tensor in tensors.items():
        if tensor.dim() < 3 or tensor.shape[:2] != first.shape[:2]:
            raise ValueError(
                f"{key} has shape {tuple(tensor.shape)} and must have (batch, {what}, sequence): as many {what} in "
                f"each question and in each input, here {tuple(first.shape[:2])}"
            )
    rows = {key: value.flatten(0, 1) if isinstance(value, Tensor) else value for key, value in inputs.items()}
    names: Any = rows.get("adapter_names")
    if isinstance(names, RowAdapters):
        rows["adapter_names"] = names.repeated(first.shape[1])
    own_rows = {key: {name: own.flatten(0, 1) for name, own in values.items()} for key, values in several.items()}
    return first, {**rows, **own_rows}


def support_classes(support_labels: Tensor | None, scores: Tensor) -> Tensor:
    """Return which pairs are of which class, (batch, pairs, classes), 1 or 0.

    Raises:
        ValueError: `support_labels` are missing or of another shape than the scores (batch, pairs), or name no class.
    """
    if support_labels is None or support_labels.shape != scores.shape:
        shape = None if support_labels is None else tuple(support_labels.shape)
        raise ValueError(
            f"support_labels have shape {shape} and must have {tuple(scores.shape)}: for each pair the class of its "
            "second text, from 0 on, -1 where there are fewer pairs"
        )
    labels = support_labels.to(scores.device)
    number = int(labels.max()) + 1
    if number < 1:
        raise ValueError("all support_labels are -1, so there is no class to choose; number the classes from 0 on")
    return F.one_hot(labels.clamp(min=0), number) * (labels >= 0)[..., None]


def token_mask(
    features: Tensor, input_ids: Tensor | None, attention_mask: Tensor | None, answer_mask: Tensor | None
) -> Tensor:
    """Return which tokens may be part of an answer, shaped as the inputs were: the answer mask's real tokens.

    Raises:
        ValueError: the masks are of other shapes than the features (batch, passages * sequence, hidden).
    """
    tensors = {"input_ids": input_ids, "attention_mask": attention_mask, "answer_mask": answer_mask}
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items() if tensor is not None}
    shape = next(iter(shapes.values()), tuple(features.shape[:2]))
    if set(shapes.values()) - {shape} or (shape[0], math.prod(shape[1:])) != tuple(features.shape[:2]):
        raise ValueError(
            f"{shapes} do not go with states of {features.shape[1]} tokens for each of {len(features)} questions; "
            "all are (batch, sequence) or all (batch, passages, sequence)"
        )
    mask = torch.ones(shape, dtype=torch.bool, device=features.device)
    for part_mask in (attention_mask, answer_mask):
        mask = mask if part_mask is None else mask & part_mask.bool().to(mask.device)
    return mask


def mask_scores(scores: Tensor, present: Tensor) -> Tensor:
    """Give the scores of what is not there the smallest number, so that a softmax makes it zero."""
    return scores.masked_fill(~present.bool().to(scores.device), torch.finfo(scores.dtype).min)


# ---- losses: each a mean, or a sum divided by the number of items in the global batch -------------------------------


IGNORED = -100  # the label of what does not count


def cross_entropy(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
    """Mean over the labels that count, or their sum over the number of such labels in the whole (global) batch.

    Raises:
        ValueError: a label is no class of the logits, or labels are of another shape or no whole numbers.
    """
    if labels.is_floating_point() or labels.numel() != logits[..., 0].numel():
        shape = tuple(logits.shape[:-1])
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}, and must be {shape} whole numbers, a "
            "class each; other problems than classes are chosen by problem_type"
        )
    check_classes(labels, logits.shape[-1])
    logits, labels = logits.flatten(0, -2).float(), labels.flatten().to(logits.device).long()
    if num_items_in_batch is None:
        return F.cross_entropy(logits, labels)
    return _share(F.cross_entropy(logits, labels, reduction="sum"), num_items_in_batch)


def check_classes(labels: Tensor, number: int) -> None:
    """Raise ValueError for a label that is none of so many classes, unless it does not count."""
    if can_be_looked_at(labels):
        for label in labels[((labels < 0) & (labels != IGNORED)) | (labels >= number)][:1].tolist():
            raise ValueError(f"label {label} is none of the {number} classes, 0 to {number - 1}")


def multi_label_loss(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
    """Mean binary cross-entropy over all labels of all examples, or their sum over the number in the global batch.

    Raises:
        ValueError: the labels are not (batch, labels), or lie outside 0 to 1.
    """
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


def regression_loss(logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
    """Mean squared error over all values, or its sum over their number in the global batch.

    Raises:
        ValueError: the labels are not (batch, labels), or (batch,) for a single value.
    """
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


def sequence_loss(config: Any, logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor:
    """Return the loss of `config.problem_type`, which the first labels decide where it is None, as in transformers.

    One label is a regression; of several, whole numbers are classes, and others say of each class how true it is.

    Raises:
        ValueError: the labels are none of such a problem.
    """
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
    losses = (_occurrence_loss(start, spans, 1) + _occurrence_loss(end, spans, 2)) / 2
    number = answerable.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    return _share(losses.masked_fill(~answerable, 0.0).sum(), number)


def _occurrence_loss(scores: Tensor, spans: Tensor, column: int) -> Tensor:
    """Return - log of the summed probability of the tokens at which an answer starts, or ends: (batch,)."""
    flat = scores.flatten(1).float()  # (B, P * S)
    index = spans[..., 0] * scores.shape[-1] + spans[..., column]  # (B, A)
    there = spans[..., 0] >= 0
    occurs = torch.zeros_like(flat).scatter_add_(1, index.masked_fill(~there, 0), there.to(flat.dtype)) > 0
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


# ---- head models ----------------------------------------------------------------------------------------------------


class KAdapterHeadModel(KAdapterPreTrainedModel):
    """A `KAdapterModel` with a head on its fused features.

    What is frozen is read once and kept: `model(states=model.read(**inputs), **rest)` is `model(**inputs, **rest)`.
    """

    problem_types: tuple[str, ...] = ("single_label_classification",)  # those that its loss is for
    output_class: ClassVar[type[ModelOutput]] = SequenceClassifierOutput
    _own_inputs: tuple[str, ...] = ()  # keywords of the positions that it reads

    def __init__(
        self, config: KAdapterConfig, backbone: PreTrainedModel | None = None, head: nn.Module | None = None
    ) -> None:
        if config.problem_type is not None and config.problem_type not in self.problem_types:
            raise ValueError(
                f"problem_type={config.problem_type!r} means nothing to {type(self).__name__}, whose loss is for "
                f"{' or '.join(self.problem_types)}; choose such a one, or leave it out"
            )
        super().__init__(config)
        self.kadapter = KAdapterModel(config, backbone)
        self.head = self.build_head(config) if head is None else head
        self.post_init()

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head."""
        raise TypeError("a head model says how its head is built")

    def renew_head(self) -> None:
        """Put a new head in the place of this one, as a new model on this backbone has it."""
        self.head = self.build_head(self.config)

    @naming_inputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> ModelOutput | tuple:
        """Return logits and, given `labels`, the loss; the class says their shapes and which loss it is.

        `states`, what `read` returned for the same inputs, stand in for a run of backbone and adapters.
        `adapter_names` names the adapters of each row of a mixed batch, as `KAdapterModel.forward` says.

        Raises:
            TypeError: a keyword is unknown.
            ValueError: inputs and states are missing, inputs, states or labels have another shape, or
                `adapter_names` don't go with the batch or the adapters.
        """
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}
        logits = self.logits(self.fuse(states, **inputs), inputs)
        loss = None if labels is None else self.loss(logits, labels, num_items_in_batch, inputs)
        output = self.output_class(loss, logits)
        return output.to_tuple() if return_dict is False else output

    def logits(self, features: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Return the head's logits for the fused features (batch, n, hidden) of these inputs."""
        return self.head(features)

    def loss(self, logits: Tensor, labels: Tensor, num_items: Tensor | int | None, inputs: dict[str, Any]) -> Tensor:
        """Return the loss, a mean, or a sum divided by the number of items in the global batch."""
        return cross_entropy(logits, labels, num_items)

    def read(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return all that fusion and head read: {"backbone": R, "adapters.NAME": A}, where the head reads it.

        With "delta" and "max" it is "contributions.NAME" of each adapter, so that neither stands in for the other.
        With `adapter_names` it is of each adapter that a row names, and NaN in the rows that do not.
        Shapes: each (batch, n, hidden), n the positions that the head reads. Keywords are those of `forward`; labels
        may be among them and are not looked at.

        Raises:
            ValueError: inputs or positions are missing, of another shape or out of range.
        """
        inputs = {key: value for key, value in kwargs.items() if key not in NOT_READ}
        names = inputs.pop("adapter_names", None)
        self._check_keywords(inputs)
        tokens = input_ids if input_ids is not None else inputs.get("inputs_embeds")
        if tokens is None:
            raise ValueError(
                "there is nothing to read; give input_ids, inputs_embeds, or states that were read before"
            )
        check_mask(attention_mask, tokens, tokens_in(inputs.get("past_key_values")))
        positions = self._positions_read(tokens, attention_mask, inputs)
        backbone, adapters = self.kadapter.encode(input_ids, attention_mask, positions, names, **inputs)
        return {"backbone": backbone, **{self._source(name): states for name, states in adapters.items()}}

    def sources(self, row_adapters: RowAdapters | None = None) -> dict[str, str]:
        """Return for each adapter in use that makes features the key of what `read` returns of it."""
        return {name: self._source(name) for name in self.kadapter.adapters.fused_in(row_adapters)}

    def _source(self, name: str) -> str:
        return f"{self.kadapter.fusion.reads}.{name}"

    def _with_rows(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return inputs whose `adapter_names` were checked: before a text becomes several rows."""
        return {**inputs, "adapter_names": self.kadapter.row_adapters(inputs.pop("adapter_names", None), **inputs)}

    def _positions_read(self, tokens: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> Tensor | None:
        """Return the positions (batch, n) that the head reads, None for all; takes its keywords out of `inputs`."""
        return None

    def _check_keywords(self, inputs: dict[str, Any]) -> None:
        check_keywords(inputs, self.kadapter.backbone, (*self._own_inputs, *NOT_READ))
        for key in ("output_hidden_states", "output_attentions"):
            if inputs.get(key):
                raise TypeError(f"a head has no {key}: it reads few positions; call model.base_model(..., {key}=True)")

    def fuse(self, states: dict[str, Tensor] | None = None, **inputs: Any) -> Tensor:
        """Return the fused features (batch, n, hidden) of states, or of inputs that are read first.

        Raises:
            ValueError: the states are of other adapters than the active ones or of another shape, or inputs were given
                beside them; or they are of other `adapter_names` than these.
        """
        names, rows = inputs.pop("adapter_names", None), None
        if states is None:
            inputs["adapter_names"] = rows = self.kadapter.row_adapters(names, **inputs)
            states = self.read(**inputs)
            self._check_states(states, rows)
        elif any(inputs.get(key) is not None for key in ("input_ids", "inputs_embeds")):
            raise ValueError("give states or input_ids, not both: states are what was read of input_ids before")
        else:
            self._check_keywords(inputs)
            rows = self.kadapter.row_adapters(names, states.get("backbone"))
            self._check_states(states, rows)
            self._check_read(states, rows)
        adapters = {name: states[source] for name, source in self.sources(rows).items()}
        return self.kadapter.fusion.fuse_rows(states["backbone"], adapters, rows)

    def _check_states(self, states: dict[str, Tensor], row_adapters: RowAdapters | None) -> None:
        expected = ["backbone", *self.sources(row_adapters).values()]
        missing = set(expected) - set(states)
        if missing if row_adapters is not None else set(states) != set(expected):
            raise ValueError(
                f"states hold {sorted(states)}, and this model reads {sorted(expected)}; read them again with its read"
            )
        shape = (*states["backbone"].shape[:2], self.kadapter.backbone.config.hidden_size)
        for key, tensor in states.items():
            if tensor.shape != shape:
                raise ValueError(
                    f"states[{key!r}] has shape {tuple(tensor.shape)} and must have (batch, n, hidden), {shape}; read "
                    "it again with this model's read"
                )

    def _check_read(self, states: dict[str, Tensor], row_adapters: RowAdapters | None) -> None:
        """Refuse states of a mixed batch that hold nothing of an adapter in a row that names it."""
        if row_adapters is None:
            return
        for name, source in self.sources(row_adapters).items():
            tensor = states[source]
            if tensor.numel() and can_be_looked_at(tensor):
                empty = tensor[:, 0, 0].isnan()  # (B,)
                for row in (row for row in row_adapters.rows[name] if empty[row]):
                    raise ValueError(
                        f"adapter_names[{row}] names {name!r}, of which the states hold nothing in row {row}; read "
                        "them again with these adapter_names"
                    )


class KAdapterForSequenceClassification(KAdapterHeadModel):
    """Class of a whole text, several classes, or one or more numbers, read off its first token, of a decoder its last.

    Logits are (batch, labels). The loss is that of `config.problem_type`: the mean cross-entropy for classes (batch,),
    the binary cross-entropy for several labels of a text (batch, labels), or the squared error for numbers, (batch,)
    or (batch, labels). Where it is None the first labels decide, as in transformers, and it is stored.
    """

    _auto_classes = ("AutoModelForSequenceClassification",)
    problem_types = ("single_label_classification", "multi_label_classification", "regression")

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head for one position."""
        return EntityHead(config, mentions=1)

    def _positions_read(self, tokens: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> Tensor:
        return summary_tokens(attention_mask, tokens, last=self.kadapter.causal)

    def loss(self, logits: Tensor, labels: Tensor, num_items: Tensor | int | None, inputs: dict[str, Any]) -> Tensor:
        """Return the loss of `config.problem_type`, which the first labels decide where it is None."""
        return sequence_loss(self.config, logits, labels, num_items)


class KAdapterEntityModel(KAdapterHeadModel):
    """Base class for heads on the marked mentions of a text."""

    mentions = 1
    _own_inputs = ("entity_positions",)

    @classmethod
    def build_head(cls, config: KAdapterConfig) -> nn.Module:
        """Return a new head for the mentions."""
        return EntityHead(config, cls.mentions)

    def _positions_read(self, tokens: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> Tensor:
        return check_positions(inputs.pop("entity_positions", None), self.mentions)

    @naming_inputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        entity_positions: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> ModelOutput | tuple:
        """Return logits (batch, labels) and, given `labels`, the loss.

        `entity_positions` (batch, mentions): tokens of the opening markers, as `encode_entities` gives.

        Raises:
            ValueError: `entity_positions` are missing, too few or too many, or out of range; labels of another shape.
        """
        arguments = (attention_mask, labels, num_items_in_batch, return_dict, states)
        return super().forward(input_ids, *arguments, entity_positions=entity_positions, **kwargs)


class KAdapterForEntityClassification(KAdapterEntityModel):
    """Types of one marked mention, any number of them (the official heads of Open Entity and FIGER).

    Logits and labels are (batch, labels), 1 for each type that the mention has; the loss is the mean binary
    cross-entropy.
    """

    _auto_classes = ("AutoModelForSequenceClassification",)
    problem_types = ("multi_label_classification",)
    markers = (" @",)  # with the sign for a space before it, unlike the bare one of relations: so the official scripts

    def __init__(self, config: KAdapterConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config, backbone)
        config.problem_type = "multi_label_classification"

    def loss(self, logits: Tensor, labels: Tensor, num_items: Tensor | int | None, inputs: dict[str, Any]) -> Tensor:
        """Return the binary cross-entropy of each type for each mention."""
        return multi_label_loss(logits, labels, num_items)


class KAdapterForEntityPairClassification(KAdapterEntityModel):
    """Relation of a pair of marked mentions: the factual objective, and TACRED's head (fac-adapter.py).

    Mentions are head and tail, logits (batch, labels), labels (batch,); the loss is the mean cross-entropy.
    """

    _auto_classes = ("AutoModelForSequenceClassification",)
    mentions = 2


class KAdapterForMultipleChoice(KAdapterHeadModel):
    """The right one of several choices, each a text of its own, by its first token (the official head of CosmosQA).

    Beside a decoder, whose first token sees nothing of the text, it is the last token.
    `input_ids`, `attention_mask` and `position_ids` are (batch, choices, sequence), logits (batch, choices), labels
    (batch,); the loss is the mean cross-entropy.
    """

    _auto_classes = ("AutoModelForMultipleChoice",)
    output_class = MultipleChoiceModelOutput
    encode_choices = staticmethod(encode_choices)

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head with one score."""
        return TokenHead(config, outputs=1)

    def read(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return all that fusion and head read, (batch, choices, hidden) each; see `KAdapterHeadModel.read`."""
        given = self._with_rows({"input_ids": input_ids, "attention_mask": attention_mask, **kwargs})
        inputs, rows = as_rows(given, "choices")
        return {key: states.view(len(inputs), -1, states.shape[-1]) for key, states in super().read(**rows).items()}

    def _positions_read(self, tokens: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> Tensor:
        return summary_tokens(attention_mask, tokens, last=self.kadapter.causal)

    def logits(self, features: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Return a score for each choice, (batch, choices)."""
        return self.head(features).squeeze(-1)


class KAdapterForPairMatching(KAdapterForMultipleChoice):
    """The class of a text among those of a few labelled texts: how well it matches each (BERT-PAIR, FewRel 2.0).

    A pair is the text with a labelled one, `[CLS] text [SEP] labelled text [SEP]`, scored at its first token; a class
    has the mean score of its labelled texts. `input_ids` and so on are (batch, pairs, sequence), `support_labels`
    (batch, pairs) the classes of the labelled texts, logits (batch, classes), labels (batch,). As published for
    map-tuning (Zhang et al., ACL 2023) the loss is the SUM of the cross-entropies, not their mean, also over several
    batches of a step. `head.dense` is what BERT calls its pooler, and a new one begins as that of the backbone.
    """

    _own_inputs = ("support_labels",)

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head with a score for each pair."""
        return MatchHead(config)

    @classmethod
    @making_models_in_turn
    def from_backbone(cls, backbone: str | PreTrainedModel, **kwargs: Any) -> Any:
        """Return a model without adapters on a backbone, as the other models' `from_backbone`, with its pooler."""
        model = super().from_backbone(backbone, **kwargs)
        model._take_pooler()
        return model

    def renew_head(self) -> None:
        """Put a new head in the place of this one, which begins with the pooler of the backbone."""
        super().renew_head()
        self._take_pooler()

    def _take_pooler(self) -> None:
        pooler = pooler_of(self.kadapter.backbone, self.config)
        if {name: tensor.shape for name, tensor in pooler.items()} == {
            name: tensor.shape for name, tensor in self.head.dense.state_dict().items()
        }:
            self.head.dense.load_state_dict(pooler)

    def read(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return all that fusion and head read, (batch, pairs, hidden) each; see `KAdapterHeadModel.read`."""
        kwargs.pop("support_labels", None)
        return super().read(input_ids, attention_mask, **kwargs)

    @naming_inputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        support_labels: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> ModelOutput | tuple:
        """Return logits (batch, classes) and, given `labels` (batch,), the summed loss.

        `support_labels` (batch, pairs): the class of each pair's labelled text, from 0 on, -1 where a text has fewer
        pairs than others.

        Raises:
            ValueError: `support_labels` are missing or of another shape, or a label is no class.
        """
        arguments = (attention_mask, labels, num_items_in_batch, return_dict, states)
        return super().forward(input_ids, *arguments, support_labels=support_labels, **kwargs)

    def logits(self, features: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Return the mean score of each class, (batch, classes)."""
        scores = self.head(features)  # (B, P)
        classes = support_classes(inputs.get("support_labels"), scores)  # (B, P, N)
        counts = classes.sum(dim=1)  # (B, N)
        means = (scores[..., None] * classes).sum(dim=1) / counts.clamp(min=1)
        return mask_scores(means, counts > 0)

    def loss(self, logits: Tensor, labels: Tensor, num_items: Tensor | int | None, inputs: dict[str, Any]) -> Tensor:
        """Return the sum of the cross-entropies, whatever the number of items in the global batch."""
        return cross_entropy(logits, labels, 1)


class KAdapterForTokenClassification(KAdapterHeadModel):
    """Class of each token.

    Logits are (batch, sequence, labels); the loss is the mean cross-entropy over `labels` (batch, sequence) that are
    not -100.
    """

    _auto_classes = ("AutoModelForTokenClassification",)
    output_class = TokenClassifierOutput

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head for each token."""
        return TokenHead(config, number_of_labels(config))


class KAdapterForQuestionAnswering(KAdapterHeadModel):
    """The answer to a question as a span of one of its passages, each a text of its own with the question.

    The setting of SearchQA and Quasar-T in K-Adapter, section 4.2, whose code is not released: a Linear for start and
    end, a softmax over the tokens of all passages, every occurrence of an answer taken for right.
    """

    _auto_classes = ("AutoModelForQuestionAnswering",)
    encode_passages = staticmethod(encode_passages)
    best_spans = staticmethod(best_spans)

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new head for start and end."""
        return TokenHead(config, outputs=2)

    def read(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Return all that fusion and head read, (batch, passages * sequence, hidden); see `KAdapterHeadModel.read`."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}
        if input_ids is None or input_ids.dim() == 2:
            return super().read(**inputs)
        questions, rows = as_rows(self._with_rows(inputs), "passages")
        return {key: states.view(len(questions), -1, states.shape[-1]) for key, states in super().read(**rows).items()}

    @naming_inputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        answer_mask: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        answer_spans: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput | tuple:
        """Return start and end logits, shaped as `input_ids`, and the loss, given positions or spans.

        Shapes: `input_ids`, `attention_mask` and `answer_mask` (True for tokens that may be part of an answer) (batch,
        sequence) or (batch, passages, sequence); `start_positions` and `end_positions` (batch,) of a single passage,
        or `answer_spans` (batch, answers, 3) = (passage, start, end), all occurrences, padded with -1. The loss is
        minus the log of the summed probability of all occurrences, meaned over start and end and over the questions
        that have one. Where there is no mask beside `states`, they are taken for a single passage's.

        Raises:
            ValueError: an input has another shape, or a span lies outside of the answer mask.
        """
        features = self.fuse(states, input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        mask = token_mask(features, input_ids, attention_mask, answer_mask)  # (B, S) or (B, P, S)
        scores = self.head(features).float().unbind(dim=-1)
        start, end = (mask_scores(logits.view(mask.shape), mask) for logits in scores)
        spans = spans_of(start_positions, end_positions, answer_spans)
        loss = spans_loss(start, end, spans, num_items_in_batch)
        output = QuestionAnsweringModelOutput(loss, start, end)
        return output.to_tuple() if return_dict is False else output


class KAdapterForDependencyParsing(KAdapterHeadModel):
    """Head of each word among the words of its sentence: the linguistic objective."""

    _auto_classes = ("AutoModelForTokenClassification",)
    _own_inputs = ("word_positions",)
    output_class = TokenClassifierOutput
    encode_words = staticmethod(encode_words)

    @staticmethod
    def build_head(config: KAdapterConfig) -> nn.Module:
        """Return a new arc scorer, or the official positional head if the configuration says so."""
        return ArcHead(config) if config.dependency_head == "arc" else PositionHead(config)

    def _positions_read(self, tokens: Tensor, attention_mask: Tensor | None, inputs: dict[str, Any]) -> Tensor | None:
        word_positions = inputs.pop("word_positions", None)
        return None if self.config.dependency_head == "official" else check_words(word_positions)

    @naming_inputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        word_positions: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        states: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> ModelOutput | tuple:
        """Return logits and, given `labels`, the mean cross-entropy over those that are not -100.

        With the arc head `word_positions` (batch, 1 + words) are the tokens of the root (the first special token) and
        of each word's first sub-token, -1 where there is none; logits are (batch, words, 1 + words) and labels
        (batch, words), 0 for the root. With the official head logits are (batch, sequence, num_positions) and labels
        (batch, sequence), a position for each token.

        Raises:
            ValueError: `word_positions` are missing or out of range.
        """
        arguments = (attention_mask, labels, num_items_in_batch, return_dict, states)
        return super().forward(input_ids, *arguments, word_positions=word_positions, **kwargs)

    def logits(self, features: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Return a score for each head of each word, or for each position as the head of each token."""
        if self.config.dependency_head == "official":
            return self.head(features, inputs["attention_mask"])
        return self.head(features, check_words(inputs["word_positions"]) >= 0)

    def loss(self, logits: Tensor, labels: Tensor, num_items: Tensor | int | None, inputs: dict[str, Any]) -> Tensor:
        """Return the cross-entropy, of the official head without the labels of padding."""
        mask = inputs["attention_mask"]
        if self.config.dependency_head == "official" and mask is not None:
            labels = labels.masked_fill(mask == 0, -100)
        return super().loss(logits, labels, num_items, inputs)


def register_heads(names: Mapping[str, Any]) -> None:
    """Let the Auto classes answer for the head models among the names of a module.

    Of several heads they take the one that a checkpoint names, and where it names none the first: the general one.
    """
    heads = [names[name] for name in names["__all__"] if name.startswith("KAdapterFor")]
    for task in TASKS:
        name, general = f"AutoModelFor{task}", names.get(f"KAdapterFor{task}")
        if general in heads:
            others = [head for head in heads if name in head._auto_classes and head is not general]
            getattr(transformers, name).register(KAdapterConfig, (general, *others), exist_ok=True)


if __name__ == "kadapter.heads_kadapter":  # installed: as remote code it must not stand in for another repository's
    register_heads(globals())
