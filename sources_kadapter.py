"""Where adapters come from: an artifact may refer to an adapter by source, revision and hash instead of holding it."""

import copy
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.utils.hub import extract_commit_hash

from .backbone_kadapter import digest_of_tensor
from .shape_kadapter import PUBLISHED_SIZES, KnowledgeAdapterConfig

__all__ = [
    "adapter_hash",
    "checksum",
    "fetch_referred",
    "note_sources",
    "referred",
    "tensors_under",
    "with_sources",
]


def tensors_under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {key.removeprefix(prefix): one for key, one in tensors.items() if key.startswith(prefix)}


def adapter_hash(values: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Return a hash of an adapter's shape and of all its tensors by their names inside it.

    Of the shape, what has its default value or the published size is left out, so that fields of later versions
    change nothing.
    """
    shape = KnowledgeAdapterConfig.from_dict(values).to_dict()
    usual = {**KnowledgeAdapterConfig().to_dict(), **PUBLISHED_SIZES}
    own = {key: value for key, value in shape.items() if value != usual[key] and key not in ("training", "source")}
    total = hashlib.sha256(json.dumps(own, sort_keys=True).encode())
    for key in sorted(tensors):
        total.update(digest_of_tensor(key, tensors[key].detach().cpu()))
    return total.hexdigest()


def checksum(tensor: Tensor) -> str:
    """Return a checksum of a tensor's dtype, shape and bytes, which sees damage at twice the speed of a hash."""
    head = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    return f"{zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), head):08x}"


def note_sources(part: Any, hashes: dict[str, str], file: str, subfolder: str | None) -> dict[str, Any]:
    """Return an artifact's adapters, each that it holds itself with its source; `file` is one of the artifact's.

    `hashes` are those that were noted when it was saved; where one is missing it is computed.
    """
    where, tensors = part.where, part.tensors
    place = {
        "name_or_path": os.path.abspath(where) if os.path.isdir(where) else where,
        "revision": None if os.path.isdir(where) else extract_commit_hash(file, None),
        "subfolder": subfolder or "",
    }
    noted = {}
    for name, values in (part.config.get("adapters") or {}).items():
        own, found = tensors_under(f"adapters.{name}.", tensors), hashes.get(name)
        source = {**place, "adapter": name, "hash": found or adapter_hash(values, own)} if own else {}
        noted[name] = {**values, "source": values.get("source") or source}
    return noted


def referred(
    adapters: dict[str, Any], tensors: dict[str, Tensor], bundle_adapters: bool | None, directory: str
) -> list[str]:
    """Return the names of the adapters to which an artifact in this directory refers: those that are unchanged.

    None bundles those of local directories. One is never left out of the very directory that it came from.
    """
    names = []
    for name, values in adapters.items():
        source = values.get("source")
        if not source or bundle_adapters or (bundle_adapters is None and source.get("revision") is None):
            continue
        here = source.get("revision") is None and os.path.realpath(source["name_or_path"]) == os.path.realpath(
            directory
        )
        if not here and adapter_hash(values, tensors_under(f"adapters.{name}.", tensors)) == source["hash"]:
            names.append(name)
    return names


def with_sources(config: Any, names: Sequence[str]) -> Any:
    """Return a copy of a model's configuration with the sources of these adapters and of no others."""
    config = copy.copy(config)
    config.adapters = {
        name: {**values, "source": values.get("source", {}) if name in names else {}}
        for name, values in config.adapters.items()
    }
    return config


def fetch_referred(
    adapters: dict[str, Any], where: str, reading: dict[str, Any], read: Callable[..., Any]
) -> dict[str, Tensor]:
    """Return the tensors, by their names in the model, of the adapters to which an artifact refers.

    `read` reads what an artifact itself holds.

    Raises:
        OSError: a source can't be read.
        ValueError: a source has no such adapter any more, or another than when the head was trained.
    """
    tensors: dict[str, Tensor] = {}
    for name, values in adapters.items():
        source = values.get("source")
        if not source:
            continue
        own = {key: one for key, one in reading.items() if key not in ("revision", "subfolder")}
        own.update({key: source[key] for key in ("revision", "subfolder") if source.get(key)})
        told = f"{source['name_or_path']!r}" + (f" (revision {own['revision']})" if "revision" in own else "")
        try:
            part = read(source["name_or_path"], **own)
        except OSError as error:
            raise OSError(
                f"adapter {name!r}, with which {where} was trained, can't be read from {told}: {error}. Put it back "
                "there, or save the model with bundle_adapters=True where it still loads"
            ) from error
        part.check()
        held = tensors_under(f"adapters.{source['adapter']}.", part.tensors)
        found = adapter_hash(part.config["adapters"][source["adapter"]], held) if held else "none"
        if found != source["hash"]:
            raise ValueError(
                f"adapter {name!r} has changed since {where} was trained with it: {told} holds {found[:12]} for "
                f"{source['adapter']!r}, not {source['hash'][:12]}; put the old one back, or train the head again"
            )
        tensors.update({f"adapters.{name}.{key}": one for key, one in held.items()})
    return tensors
