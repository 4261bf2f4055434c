"""What the commands share in writing: they say what was saved, and how it is loaded."""

import os
from collections.abc import Callable
from pathlib import Path

from ..modeling_kadapter import KAdapterPreTrainedModel
from ..processing_kadapter import VOCABULARIES

__all__ = ["describe"]


def describe(model: KAdapterPreTrainedModel, directory: str | os.PathLike, report: Callable[[str], None]) -> None:
    """Report, a line at a time, what was saved to a directory and how it is loaded."""
    config = model.config
    fingerprint = f", fingerprint {config.backbone_fingerprint[:12]}" if config.backbone_fingerprint else ""
    report(f"backbone {config.backbone_name_or_path or 'given as a module'}{fingerprint}")
    for name in config.adapters:
        one = config.adapter_config(name)
        report(
            f"adapter {name}: layers {list(one.layers)}, inner width {one.hidden_size}, "
            f"{one.num_hidden_layers} blocks, {one.num_attention_heads} heads"
        )
    with_tokenizer = any(Path(directory, name).exists() for name in VOCABULARIES)
    report(f"fused by {config.fusion!r}, {'with its' if with_tokenizer else 'without a'} tokenizer")
    call = f'{model._auto_classes[0]}.from_pretrained("{directory}", trust_remote_code=True)'
    report(f"saved {type(model).__name__} to {directory}; load it by {call}")
