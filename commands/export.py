"""The command `kadapter export`."""

import json
import os
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ._flags import AsJson, Backbone, OutputDir, Overwrite, Revision
from .compose import FusionMode

__all__ = ["run"]


class Runtime(StrEnum):
    """What runs the graphs by default; each reads those of the other."""

    ONNX = "onnx"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """In which precision the graphs of encoder and adapters multiply."""

    FP32 = "fp32"
    INT8 = "int8"


Artifact = Annotated[str, typer.Argument(help="Artifact: a Hub id, a directory, or a shorthand for several.")]
RuntimeOption = Annotated[Runtime, typer.Option(help="What runs the graphs.")]
PrecisionOption = Annotated[Precision, typer.Option(help="Precision of the encoder's and the adapters' products.")]
CalibrationFile = Annotated[
    Path | None, typer.Option("--calibration", help="For int8: a text file with a sentence of yours in each line.")
]
LabelledFile = Annotated[
    Path | None,
    typer.Option(
        "--labelled", help='For int8: labelled texts, {"text": ..., "label": ...} in each line, to measure it by.'
    ),
]
Single = Annotated[bool, typer.Option("--single", help="Write one graph of all, which takes no other adapters.")]
Taps = Annotated[
    list[int] | None, typer.Option("--tap", help="Further hidden state for adapters that are added later; repeatable.")
]
Head = Annotated[str | None, typer.Option("--head", help="Name of the head to export, of an artifact of several.")]
AdaptersOnly = Annotated[bool, typer.Option("--adapters-only", help="Leave out encoder and head, to add adapters.")]


def run(
    artifact: Artifact,
    output_dir: OutputDir,
    runtime: RuntimeOption = Runtime.ONNX,
    precision: PrecisionOption = Precision.FP32,
    calibration: CalibrationFile = None,
    labelled: LabelledFile = None,
    single: Single = False,
    tap: Taps = None,
    adapters_only: AdaptersOnly = False,
    fusion: FusionMode = None,
    head: Head = None,
    backbone: Backbone = None,
    revision: Revision = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Export an artifact to graphs for ONNX Runtime or OpenVINO, which kadapter.runtime runs without torch.

    Example: kadapter export org/kadapter-fac+lin -o exported

    The encoder becomes a graph with the hidden states that adapters tap, each adapter a graph, and fusion with head
    another, so that a running model takes further adapters. With --precision int8 the ranges of values are learned
    from --calibration, and what that changes is measured and noted in export.json. No code in the artifact is run.
    """
    from ._choosing import chosen_head
    from ._preflight import check_local, config_of, refuse_used

    refuse_used(output_dir, overwrite)
    check_local(artifact, revision)
    if "+" not in artifact:
        chosen_head(artifact, config_of(os.path.expanduser(artifact), revision), head)
    sentences = sentences_of(precision, calibration, labelled)
    typer.echo(f"exporting {artifact}", err=as_json)
    from ._exporting import export_artifact  # torch takes seconds to import

    fields: dict[str, Any] = {"runtime": runtime.value, "precision": precision.value, "single": single}
    fields |= {"taps": tap or [], "adapters_only": adapters_only}
    fused = {} if fusion is None else {"fusion": fusion.value}
    log = partial(typer.echo, err=as_json)
    manifest = export_artifact(artifact, output_dir, fields, sentences, fused, head, backbone, revision, log)
    if as_json:
        exported = (manifest["head"] or {"class": "KAdapterModel"})["class"]
        files = {name: file["bytes"] for name, file in manifest["files"].items()}
        said = {"path": str(output_dir), "class": exported, "adapters": list(manifest["adapters"]), "files": files}
        typer.echo(json.dumps(said))


def sentences_of(precision: Precision, calibration: Path | None, labelled: Path | None) -> dict[str, Any] | None:
    """Return what int8 learns from and is measured by; None for float32.

    Raises:
        OSError: there is no such file.
        ValueError: int8 lacks sentences, or a line is no labelled text.
    """
    from ._texts import calibration_of

    if calibration is not None:
        return calibration_of(calibration, labelled)
    if precision == Precision.INT8:
        raise ValueError(
            "precision int8 needs sentences to learn the ranges of values from; give --calibration FILE, a text file "
            "with one of your own sentences in each line, a hundred or more"
        )
    if labelled is not None:
        raise ValueError(
            "labelled texts measure int8; give --precision int8 and --calibration, too, or leave them out"
        )
    return None
