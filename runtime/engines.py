"""What runs a graph: ONNX Runtime or OpenVINO, which read the same files."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

__all__ = ["RUNTIMES", "Graph", "open_graph"]

RUNTIMES = ("onnx", "openvino")
LIBRARIES = {"onnx": "onnxruntime", "openvino": "openvino"}


class Graph(Protocol):
    """A graph that is ready to run, from any number of threads."""

    inputs: list[str]
    outputs: list[str]

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return all outputs by name; inputs that the graph does not have are left out."""


class OnnxRuntimeGraph:
    """A graph in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path, threads: int | None) -> None:
        library = library_of("onnx")
        options = library.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        # Several graphs take turns: threads of the one that has just run must not spin beside those of the next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A norm that is fused with a sum took longer than both apart on the CPU that was measured (docs/export.md).
        apart = {"providers": ["CPUExecutionProvider"], "disabled_optimizers": ["SkipLayerNormFusion"]}
        self._session = library.InferenceSession(str(path), options, **apart)
        self.inputs = [each.name for each in self._session.get_inputs()]
        self.outputs = [each.name for each in self._session.get_outputs()]

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return all outputs by name."""
        values = self._session.run(self.outputs, {name: inputs[name] for name in self.inputs})
        return dict(zip(self.outputs, values, strict=True))


class OpenVinoGraph:
    """A graph in OpenVINO, on the CPU, in the precision in which it was written."""

    def __init__(self, path: Path, threads: int | None) -> None:
        library = library_of("openvino")
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        self._compiled = library.Core().compile_model(str(path), "CPU", settings)
        self.inputs = [each.get_any_name() for each in self._compiled.inputs]
        self.outputs = [each.get_any_name() for each in self._compiled.outputs]

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return all outputs by name."""
        request = self._compiled.create_infer_request()
        request.infer({name: inputs[name] for name in self.inputs}, share_inputs=True)
        # a copy, since the request's own memory goes with it
        return {name: np.array(request.get_tensor(name).data) for name in self.outputs}


ENGINES: dict[str, Any] = {"onnx": OnnxRuntimeGraph, "openvino": OpenVinoGraph}


def library_of(runtime: str) -> ModuleType:
    """Return the library of a runtime.

    Raises:
        ImportError: it is not installed.
        ValueError: there is no such runtime.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime={runtime!r} must be one of {list(RUNTIMES)}")
    try:
        return importlib.import_module(LIBRARIES[runtime])
    except ImportError as error:
        raise ImportError(
            f"runtime {runtime!r} needs {LIBRARIES[runtime]}, which is not installed ({error}); pip install "
            f"'kadapter[{runtime}]', or choose the other runtime"
        ) from error


def open_graph(
    path: Path,
    runtime: str,
    threads: int | None = None,
    needed: Sequence[str] = (),
    offered: Collection[str] | None = None,
) -> Graph:
    """Open a graph, which must have the outputs that are `needed` and read none but the inputs that are `offered`.

    Raises:
        ImportError: the runtime is not installed.
        ValueError: the file is no graph that the runtime reads, or of other inputs or outputs.
    """
    library_of(runtime)
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(
            f"threads={threads!r} must be a whole number of at least 1; leave it out for as many as there are cores"
        )
    try:
        graph: Graph = ENGINES[runtime](path, threads)
    except Exception as error:  # of whatever type a runtime has for it
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} is no graph that {LIBRARIES[runtime]} reads ({reason}); export it anew") from error
    lacking = set(needed) - set(graph.outputs)
    if lacking:
        raise ValueError(f"{path} has the outputs {graph.outputs} and lacks {sorted(lacking)}; export it anew")
    unknown = set() if offered is None else set(graph.inputs) - set(offered)
    if unknown:
        raise ValueError(f"{path} reads {sorted(unknown)}, and there are {list(offered or ())}; export it anew")
    return graph
