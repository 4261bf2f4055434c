"""Compose adapters that were trained apart into one artifact, which AutoModel then loads under one name."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from transformers.utils import logging

from ..artifacts_kadapter import split_composition
from ..modeling_kadapter import KAdapterModel
from .outputs import describe, refuse_used, save_with_tokenizer

__all__ = ["compose"]

logger = logging.get_logger(__name__)


def compose(
    parts: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    backbone: Any = None,
    overwrite: bool = False,
    report: Callable[[str], None] = logger.info,
) -> KAdapterModel:
    """Compose artifacts of one backbone into a directory of any name, and return the model.

    The adapters are fused by "add". None of the parts' code is run. The tokenizer files are those of the first part
    that has any. `backbone` says where the backbone is found now, if it moved. `report` is called with each line on
    what was composed.

    Raises:
        OSError: there is no such part, or `output_dir` is in use and `overwrite` is not set.
        ValueError: there are less than two adapters, a name occurs twice, a part is damaged, or the parts belong to
            different backbones.
    """
    refuse_used(output_dir, overwrite)
    names = [name for part in parts for name in split_composition(part)]
    try:
        model = KAdapterModel.from_pretrained(names, backbone=backbone)
    except OSError as error:  # what could not be found or read may be any part, or the backbone
        raise OSError(f"can't compose {' + '.join(names)}: {error}") from error
    if len(model.config.adapters) < 2:
        raise ValueError(f"{' + '.join(names)} has one adapter alone; name two artifacts or more")
    tokenizer = save_with_tokenizer(model, output_dir, names)
    report(f"composed {' + '.join(names)}")
    for line in describe(model, output_dir, tokenizer):
        report(line)
    return model
