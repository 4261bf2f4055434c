"""What an artifact holds, read off its configuration and the header of its weights, without torch and transformers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import HTTPError, NotASafetensorsRepoError, SafetensorsParsingError

from ._preflight import config_of, file_of, is_remote, read_header

__all__ = ["described", "header_of", "summary"]

SHAPE = ("layers", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
RESULTS = "all_results.json"  # which transformers' Trainer writes
BUFFERS = ("backbone_rms",)  # tensors that are no parameters
TIMES = ("_runtime", "_per_second", "epoch", "flos")
BACKBONE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")


def summary(artifact: str, revision: str | None = None) -> dict[str, Any]:
    """Return what an artifact holds, as plain values: `--json` of `kadapter inspect` prints them.

    Raises:
        OSError: there is no such artifact.
        ValueError: it is damaged, or of another model.
    """
    name = os.path.expanduser(artifact)
    config = config_of(name, revision)
    commit = Path(file_of(name, CONFIG_NAME, revision)).parent.name if is_remote(name) else None
    tensors, metadata = header_of(name, commit)
    try:
        return {
            "artifact": artifact,
            "revision": commit,
            "model": (config.get("architectures") or ["KAdapterModel"])[0],
            "backbone": _backbone(config, tensors),
            "fusion": {"name": config.get("fusion", "add"), **_size(tensors, "fusion.")},
            "adapters": _adapters(config, tensors, json.loads(metadata.get("hashes", "{}"))),
            "head": _head(config, tensors),
            "heads": _heads(config, tensors),
            "results": _results(Path(name)),
            "record_digest": config.get("record_digest"),
            **_size(tensors, ""),
        }
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{artifact}: {CONFIG_NAME} and the header of {SAFETENSORS_SINGLE_FILE} describe no K-Adapter model "
            f"({error}); fetch or save the artifact again"
        ) from error


def header_of(name: str, commit: str | None = None) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return dtype, shape and bytes of an artifact's tensors, by their names in the model, and the metadata.

    Of weights on the Hub that are not in the cache only the header is fetched.

    Raises:
        OSError: there are none.
        ValueError: they are damaged.
    """
    config = Path(file_of(name, CONFIG_NAME, commit))
    if is_remote(name) and not (config.parent / SAFETENSORS_SINGLE_FILE).exists():
        header = _remote_header(name, commit)
    else:
        header = read_header(file_of(name, SAFETENSORS_SINGLE_FILE, commit))
    metadata = header.pop("__metadata__", None) or {}
    try:
        tensors = {
            key.removeprefix("kadapter."): {
                "dtype": entry["dtype"],
                "shape": [int(length) for length in entry["shape"]],
                "bytes": int(entry["data_offsets"][1]) - int(entry["data_offsets"][0]),
            }
            for key, entry in header.items()
        }
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the header of the weights of {name} is damaged ({error}); fetch it again") from error
    return tensors, metadata


