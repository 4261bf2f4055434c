"""The tokenizer that an artifact is saved with: its backbone's, as AutoTokenizer reads it, and without any code."""

import json
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import tokenizer_class_from_name
from transformers.utils import cached_file, logging

from .configuration_kadapter import KAdapterConfig
from .destination_kadapter import CONFIG

__all__ = ["VOCABULARIES", "backbone_tokenizer", "fits", "put_tokenizer", "read_tokenizer"]

logger = logging.get_logger(__name__)
VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "bpe.codes"),
    *("sentencepiece.bpe.model", "spm.model", "spiece.model", "tokenizer.model"),
)
SETTINGS = "tokenizer_config.json"
TOKENIZER_FILES = (*VOCABULARIES, SETTINGS, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
CHAT = "chat_template.jinja"  # no encoder talks, and a template is a program
KIND = ("model_type", "tokenizer_class")  # of a backbone's configuration, from which a tokenizer's class is inferred


def read_tokenizer(source: str, config: KAdapterConfig, **reading: Any) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer in a directory or repository, or None where there is none that can be read without code.

    Where its files name no class, as in roberta-large's repository, class and special tokens follow from the kind of
    the backbone, whatever configuration lies beside them.
    """
    with tempfile.TemporaryDirectory() as folder:
        try:
            if not _fetch(source, Path(folder), reading):
                return None
            kind = {key: one for key, one in (config.backbone_config or {}).items() if key in KIND and one}
            Path(folder, CONFIG).write_text(json.dumps(kind), encoding="utf-8")
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except OSError:  # not at hand: an artifact is complete without
            return None
        except Exception as error:  # noqa: BLE001 (damaged files, for which libraries raise whatever they like)
            logger.warning(f"the tokenizer of {source!r} can't be read ({error}), so it is not saved along")
            return None
    tokenizer.chat_template = None
    return tokenizer


def _fetch(source: str, folder: Path, reading: dict[str, Any]) -> bool:
    """Copy a tokenizer's files without what names code; return whether it is one that needs none of its own."""
    options = {"_raise_exceptions_for_missing_entries": False, **reading}
    paths = {name: cached_file(source, name, **options) for name in TOKENIZER_FILES if name != CHAT}
    found = {name: path for name, path in paths.items() if path is not None}
    for name, path in found.items():
        shutil.copyfile(path, folder / name)
    if SETTINGS in found:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        code, named = settings.pop("auto_map", None), settings.get("tokenizer_class")
        if code and named and tokenizer_class_from_name(named) is None:
            logger.warning(f"the tokenizer of {source!r} needs code of its own, so it is not saved along")
            return False
        (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return bool(found.keys() & set(VOCABULARIES))


def fits(tokenizer: PreTrainedTokenizerBase, config: KAdapterConfig, own: PreTrainedTokenizerBase | None) -> bool:
    """Return whether a tokenizer is the backbone's `own`, or that with more tokens and other settings.

    Where the backbone has none at hand, or was trained along, only the number of its embeddings decides.
    """
    ids, size = tokenizer.get_vocab(), (config.backbone_config or {}).get("vocab_size")
    if size is not None and max(ids.values(), default=0) >= size:
        return False
    if own is None or config.backbone_modified:
        return True
    special = own.special_tokens_map.keys() <= tokenizer.special_tokens_map.keys()
    return special and all(ids.get(token) == number for token, number in own.get_vocab().items())


def put_tokenizer(
    config: KAdapterConfig, folder: Path, directory: Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> Collection[str]:
    """Write a model's tokenizer to `folder`, from where it comes to `directory`, and return which files there go.

    It is the given one, else that which stands in `directory` if it fits the backbone, else the backbone's own.
    """
    if tokenizer is None:
        own, another = backbone_tokenizer(config), _was_of_another(config, directory)
        # A directory that is new must not be taken for a repository of that name on the Hub.
        there = read_tokenizer(os.path.abspath(directory), config) if directory.is_dir() and not another else None
        belongs = there is not None and fits(there, config, own)
        if (belongs and _names_its_class(directory)) or (there is own is None and not another):
            return ()
        tokenizer = own or (there if belongs else None)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return [name for name in TOKENIZER_FILES if not (folder / name).exists()]


def backbone_tokenizer(config: KAdapterConfig) -> PreTrainedTokenizerBase | None:
    """Return the backbone's own tokenizer if it is at hand, without asking the Hub."""
    source = config.backbone_name_or_path
    if not source:
        return None
    return read_tokenizer(source, config, revision=config.backbone_revision, local_files_only=True)


def _names_its_class(directory: Path) -> bool:
    """Return whether a tokenizer is what it is wherever it lies; if not, it has lost its special tokens here."""
    try:
        return bool(json.loads((directory / SETTINGS).read_text(encoding="utf-8")).get("tokenizer_class"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _was_of_another(config: KAdapterConfig, directory: Path) -> bool:
    """Return whether a directory holds a model of another backbone, so that a tokenizer there is that one's."""
    try:
        earlier = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    for field in ("backbone_fingerprint", "backbone_name_or_path"):
        if earlier.get(field) and getattr(config, field):
            return earlier[field] != getattr(config, field)
    return False
