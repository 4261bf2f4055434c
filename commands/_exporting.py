"""Load an artifact and export it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from .. import heads_kadapter, language_modeling_kadapter, modeling_kadapter
from ..configuration_kadapter import KAdapterConfig, split_composition
from ..exports.int8 import Calibration, Labelled
from ..exports.writing import ExportOptions, export
from ..processing_kadapter import backbone_tokenizer, read_tokenizer
from ._preflight import config_of

__all__ = ["export_artifact"]

HOMES = (heads_kadapter, language_modeling_kadapter, modeling_kadapter)


def export_artifact(
    artifact: str,
    output_dir: str | os.PathLike,
    fields: dict[str, Any],
    sentences: dict[str, Any] | None,
    fusion: dict[str, str],
    backbone: str | None,
    revision: str | None,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Export an artifact, and return its manifest; see `exports.writing.export`.

    Args:
        artifact: an id, a directory, or a shorthand.
        output_dir: directory to write.
        fields: those of `ExportOptions`, but for the calibration.
        sentences: for int8 the fields of `Calibration`, with those of `Labelled` under "labelled" or None there.
        fusion: {"fusion": ...} for another fusion than the artifact's, else empty.
        backbone: the new location of the backbone, if it has moved.
        revision: commit, tag or branch of the artifact.
        log: function that receives each line about the result.
    """
    calibration = None
    if sentences is not None:
        labelled = None if sentences["labelled"] is None else Labelled(**sentences["labelled"])
        calibration = Calibration(**{**sentences, "labelled": labelled})
    options = ExportOptions(calibration=calibration, **fields)
    options.check()
    where, reading = os.path.expanduser(artifact), {} if revision is None else {"revision": revision}
    names = split_composition(where)
    head = (
        "KAdapterModel"
        if len(names) > 1
        else (config_of(where, revision).get("architectures") or ["KAdapterModel"])[0]
    )
    model_class = next((getattr(home, head) for home in HOMES if hasattr(home, head)), modeling_kadapter.KAdapterModel)
    model = model_class.from_pretrained(where, backbone=backbone, dtype="float32", **fusion, **reading)
    manifest = export(model, output_dir, options, tokenizer_of(names[0], model.config, reading), log)
    size = sum(file["bytes"] for file in manifest["files"].values()) / 1e6
    call = f'kadapter.runtime.ExportedModel.from_directory("{output_dir}")'
    log(f"exported {head} to {output_dir}, {size:.1f} MB; run it with {call}")
    return manifest


def tokenizer_of(where: str, config: KAdapterConfig, reading: dict[str, Any]) -> Any:
    """Return the tokenizer of an artifact, else that of its backbone; None where neither has any."""
    return read_tokenizer(where, config, **reading) or backbone_tokenizer(config)
