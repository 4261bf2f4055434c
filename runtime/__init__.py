"""Run an exported model: encoder, adapters and heads as graphs of ONNX Runtime or OpenVINO, without torch.

Nothing here imports torch or transformers, so that a process starts in well under a second. `kadapter export` writes
what is run.
"""

from .answers import Question
from .engines import RUNTIMES
from .manifest import FORMAT_VERSION, MANIFEST, Export, read_export
from .model import ExportedModel
from .passes import ExportedOutput

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "RUNTIMES",
    "Export",
    "ExportedModel",
    "ExportedOutput",
    "Question",
    "read_export",
]
