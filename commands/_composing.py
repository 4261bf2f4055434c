"""Compose adapters that were trained apart into one artifact, which AutoModel then loads under one name."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..artifacts_kadapter import check_destination
from ..configuration_kadapter import KAdapterConfig, split_composition
from ..modeling_kadapter import KAdapterModel
from ..processing_kadapter import backbone_tokenizer, fits, read_tokenizer
from ._preflight import check_number, look_over, refuse_used
from ._writing import describe

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
    one that fits the backbone, else the backbone's. `backbone` says where the backbone is found now, if it moved.
    `report` is called with each line on what was composed.

    Raises:
        OSError: there is no such part, or `output_dir` is in use and `overwrite` is not set.
        ValueError: less than two adapters, or parts that are damaged, of one name or of different backbones.
    """
    refuse_used(output_dir, overwrite)
    check_destination(output_dir, sources=[backbone] if isinstance(backbone, str | os.PathLike) else [])
    look_over(parts)
    names = [name for part in parts for name in split_composition(part)]
    model = KAdapterModel.from_pretrained(names, backbone=backbone)
    check_number(names, len(model.config.adapters))
    model.save_pretrained(output_dir, tokenizer=_tokenizer_of(names, model.config))
    report(f"composed {' + '.join(names)}")
    describe(model, output_dir, report)
    return model


def _tokenizer_of(parts: Sequence[str], config: KAdapterConfig) -> PreTrainedTokenizerBase | None:
    """Return the first part's tokenizer that fits the backbone, read without any code of the part."""
    own = backbone_tokenizer(config)
    # a model without its tokenizer still loads, so one that can't be fetched is passed over
    read = (read_tokenizer(part, config, _raise_exceptions_for_connection_errors=False) for part in parts)
    return next((one for one in read if one is not None and fits(one, config, own)), None)
