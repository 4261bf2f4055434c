"""Compose separately trained adapters into a single artifact, which AutoModel loads by its name."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..artifacts_kadapter import check_destination
from ..configuration_kadapter import WITHOUT_WEIGHTS, KAdapterConfig, check_choice, split_composition
from ..modeling_kadapter import KAdapterModel
from ..processing_kadapter import backbone_tokenizer, fits, read_tokenizer
from ._preflight import check_artifacts, check_number, refuse_used
from ._writing import describe

__all__ = ["compose"]

logger = logging.get_logger(__name__)


def compose(
    artifacts: Sequence[str | os.PathLike],
    output_dir: str | os.PathLike,
    *,
    backbone: Any = None,
    fusion: str | None = None,
    overwrite: bool = False,
    log: Callable[[str], None] = logger.info,
) -> KAdapterModel:
    """Compose artifacts that share a backbone into a directory of any name, and return the model.

    No code in the artifacts is run. The tokenizer is taken from the first
    artifact whose tokenizer fits the backbone, else from the backbone.

    Args:
        artifacts: Hub ids or directories, or shorthands such as "org/kadapter-fac+lin".
        output_dir: directory to write.
        backbone: the new location of the backbone, if it has moved.
        fusion: "add", "delta" or "max", which need no training; by default that of all artifacts if it is the same for
            all and needs none, else "add".
        overwrite: whether `output_dir` may hold files already.
        log: function that receives each line about the result.

    Raises:
        OSError: an artifact is missing, or `output_dir` is in use and `overwrite` is not set.
        ValueError: there are fewer than two adapters, the fusion is no such, or an artifact is damaged, or two have
            adapters of the same name or different backbones.
    """
    if fusion is not None:
        check_choice("fusion", fusion, WITHOUT_WEIGHTS)
    refuse_used(output_dir, overwrite)
    check_destination(output_dir, sources=[backbone] if isinstance(backbone, str | os.PathLike) else [])
    check_artifacts(artifacts)
    names = [name for artifact in artifacts for name in split_composition(artifact)]
    chosen = {} if fusion is None else {"fusion": fusion}
    model = KAdapterModel.from_pretrained(names, backbone=backbone, **chosen)
    check_number(names, len(model.config.adapters))
    model.save_pretrained(output_dir, tokenizer=_tokenizer_of(names, model.config))
    log(f"composed {' + '.join(names)}")
    describe(model, output_dir, log)
    return model


def _tokenizer_of(artifacts: Sequence[str], config: KAdapterConfig) -> PreTrainedTokenizerBase | None:
    """Return the first tokenizer of an artifact that fits the backbone, without running any code of the artifact."""
    own = backbone_tokenizer(config)
    # a model loads without its tokenizer too, so tokenizers that can't be fetched are skipped
    keywords = {"_raise_exceptions_for_connection_errors": False}
    tokenizers = (read_tokenizer(artifact, config, **keywords) for artifact in artifacts)
    return next((read for read in tokenizers if read is not None and fits(read, config, own)), None)
