"""Trace a module to a graph by torch's exporter, compare both, and say in a sentence what can't be traced."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..runtime.engines import open_graph

__all__ = ["Traced", "check_exporter", "check_one_file", "shapes_of", "trace"]

NEEDED = ("onnx", "onnxscript")  # which torch.onnx imports when it is called
INLINE = 2**31 - 2**24  # bytes of weights that fit into one file, whose format counts in 32 bits
TRACED, COMPARED = (2, 7), ((1, 5), (3, 9))  # (batch, sequence) of samples; from sizes of 1 constants would be made
LONG = 160  # tokens of a further sample, beyond windows of local attention; or all that an encoder takes
CLOSE = 1e-4  # of the largest entry, by which a graph may differ from its module
Sample = dict[str, Any]


@dataclass(frozen=True)
class Traced:
    """A module that becomes a graph.

    Args:
        what: what it is, for sentences.
        module: the module, in eval mode.
        sample: returns its inputs by keyword, tensors or lists of tensors, for a number of rows and of tokens.
        dimensions: for each keyword the names of a tensor's dimensions; numbers are of a fixed size.
        inputs: the names of the graph's inputs.
        outputs: for each output of the graph the names of its dimensions.
        longest: the largest number of tokens that it takes; None for any.
        reads_padding: whether what stands at padded tokens may be read; a decoder's tokens see none after them.
    """

    what: str
    module: nn.Module
    sample: Callable[[int, int], Sample]
    dimensions: dict[str, tuple[str | int, ...]]
    inputs: list[str]
    outputs: dict[str, tuple[str | int, ...]]
    longest: int | None = None
    reads_padding: bool = True

    @property
    def size(self) -> int:
        """The bytes of its weights."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.module.parameters())


def check_exporter() -> None:
    """Raise ImportError where a library that torch's exporter needs is not installed."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"exporting needs {name}, which is not installed; pip install 'kadapter[onnx]'"
            ) from error


def check_one_file(traced: Traced) -> None:
    """Raise ValueError for more weights than one file holds, which is all that int8 reads."""
    if traced.size > INLINE:
        raise ValueError(
            f"{traced.what} has {traced.size / 1e9:.1f} GB of weights, and int8 takes up to {INLINE / 1e9:.1f}; "
            "export it in fp32"
        )


def trace(traced: Traced, path: Path, runtime: str) -> None:
    """Write the graph of a module, and compare what a runtime makes of it with the module, which stays as it is.

    Weights of 2 GB and more go to a file beside it.

    Raises:
        ImportError: the runtime is not installed.
        ValueError: torch's exporter can't trace the module, or the graph returns something else.
    """
    sizes = [*COMPARED, (2, min(LONG, traced.longest or LONG))]
    expected = {each: outputs_of(traced, *each) for each in sizes}
    sample = traced.sample(*TRACED)
    try:
        with quietly(), torch.no_grad():
            torch.onnx.export(
                twin(traced.module),
                (),
                str(path),
                kwargs=sample,
                input_names=traced.inputs,
                output_names=list(traced.outputs),
                dynamic_shapes=free_dimensions(sample, traced.dimensions),
                dynamo=True,
                external_data=traced.size > INLINE,
                verbose=False,
            )
    except Exception as error:
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())[:300]
        raise ValueError(
            f"torch's exporter can't trace {traced.what} ({type(cause).__name__}: {reason}); use another backbone or "
            "kind of adapter for an export, and run this one in PyTorch"
        ) from error
    compare(traced, expected, path, runtime)


def twin(module: nn.Module) -> nn.Module:
    """Return a copy of a module in eval mode that shares its weights, so that what a run changes is not the user's."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, dict(tensors)).eval()


