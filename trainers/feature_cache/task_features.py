"""States that a head reads, encoded once: where backbone and adapters are frozen they never change.

They are kept for each source apart, the backbone and each adapter, and for each example apart, so that rows of a table
share them, and so do seeds, learning rates, fractions and the rounds of a cross-validation. The key of a source holds
all that its states depend on: the backbone's fingerprint, the adapter's configuration and tensors, the model's code,
the precision. An example's is a hash of what the model reads of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from huggingface_hub import constants
from torch import Tensor

from ..common.collator import PadToBatch
from ..downstream.dataset import Split
from .shards import PATTERN, read_checked, write_checked

__all__ = ["keep_states"]

NOT_READ = ("labels", "answer_spans")
HASH_BYTES = 16
CODE = Path(__file__).resolve().parents[2]

Part = tuple[Sequence[int], Tensor]  # places in a split, and their states


def keep_states(split: Split, model: Any, task: Any, run: Any, directory: str | None, verbose: bool) -> Split:
    """Return a split with the states of all its examples, from the cache or encoded now and put there.

    Only the main process encodes; call it there first.
    """
    folder = Path(directory) if directory else Path(constants.HF_HOME, "kadapter", "states")
    collate = PadToBatch.of(task, model)
    collate.padding = {name: value for name, value in task.padding.items() if name not in NOT_READ}
    columns = [name for name in collate.padding if name in split.examples.column_names]
    names, firsts, places_of = _different(_names(split.examples, columns))
    folders = {source: folder / key for source, key in _keys(model, run, collate.length).items()}
    parts = {source: _kept(one, names, verbose) for source, one in folders.items()}
    lacking = {source: _lacking(one, len(names)) for source, one in parts.items()}
    missing = np.unique(np.concatenate(list(lacking.values())))
    encoded = _encode(split, firsts[missing], model, collate, run) if len(missing) else {}
    for source, places in lacking.items():
        if len(places):
            new = encoded[source][torch.as_tensor(np.searchsorted(missing, places))]
            _save(folders[source], [names[place] for place in places], new)
            parts[source].append((places, new))
    if verbose:
        alike = f", {len(names)} of them different" if len(names) < len(split.examples) else ""
        print(f"states: {len(split.examples)} examples{alike} of {sorted(parts)}, {len(missing)} encoded now")
    states = {source: _joined(one, len(names)) for source, one in parts.items()}
    if len(names) < len(split.examples):
        states = {source: one[torch.as_tensor(places_of)] for source, one in states.items()}
    return split.with_states(states, list(task.padding))


def _different(names: list[bytes]) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Return each name once in the order of their first examples, where these are, and for each example its name."""
    numbers: dict[bytes, int] = {}
    places_of = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
    return list(numbers), np.unique(places_of, return_index=True)[1], places_of


def _names(examples: datasets.Dataset, columns: list[str]) -> list[bytes]:
    """Return for each example a hash of what the model reads of it."""
    values = (examples.with_format(None)[name][:] for name in columns)
    return [
        blake2b(repr([*zip(columns, one, strict=True)]).encode(), digest_size=HASH_BYTES).digest()
        for one in zip(*values, strict=True)
    ]


def _keys(model: Any, run: Any, length: int | None) -> dict[str, str]:
    """Return for each source of states a hash of all that they depend on besides the examples."""
    config, core = model.config, model.base_model
    code = [_hash([path.read_text(encoding="utf-8")]) for path in sorted(CODE.glob("*_kadapter.py"))]
    precision = [str(next(core.backbone.parameters()).dtype), run.bf16, run.fp16, str(run.device.type)]
    common = [config.backbone_fingerprint, type(model).__name__, code, *precision, length]
    keys = {"backbone": _hash(common)}
    for name in model.active_adapters():
        shape = {key: value for key, value in config.adapters[name].items() if key not in ("training", "source")}
        keys[f"adapters.{name}"] = _hash([*common, shape], core.adapters[name].state_dict())
    return keys


