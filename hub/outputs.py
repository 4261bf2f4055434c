"""What the commands share in writing: no used directory is touched unasked, and a tokenizer travels with the model."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from transformers.utils import cached_file

from ..artifacts_kadapter import write_directory
from ..modeling_kadapter import KAdapterPreTrainedModel

__all__ = ["describe", "refuse_used", "save_with_tokenizer"]

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "sentencepiece.bpe.model", "spiece.model", "spm.model"),
    "tokenizer.model",
)


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


def save_with_tokenizer(
    model: KAdapterPreTrainedModel, directory: str | os.PathLike, sources: Iterable[str | os.PathLike]
) -> str | None:
    """Save a model with the tokenizer files of the first source that has any, all at once, and return that source.

    Raises:
        OSError: the disk is full or the directory can't be written; what was there before is untouched.
    """
    found = next(((source, files) for source in sources if (files := _tokenizer_files(source))), (None, []))

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        for file in found[1]:
            shutil.copyfile(file, folder / Path(file).name)

    write_directory(Path(directory), fill)
    return None if found[0] is None else os.fspath(found[0])


def _tokenizer_files(source: str | os.PathLike) -> list[str]:
    forgiving = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,  # a model without its tokenizer still loads
    }
    paths = (cached_file(source, name, **forgiving) for name in TOKENIZER_FILES)
    return [path for path in paths if path is not None]


def describe(model: KAdapterPreTrainedModel, directory: str | os.PathLike, tokenizer: str | None) -> list[str]:
    """Return lines that say what was saved, and how it is loaded."""
    config = model.config
    fingerprint = f", fingerprint {config.backbone_fingerprint[:12]}" if config.backbone_fingerprint else ""
    lines = [f"backbone {config.backbone_name_or_path or 'given as a module'}{fingerprint}"]
    for name in config.adapters:
        one = config.adapter_config(name)
        lines.append(
            f"adapter {name}: layers {list(one.layers)}, inner width {one.hidden_size}, "
            f"{one.num_hidden_layers} blocks, {one.num_attention_heads} heads"
        )
    lines.append(f"fused by {config.fusion!r}, tokenizer {f'of {tokenizer}' if tokenizer else 'not found'}")
    auto = next(iter(model._auto_classes))
    lines.append(f'saved {type(model).__name__} to {directory}; load it by {auto}.from_pretrained("{directory}", ')
    lines[-1] += "trust_remote_code=True)"
    return lines
