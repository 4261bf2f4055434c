"""One pass of encoder and adapters over rows of token ids, and what fusion and head make of it.

Dimensions: B rows, S sequence, n positions that a head reads, H encoder width, K adapters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .engines import Graph
from .parts import Adapter, Head
from .rows import gathered, present, spread

__all__ = ["STATE", "ExportedOutput", "States", "fused", "run_encoder"]

STATE = "hidden_state_{}"


@dataclass
class ExportedOutput:
    """What an exported model returns.

    Args:
        last_hidden_state: fused features where the head reads them, (batch, n, hidden); without a head at all tokens.
        logits: the head's, shaped as those of the model that was exported; None without a head.
        start_logits: of a head for answers, shaped as `input_ids`, with the smallest number outside of answers.
        end_logits: likewise.
        backbone_hidden_state: the encoder's last hidden state where the head reads it.
        adapter_hidden_states: for each adapter in use what was fused of it, NaN in rows that do not go through it.
    """

    last_hidden_state: np.ndarray | None = None
    logits: np.ndarray | None = None
    start_logits: np.ndarray | None = None
    end_logits: np.ndarray | None = None
    backbone_hidden_state: np.ndarray | None = None
    adapter_hidden_states: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class States:
    """What encoder and adapters return for rows, off which any number of heads may read.

    Args:
        inputs: token ids, mask and what else came with them, each (B, ...).
        rows: the adapters that each row goes through.
        backbone: the encoder's last hidden state, (B, S, H).
        adapted: for each adapter in use the numbers of its rows, and its output for them, (rows, S, H).
    """

    inputs: dict[str, np.ndarray]
    rows: Sequence[tuple[str, ...]]
    backbone: np.ndarray
    adapted: dict[str, tuple[np.ndarray, np.ndarray]]

    def of(self, chosen: np.ndarray) -> States:
        """Return the states of some rows, in the order of their numbers."""
        if len(chosen) == len(self.rows):
            return self
        adapted = {}
        for name, (own, states) in self.adapted.items():
            there = np.isin(own, chosen)
            if there.any():
                adapted[name] = np.searchsorted(chosen, own[there]), states[there]
        inputs = {name: value[chosen] for name, value in self.inputs.items()}
        return States(inputs, [self.rows[row] for row in chosen], self.backbone[chosen], adapted)


def run_encoder(
    encoder: Graph, adapters: Mapping[str, Adapter], rows: Sequence[tuple[str, ...]], inputs: dict[str, np.ndarray]
) -> States:
    """Run the encoder on all rows, and each adapter on those that go through it; what is equal is computed once.

    So a text that is asked by several adapters or heads is read once.
    """
    first, text_of = _distinct(encoder, inputs)
    states = encoder.run({name: value[first] for name, value in inputs.items() if name in encoder.inputs})
    adapted = {}
    for name, adapter in adapters.items():
        own = np.array([row for row, names in enumerate(rows) if name in names], dtype=np.int64)
        if not len(own):
            continue
        texts, place = np.unique(text_of[own], return_inverse=True)
        read = {STATE.format(layer): states[STATE.format(layer)] for layer in adapter.layers}
        read["attention_mask"] = inputs["attention_mask"][first]
        if len(texts) < len(first):
            read = {key: value[texts] for key, value in read.items()}
        output = adapter.graph.run(read)["adapter_hidden_state"]
        adapted[name] = own, output if np.array_equal(texts, text_of[own]) else output[place]
    backbone = states["last_hidden_state"]
    return States(inputs, rows, backbone if len(first) == len(rows) else backbone[text_of], adapted)


def _distinct(encoder: Graph, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows whose inputs no earlier row has, (texts,), and for each row the place of its own there, (B,)."""
    read = [value.reshape(len(value), -1) for name, value in inputs.items() if name in encoder.inputs]
    places: dict[bytes, int] = {}
    first: list[int] = []
    text_of = np.zeros(len(read[0]), dtype=np.int64)
    for row in range(len(text_of)):
        key = b"".join(value[row].tobytes() for value in read)
        if key not in places:
            places[key] = len(first)
            first.append(row)
        text_of[row] = places[key]
    return np.array(first, dtype=np.int64), text_of


def fused(head: Head, states: States, positions: np.ndarray | None) -> ExportedOutput:
    """Return what fusion and head make of states at positions (B, n), None for all of them."""
    batch, backbone = len(states.rows), gathered(states.backbone, positions)
    features, shown = {}, {}
    for name, (own, whole) in states.adapted.items():
        at = positions if positions is None or len(own) == batch else positions[own]
        read = gathered(whole, at)
        features[name], shown[name] = spread(read, own, batch, 0.0), spread(read, own, batch, math.nan)
    names = head.entry["adapters"]
    if names is None:  # a fusion without weights takes any adapters, and of none at all one that is absent
        names = list(features) or [""]
    each = [features.get(name, np.zeros_like(backbone)) for name in names]
    stacked = each[0][None] if len(each) == 1 else np.stack(each)  # (K, B, n, H)
    arrays = {**states.inputs, "backbone_hidden_state": backbone, "adapter_hidden_states": stacked}
    outputs = head.graph.run({**arrays, "present": present(states.rows, names)})
    return ExportedOutput(
        outputs["last_hidden_state"],
        outputs.get("logits"),
        backbone_hidden_state=backbone,
        adapter_hidden_states=shown,
    )