def _remote_header(name: str, commit: str | None) -> dict[str, Any]:
    try:
        read = HfApi().parse_safetensors_file_metadata(name, SAFETENSORS_SINGLE_FILE, revision=commit)
    except (HTTPError, OSError, NotASafetensorsRepoError, SafetensorsParsingError) as error:
        raise OSError(f"the header of {SAFETENSORS_SINGLE_FILE} of {name!r} can't be read ({error})") from error
    tensors = {
        key: {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": tensor.data_offsets}
        for key, tensor in read.tensors.items()
    }
    return {**tensors, "__metadata__": read.metadata}


def _size(tensors: dict[str, dict[str, Any]], prefix: str) -> dict[str, int]:
    own = {key: entry for key, entry in tensors.items() if key.startswith(prefix)}
    weights = [entry["shape"] for key, entry in own.items() if key.rpartition(".")[2] not in BUFFERS]
    return {"parameters": sum(map(math.prod, weights)), "bytes": sum(entry["bytes"] for entry in own.values())}


def _backbone(config: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    stored = config.get("backbone_config") or {}
    modified = bool(config.get("backbone_modified"))
    return {
        "name_or_path": config.get("backbone_name_or_path"),
        "revision": config.get("backbone_revision"),
        "fingerprint": config.get("backbone_fingerprint"),
        **{key: stored[key] for key in BACKBONE if key in stored},
        "modified": modified,
        **(_size(tensors, "backbone.") if modified else {}),
    }


def _adapters(config: dict[str, Any], tensors: dict[str, Any], hashes: dict[str, str]) -> dict[str, Any]:
    adapters = {}
    for name, values in (config.get("adapters") or {}).items():
        own, source = _size(tensors, f"adapters.{name}."), values.get("source") or {}
        dtypes = {entry["dtype"] for key, entry in tensors.items() if key.startswith(f"adapters.{name}.")}
        elsewhere = bool(source) and not own["bytes"]
        adapters[name] = {
            "kind": values.get("kind", "k_adapter"),
            **{key: values.get(key) for key in SHAPE},
            "silent_below": values.get("silent_below"),
            **own,
            "dtype": min(dtypes, default=None),
            "hash": source.get("hash") if elsewhere else hashes.get(name),
            "source": source if elsewhere else None,
            "entity_embeddings": _table(values),
            "training": values.get("training") or {},
        }
    return adapters


def _table(values: dict[str, Any]) -> dict[str, Any] | None:
    """Return which table of entity embeddings a map was made for; None where there is none."""
    if "knowledge_sha256" not in values:
        return None
    keys = {"name_or_path": "source", "revision": "revision", "sha256": "sha256", "dimension": "size"}
    return {name: values.get(f"knowledge_{key}") for name, key in keys.items()}


def _head(config: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any] | None:
    model = (config.get("architectures") or ["KAdapterModel"])[0]
    if model == "KAdapterModel" or config.get("heads"):
        return None
    return _described_head(model, config, _size(tensors, "head."))


def _heads(config: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the heads of a model with several, each with the names of its adapters and its fusion."""
    heads = {}
    for name, record in (config.get("heads") or {}).items():
        adapters = list(record["adapters"].values())
        fusion = {"name": record.get("fusion", "add"), **_size(tensors, f"head.{name}.fusion.")}
        described = _described_head(record["architecture"], record, _size(tensors, f"head.{name}.head."))
        heads[name] = {**described, "adapters": adapters, "fusion": fusion}
    return heads


def _described_head(model: str, config: dict[str, Any], size: dict[str, int]) -> dict[str, Any]:
    labels = config.get("id2label") or {}
    read = {
        "class": model,
        "labels": [labels[key] for key in sorted(labels, key=int)],
        "problem_type": config.get("problem_type"),
        **size,
    }
    lm_head = {key: config[key] for key in ("lm_head", "lm_head_source") if config.get(key)}
    parser = {"dependency_head": config.get("dependency_head", "arc")} if "Dependency" in model else {}
    return {**read, **lm_head, **parser}


def _results(folder: Path) -> dict[str, float]:
    """Return the scores that a training left beside an artifact."""
    try:
        written = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    kept = written.items() if isinstance(written, dict) else ()
    return {key: value for key, value in kept if isinstance(value, float) and not key.endswith(TIMES)}


# ---- in words -------------------------------------------------------------------------------------------------------


def described(values: dict[str, Any]) -> Iterable[str]:
    """Yield the lines that `kadapter inspect` prints of a summary."""
    backbone, fusion, head = values["backbone"], values["fusion"], values["head"]
    revision = f" (revision {values['revision']})" if values["revision"] else ""
    yield f"{values['artifact']}{revision}: {values['model']}"
    place = backbone["name_or_path"] or "a module that existed only in memory"
    pins = f"revision {backbone['revision'] or '-'}, fingerprint {(backbone['fingerprint'] or '-')[:12]}"
    yield f"backbone: {place}, {pins}{', trained along and held here' if backbone['modified'] else ''}"
    for name, adapter in values["adapters"].items():
        yield f"adapter {name}: {_shape(adapter)}"
        yield from (f"  {line}" for line in _of_adapter(adapter))
    for name, own in values["heads"].items():
        yield from _of_head(f"head {name}", own)
        yield f"  adapters {', '.join(own['adapters']) or 'none'}, fusion {_weighted(own['fusion'])}"
    if not values["heads"]:
        yield f"fusion: {_weighted(fusion)}"
        yield from ["head: none"] if head is None else _of_head("head", head)
    yield from (f"{key} {value:.4f}" for key, value in values["results"].items())
    yield f"in all: {_counted(values)}, record {values['record_digest'] or '-'}"


def _of_head(title: str, head: dict[str, Any]) -> Iterable[str]:
    extra = "".join(f", {head[key]}" for key in ("lm_head", "dependency_head", "problem_type") if head.get(key))
    yield f"{title}: {head['class']}{extra}, {_counted(head)}"
    if head["labels"]:
        yield f"  {len(head['labels'])} labels: {_few(head['labels'])}"


def _weighted(fusion: dict[str, Any]) -> str:
    number = f"{fusion['parameters']:,}" if fusion["parameters"] else "no"
    return f"{fusion['name']}, {number} parameters"


def _shape(adapter: dict[str, Any]) -> str:
    layers = f"layers {adapter['layers']}" if adapter["layers"] else "input embeddings"
    inner = (
        f", inner width {adapter['hidden_size']}, {adapter['num_hidden_layers']} blocks" if adapter["layers"] else ""
    )
    silent = f", silent below {adapter['silent_below']}" if adapter["silent_below"] else ""
    return f"{adapter['kind']}, {layers}{inner}{silent}"


def _of_adapter(adapter: dict[str, Any]) -> Iterable[str]:
    digest = (adapter["hash"] or "-")[:12]
    if source := adapter["source"]:
        yield f"held by {source.get('name_or_path')} at {source.get('revision') or 'its directory'}, hash {digest}"
    else:
        yield f"{_counted(adapter)}, {adapter['dtype']}, hash {digest}"
    if table := adapter["entity_embeddings"]:
        place, digest = table["name_or_path"] or "a table in memory", (table["sha256"] or "-")[:12]
        yield f"entities of {place}, revision {table['revision'] or '-'}, {table['dimension']} wide, sha256 {digest}"
    training = adapter["training"]
    if training:
        yield f"trained on {training.get('corpus', '-')} by the objective {training.get('objective', '-')}"
    for key, value in (training.get("results") or {}).items():
        yield f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}"


def _counted(sizes: dict[str, Any]) -> str:
    return f"{sizes['parameters']:,} parameters, {sizes['bytes'] / 2**20:.1f} MiB"


def _few(labels: list[Any], shown: int = 12) -> str:
    more = f" and {len(labels) - shown} more" if len(labels) > shown else ""
    return ", ".join(map(str, labels[:shown])) + more
