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
from ..several_heads_kadapter import KAdapterModelWithHeads
from ._choosing import chosen_head
from ._preflight import config_of

__all__ = ["export_artifact"]

HOMES = (heads_kadapter, language_modeling_kadapter, modeling_kadapter)


def export_artifact(
    artifact: str,
    output_dir: str | os.PathLike,
    fields: dict[str, Any],
    sentences: dict[str, Any] | None,
    fusion: dict[str, str],
    head: str | None,
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
        head: the name of the head that is exported, of an artifact of several.
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
    chosen = chosen_head(artifact, {} if len(names) > 1 else config_of(where, revision), head)
    model_class = class_of((chosen.get("architectures") or ["KAdapterModel"])[0], artifact)
    model_class = model_class if head is None else KAdapterModelWithHeads
    model = model_class.from_pretrained(where, backbone=backbone, dtype="float32", **fusion, **reading)
    model = model if head is None else model.heads[head]
    manifest = export(model, output_dir, options, tokenizer_of(names[0], model.config, reading), log)
    size = sum(file["bytes"] for file in manifest["files"].values()) / 1e6
    use = f'run it with kadapter.runtime.ExportedModel.from_directory("{output_dir}")'
    if options.adapters_only:
        use = f'add it to a kadapter.runtime.ExportedModel by add_adapter("{output_dir}")'
    log(f"exported {type(model).__name__} to {output_dir}, {size:.1f} MB; {use}")
    return manifest


def class_of(head: str, artifact: str) -> Any:
    """Return the class of a head by its name.

    Raises:
        ValueError: this package has none, and an export without its head would answer nothing.
    """
    for home in HOMES:
        if hasattr(home, head):
            return getattr(home, head)
    raise ValueError(f"{artifact} holds a {head}, not known here, so it has no exported form; use a newer kadapter")


def tokenizer_of(where: str, config: KAdapterConfig, reading: dict[str, Any]) -> Any:
    """Return the tokenizer of an artifact, else that of its backbone; None where neither has any."""
    return read_tokenizer(where, config, **reading) or backbone_tokenizer(config)