def outputs_of(traced: Traced, batch: int, sequence: int) -> Sequence[Tensor]:
    """Return what PyTorch makes of a sample.

    Raises:
        ValueError: the module replaces a part of itself on the way, which a graph can't.
    """
    module = twin(traced.module)
    before = {name: type(each).__name__ for name, each in module.named_modules()}
    with quietly(), torch.no_grad():
        outputs = module(**traced.sample(batch, sequence))
    after = {name: type(each).__name__ for name, each in module.named_modules()}
    for name, kind in before.items():
        if after.get(name) != kind:
            raise ValueError(
                f"{traced.what} replaces its {kind} ({name}) by a {after.get(name)} for {sequence} tokens, and a "
                "graph is the same for all lengths; load it so that it keeps its parts (a BigBird with "
                "backbone_kwargs={'attention_type': 'original_full'}), or run this model in PyTorch"
            )
    return outputs


def free_dimensions(sample: Sample, dimensions: dict[str, tuple[str | int, ...]]) -> dict[str, Any]:
    """Return which dimensions of a sample may have any size, as `torch.export` takes them."""
    free: dict[str, Any] = {}
    for name, value in sample.items():
        sizes = {at: torch.export.Dim.DYNAMIC for at, size in enumerate(dimensions[name]) if isinstance(size, str)}
        free[name] = [sizes] * len(value) if isinstance(value, list) else sizes
    return free


def compare(traced: Traced, expected: dict[tuple[int, int], Sequence[Tensor]], path: Path, runtime: str) -> None:
    """Raise ValueError where a graph returns something else than its module, for sizes that were not traced."""
    graph = open_graph(path, runtime, needed=list(traced.outputs))
    for (batch, sequence), tensors in expected.items():
        sample = traced.sample(batch, sequence)
        flat = [tensor for value in sample.values() for tensor in (value if isinstance(value, list) else [value])]
        found = graph.run({name: tensor.numpy() for name, tensor in zip(traced.inputs, flat, strict=True)})
        for name, tensor in zip(traced.outputs, tensors, strict=True):
            difference = largest_difference(tensor, found[name], real_tokens(traced, name, sample))
            if not difference <= CLOSE:
                raise ValueError(
                    f"the graph of {traced.what} differs from PyTorch by {difference:.1e} of the largest entry of "
                    f"{name} for {batch} rows of {sequence} tokens; run this model in PyTorch"
                )


def real_tokens(traced: Traced, output: str, sample: Sample) -> np.ndarray | None:
    """Return which tokens of an output are compared; None for all that it has."""
    mask, dimensions = sample.get("attention_mask"), traced.dimensions.get("attention_mask", ())
    if traced.reads_padding or mask is None or traced.outputs[output][: len(dimensions)] != dimensions:
        return None
    return mask.bool().numpy()


def largest_difference(expected: Tensor, found: np.ndarray, real: np.ndarray | None = None) -> float:
    """Return the largest difference as a share of the largest entry, of `real` tokens if they are named.

    At others there must be numbers at least, since they are multiplied by zeros.
    """
    wanted = expected.numpy()
    if wanted.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    if real is not None:
        wanted, found = wanted[real], found[real]
    return float(np.abs(wanted - found).max() / max(float(np.abs(wanted).max()), 1e-12))


def shapes_of(traced: Traced) -> dict[str, dict[str, list[str | int]]]:
    """Return the shapes of a graph's inputs and outputs by name, with names for dimensions of any size."""
    sample = traced.sample(*TRACED)
    dimensions = [
        traced.dimensions[name] for name, value in sample.items() for _ in (value if isinstance(value, list) else [0])
    ]
    inputs = {name: list(shape) for name, shape in zip(traced.inputs, dimensions, strict=True)}
    return {"inputs": inputs, "outputs": {name: list(shape) for name, shape in traced.outputs.items()}}


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep the notes of models, exporters and quantizers about their own inside away from users, in a block.

    PyTorch prints the graph of what it can't trace. One of ONNX Runtime's modules sets up the logging of the whole
    process when it is imported; that is undone.
    """
    root = logging.getLogger()
    names = ["torch.onnx", "onnxscript", "onnx_ir", "torch.export", "onnxruntime", "transformers"]
    names += ["torch.fx.experimental.symbolic_shapes"]
    loggers, handlers = [root, *map(logging.getLogger, names)], list(root.handlers)
    levels = [each.level for each in loggers]
    for each in loggers[1:]:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
        root.handlers[:] = handlers
