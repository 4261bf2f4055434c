"""Channels of activations and weights scaled against each other, so that 8 bits hold both (Xiao et al., ICML 2023).

A product of x and W stays what it is if channel j of x is divided by a number and row j of W multiplied by it. What is
taken so out of the few channels with outliers, the 8 bits of all others gain (SmoothQuant, arXiv 2211.10438).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["products", "smooth"]

PRODUCTS = ("MatMul", "Gemm")
SHARE = 0.5  # of a channel's range in powers, how much is moved from the activation to the weights, as published
SMALLEST, LARGEST = 1e-3, 1e3  # of scales around their mean
Product = tuple[Any, int]  # a node, and the axis of its weights that is summed over


def smooth(path: Path, inputs: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Scale what products with weights read in a graph by the values that inputs show, and their weights against it.

    Activations that meet the same weights, and weights that meet the same activation, share their scale.

    Args:
        path: the graph; it is replaced by one that computes the same.
        inputs: of the graph, such as sentences give them.
    """
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(path))
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    names = {node.name for node, _ in products(graph)}
    elsewhere = {name for node in graph.node if node.name not in names for name in node.input}  # tied embeddings, too
    found = [(node, axis) for node, axis in products(graph) if node.input[1] not in elsewhere]
    if not found:
        return
    largest = _largest(model, sorted({node.input[0] for node, _ in found}), inputs)
    divided: dict[str, Any] = {}  # the first product that reads an activation, and the node that scales it
    for number, group in enumerate(_sharing(found)):
        scale, name = _scale(group, largest, weights), f"smoothing_{number}"
        graph.initializer.append(numpy_helper.from_array(1 / scale, name))
        for weight, axis in {node.input[1]: axis for node, axis in group}.items():
            scaled = numpy_helper.to_array(weights[weight]) * (scale if axis else scale[:, None])
            weights[weight].CopyFrom(numpy_helper.from_array(scaled, weight))
        for read in dict.fromkeys(node.input[0] for node, _ in group):
            readers = [node for node, _ in group if node.input[0] == read]
            divided[readers[0].name] = helper.make_node("Mul", [read, name], [f"{read}_smoothed"], f"{read}_smoothing")
            for node in readers:
                node.input[0] = f"{read}_smoothed"
    ordered = [each for node in graph.node for each in (divided.get(node.name), node) if each is not None]
    del graph.node[:]
    graph.node.extend(ordered)
    onnx.save(model, str(path))


def products(graph: Any) -> list[Product]:
    """Return the products with a matrix of weights, and of each the axis of the weights over which it sums."""
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    return [
        (node, int(any(each.name == "transB" and each.i for each in node.attribute)))
        for node in graph.node
        if node.op_type in PRODUCTS and node.input[1] in matrices
    ]


def _sharing(found: Sequence[Product]) -> list[list[Product]]:
    """Return products in groups of which no two have an activation or a weight in common."""
    groups: list[list[Product]] = []
    for node, axis in found:
        near = [group for group in groups if any(set(other.input[:2]) & set(node.input[:2]) for other, _ in group)]
        groups = [group for group in groups if group not in near]
        groups.append([*(each for group in near for each in group), (node, axis)])
    return groups


def _scale(group: Sequence[Product], largest: Mapping[str, np.ndarray], weights: Mapping[str, Any]) -> np.ndarray:
    """Return by what each channel of a group's activations is divided, (channels,)."""
    from onnx import numpy_helper

    read = np.max([largest[node.input[0]] for node, _ in group], axis=0)
    rows = [np.abs(numpy_helper.to_array(weights[node.input[1]])).max(axis=1 - axis) for node, axis in group]
    scale = np.maximum(read, 1e-5) ** SHARE / np.maximum(np.max(rows, axis=0), 1e-5) ** (1 - SHARE)
    return np.clip(scale / np.exp(np.log(scale).mean()), SMALLEST, LARGEST).astype(np.float32)


def _largest(model: Any, names: Sequence[str], inputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the largest absolute value of each channel of these tensors, over all inputs of a graph."""
    import onnx
    import onnxruntime

    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    given = {each.name for each in watched.graph.input}
    shown = {each.name for each in watched.graph.output}
    computed = [name for name in names if name not in given]
    watched.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(each) for each in computed if each not in shown
    )
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    found: dict[str, np.ndarray] = {}
    for batch in inputs:
        values = {**batch, **dict(zip(computed, session.run(computed, dict(batch)) if computed else [], strict=True))}
        for name in names:
            own = np.abs(values[name]).reshape(-1, values[name].shape[-1]).max(axis=0)
            found[name] = np.maximum(found.get(name, 0), own)
    return found