def _hash(parts: list[Any], tensors: dict[str, Tensor] | None = None) -> str:
    total = blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=HASH_BYTES)
    for name, one in sorted((tensors or {}).items()):
        total.update(f"{name} {one.dtype} {tuple(one.shape)}".encode())
        total.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def _encode(split: Split, places: np.ndarray, model: Any, collate: PadToBatch, run: Any) -> dict[str, Tensor]:
    """Read these examples, whether they are in use or not, in batches of like length."""
    whole = replace(split, places=places)
    order = np.argsort(-whole.column("length"), kind="stable")
    states: dict[str, Tensor] = {}
    model.to(run.device).eval()
    for batch_places in _batches(order, run.per_device_eval_batch_size):
        batch = collate([whole[int(place)] for place in batch_places])
        with torch.no_grad(), _precision(run):
            read = model.read(**{name: one.to(run.device) for name, one in batch.items()})
        for source, one in read.items():
            if source not in states:
                states[source] = torch.empty(len(whole), *one.shape[1:], dtype=one.dtype)
            states[source][torch.as_tensor(batch_places)] = one.cpu()
    for source, one in states.items():
        if not torch.isfinite(one).all():
            raise ValueError(
                f"the states of {source!r} hold NaN or infinite values for some examples, so nothing can be learned "
                "from them; look at its weights, or give --bf16 false"
            )
    return states


def _batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(order), size):
        yield order[first : first + size]


def _precision(run: Any) -> AbstractContextManager:
    """The context in which training would read the same examples."""
    if not (run.bf16 or run.fp16):
        return nullcontext()
    return torch.autocast(run.device.type, dtype=torch.bfloat16 if run.bf16 else torch.float16)


# ---- on disk: a folder for each source, in it a shard for whatever was encoded at once ------------------------------


def _kept(folder: Path, names: list[bytes], verbose: bool) -> list[Part]:
    """Return what is kept of these examples' states, each once; a damaged shard is named, removed and not used."""
    parts: list[Part] = []
    lacking = range(len(names))
    for path in sorted(folder.glob(PATTERN)):
        try:
            rows, states = _load(path)
        except (OSError, ValueError) as error:
            if verbose:
                print(f"the shard {str(path)!r} of kept states is not used: {error}; its examples are encoded again")
            if isinstance(error, ValueError):
                with suppress(OSError):
                    path.unlink()
            continue
        here = [place for place in lacking if names[place] in rows]
        if here:
            parts.append((here, states[[rows[names[place]] for place in here]]))
            lacking = [place for place in lacking if names[place] not in rows]
    return parts


def _lacking(parts: list[Part], number: int) -> np.ndarray:
    there = np.zeros(number, dtype=bool)
    for places, _ in parts:
        there[places] = True
    return np.flatnonzero(~there)


def _joined(parts: list[Part], number: int) -> Tensor:
    """Return the states of all examples in their order, (examples, n, hidden)."""
    first = parts[0][1]
    states = torch.empty(number, *first.shape[1:], dtype=first.dtype)
    for places, one in parts:
        states[torch.as_tensor(places)] = one
    return states


def _load(path: Path) -> tuple[dict[bytes, int], Tensor]:
    """Return a shard's rows by the hash of their example, and its states.

    Raises:
        OSError: it can't be read.
        ValueError: it is damaged, or no shard of states.
    """
    shard = read_checked(path)
    if shard.keys() != {"examples", "states"} or len(shard["examples"]) != len(shard["states"]):
        raise ValueError("it is no shard of states")
    return {one.tobytes(): row for row, one in enumerate(shard["examples"].numpy())}, shard["states"]


def _save(folder: Path, names: list[bytes], states: Tensor) -> None:
    """Write a shard; a cache that can't be written costs only time."""
    examples = torch.frombuffer(bytearray(b"".join(names)), dtype=torch.uint8).view(-1, HASH_BYTES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_checked(folder, {"examples": examples, "states": states.contiguous()})
    except OSError as error:
        print(f"states could not be kept in {str(folder)!r} ({error}); they are used all the same")
