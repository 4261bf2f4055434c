"""Compose adapters that were trained apart into one artifact, which AutoModel then loads under one name."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import cached_file, logging

from ..modeling_kadapter import KAdapterModel
from ..saving_kadapter import TOKENIZER_FILES, write_directory
from .outputs import describe
from .preflight import check_parts, refuse_used

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

    The adapters are fused by "add"; none of the parts' code is run. The tokenizer is that of the first part that has
    one, else the backbone's. `backbone` says where the backbone is found now, if it moved. `report` is called with
    each line on what was composed.

    Raises:
        OSError: there is no such part, or `output_dir` is in use and `overwrite` is not set.
        ValueError: less than two adapters, or parts that are damaged, of one name or of different backbones.
    """
    refuse_used(output_dir, overwrite, [backbone] if isinstance(backbone, str | os.PathLike) else [])
    names = check_parts(parts)
    model = KAdapterModel.from_pretrained(names, backbone=backbone)
    files = next((files for name in names if (files := _tokenizer_of(name))), [])

    def fill(folder: Path) -> None:
        for file in files:  # first, since saving adds the backbone's tokenizer where there is none
            shutil.copyfile(file, folder / Path(file).name)
        model.save_pretrained(folder)

    write_directory(Path(output_dir), fill)
    report(f"composed {' + '.join(names)}")
    describe(model, output_dir, report)
    return model


def _tokenizer_of(part: str) -> list[str]:
    forgiving = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,  # a model without its tokenizer still loads
    }
    files = (cached_file(part, name, **forgiving) for name in TOKENIZER_FILES)
    return [file for file in files if file is not None]
