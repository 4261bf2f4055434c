"""The inputs of a batch, the positions of it that a head reads, and what becomes of its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = [
    "READS",
    "answered",
    "as_rows",
    "check_dimensions",
    "check_names",
    "checked",
    "positions_read",
    "sigmoid",
    "softmax",
    "taken_by",
]

# Which positions a head reads: all, each row's first or last token, or those that an input names.
READS = ("all", "first", "last", "entity_positions", "word_positions", "positions")
POSITIONS = READS[3:]
TOKENS = ("input_ids", "attention_mask", "token_type_ids")
SMALLEST = np.finfo(np.float32).min


def taken_by(entry: Mapping[str, Any]) -> list[str]:
    """Return the names of the inputs that a head of the manifest takes."""
    names = [*TOKENS, *(name for name in POSITIONS if name == entry["reads"])]
    return [*names, "answer_mask"] if entry["class"] == "KAdapterForQuestionAnswering" else names


def check_names(inputs: Mapping[str, Any], entry: Mapping[str, Any], graph: Sequence[str] | None) -> None:
    """Raise TypeError for an input that a head does not take, or that a single graph does not read."""
    taken = [name for name in taken_by(entry) if graph is None or name in (*TOKENS, *graph)]
    for name, value in inputs.items():
        if value is not None and name not in taken:
            what = f"an exported {entry['class']}" if graph is None else f"the single graph of a {entry['class']}"
            raise TypeError(f"{what} has no input {name!r}; leave it out, since it takes {', '.join(taken)}")


def checked(inputs: dict[str, Any], backbone: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return inputs as arrays of whole numbers, with a mask and token types, that the encoder can read."""
    arrays = {name: as_array(name, value) for name, value in inputs.items() if value is not None}
    for name, value in arrays.items():
        if value.dtype.kind not in "iub":
            raise TypeError(f"{name} has dtype {value.dtype}; give whole numbers")
        arrays[name] = np.ascontiguousarray(value, dtype=np.int64)
    if "input_ids" not in arrays:
        raise ValueError("input_ids are missing; give (batch, sequence)")
    ids = arrays["input_ids"]
    arrays.setdefault("attention_mask", np.ones_like(ids))
    arrays.setdefault("token_type_ids", np.zeros_like(ids))
    as_rows(arrays)
    if backbone["longest"] is not None and ids.shape[-1] > backbone["longest"]:
        raise ValueError(
            f"{ids.shape[-1]} tokens are more than the {backbone['longest']} that the backbone takes; cut them"
        )
    for name, size in (("input_ids", backbone["vocab_size"]), ("token_type_ids", backbone["type_vocab_size"])):
        for number in (int(arrays[name].min()), int(arrays[name].max())):
            if not 0 <= number < max(size, 1):
                raise ValueError(f"{name} holds {number}, and the encoder knows 0 to {max(size, 1) - 1}")
    return arrays


def as_array(name: str, value: Any) -> np.ndarray:
    """Return an input as an array; ValueError where its rows have unequal lengths."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} has rows of unequal lengths; pad them, and give attention_mask too") from error


def check_dimensions(head_class: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError for token ids of another number of dimensions than a head reads."""
    choices, answers = head_class == "KAdapterForMultipleChoice", head_class == "KAdapterForQuestionAnswering"
    if len(shape) != (3 if choices else 2) and not (answers and len(shape) == 3):
        named = "(batch, choices, sequence)" if choices else "(batch, sequence)"
        raise ValueError(f"input_ids has shape {shape}, and a {head_class} reads {named}; give it so")


def positions_read(reads: str, mentions: int, mask: np.ndarray, inputs: Mapping[str, Any]) -> np.ndarray | None:
    """Return the positions (batch, n) that a head reads, None for all of them.

    Raises:
        ValueError: the input that names them is missing or of another shape.
    """
    if reads in ("first", "last"):
        real = (mask != 0).astype(np.int64)
        real = real * np.arange(1, real.shape[1] + 1) if reads == "last" else real
        return real.argmax(axis=1)[:, None]
    given = inputs.get(reads)
    if reads == "all" or (reads == "positions" and given is None):
        return None
    shape = None if given is None else tuple(given.shape)
    if given is None or given.ndim != 2 or len(given) != len(mask) or (mentions and given.shape[1] != mentions):
        number = mentions or {"word_positions": "1 + words"}.get(reads, "n")
        raise ValueError(
            f"{reads} has shape {shape} and must have ({len(mask)}, {number}), (batch, n): give those that came with "
            "the token ids"
        )
    return given.astype(np.int64)


def as_rows(inputs: Mapping[str, np.ndarray]) -> tuple[tuple[int, ...], dict[str, np.ndarray]]:
    """Return the shape of token ids and all inputs as rows: of choices or passages (batch, number, sequence) too.

    Raises:
        ValueError: an input is of another shape than the token ids.
    """
    shape = inputs["input_ids"].shape
    if len(shape) not in (2, 3) or 0 in shape:
        raise ValueError(f"input_ids has shape {shape}; give (batch, sequence), with at least one token")
    for name in ("attention_mask", "token_type_ids", "answer_mask"):
        if name in inputs and inputs[name].shape != shape:
            raise ValueError(
                f"{name} has shape {inputs[name].shape} and must have {shape}, that of input_ids; give what came with "
                "them"
            )
    return shape, {
        name: value.reshape(-1, *value.shape[2:]) if len(shape) == 3 else value for name, value in inputs.items()
    }


def answered(
    head_class: str, logits: np.ndarray, shape: tuple[int, ...], mask: np.ndarray, answer_mask: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return the logits of rows as the head model has them: of choices (batch, choices), of answers start and end.

    Tokens that can't be part of an answer get the smallest number there is, so that a softmax makes them zero.
    """
    if head_class == "KAdapterForMultipleChoice":
        return {"logits": logits.reshape(shape[:2]) if len(shape) == 3 else logits}
    if head_class != "KAdapterForQuestionAnswering":
        return {"logits": logits}
    allowed = (mask != 0) if answer_mask is None else (mask != 0) & (answer_mask != 0)
    start, end = (np.where(allowed, logits[..., side], SMALLEST).reshape(shape) for side in (0, 1))
    return {"start_logits": start, "end_logits": end}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities of classes along the last axis."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return a probability for each logit, from exponents that can't overflow."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, small) / (1 + small)
