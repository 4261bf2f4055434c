"""What the commands share in writing: no used directory is touched unasked, and they say what was saved."""

import os
from collections.abc import Callable
from pathlib import Path

from ..modeling_kadapter import KAdapterPreTrainedModel
from ..saving_kadapter import TOKENIZER_FILES

__all__ = ["describe", "refuse_used"]


def refuse_used(directory: str | os.PathLike, overwrite: bool) -> None:
    """Refuse an output directory in which something stands already, unless it may be overwritten.

    Raises:
        OSError: it is a file, or not empty.
    """
    path = Path(directory)
    if path.is_file():
        raise OSError(f"can't save to {str(path)!r}: it is a file; name a directory")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise OSError(f"{str(path)!r} is in use already; name another directory or pass --overwrite")


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
    with_tokenizer = any(Path(directory, name).exists() for name in TOKENIZER_FILES)
    report(f"fused by {config.fusion!r}, {'with its' if with_tokenizer else 'without a'} tokenizer")
    call = f'{model._auto_classes[0]}.from_pretrained("{directory}", trust_remote_code=True)'
    report(f"saved {type(model).__name__} to {directory}; load it by {call}")
