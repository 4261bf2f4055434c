"""Describe a saved artifact and how to load it."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from ..modeling_kadapter import KAdapterPreTrainedModel
from ..processing_kadapter import VOCABULARIES

__all__ = ["describe", "tell", "written"]


def describe(model: KAdapterPreTrainedModel, directory: str | os.PathLike, log: Callable[[str], None]) -> None:
    """Log, a line at a time, what was saved to a directory and how to load it."""
    config = model.config
    fingerprint = f", fingerprint {config.backbone_fingerprint[:12]}" if config.backbone_fingerprint else ""
    log(f"backbone {config.backbone_name_or_path or 'given as a module'}{fingerprint}")
    for name in config.adapters:
        log(f"adapter {name}: {config.adapter_config(name).description}")
    with_tokenizer = any(Path(directory, name).exists() for name in VOCABULARIES)
    log(f"fused by {config.fusion!r}, {'with its' if with_tokenizer else 'without a'} tokenizer")
    call = f'{model._auto_classes[0]}.from_pretrained("{directory}", trust_remote_code=True)'
    log(f"saved {type(model).__name__} to {directory}; load it with {call}")


def tell(model: KAdapterPreTrainedModel, directory: str | os.PathLike, as_json: bool) -> None:
    """Print what was saved to a directory, in words or for a script."""
    if as_json:
        typer.echo(json.dumps(written(model, directory)))
    else:
        describe(model, directory, typer.echo)


def written(model: KAdapterPreTrainedModel, directory: str | os.PathLike) -> dict[str, Any]:
    """Return what was saved to a directory as plain values, for a script to read."""
    config = model.config
    return {
        "path": str(directory),
        "class": type(model).__name__,
        "adapters": list(config.adapters),
        "fusion": config.fusion,
        "backbone": config.backbone_name_or_path,
        "backbone_fingerprint": config.backbone_fingerprint,
        "files": {path.name: path.stat().st_size for path in sorted(Path(directory).iterdir()) if path.is_file()},
    }
