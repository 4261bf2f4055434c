"""Features that a task's head reads, encoded once: where backbone and adapters are frozen, they never change.

They are kept separately for each source, the backbone and each adapter, and for each example, so that rows of a table,
seeds, learning rates, fractions and rounds of a cross-validation share them. The key of a source covers everything
that its states depend on: the backbone's fingerprint, the adapter's configuration and tensors, the model's code, the
precision. The key of an example is a hash of what the model reads of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
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
from ..common.precision import precision_context
from ..downstream.dataset import Split
from .shards import PATTERN, read_checked, write_checked

__all__ = ["keep_states"]

NOT_READ = ("labels", "answer_spans")
HASH_BYTES = 16
CODE = Path(__file__).resolve().parents[2]

Kept = tuple[Sequence[int] | np.ndarray, Tensor]  # numbers of distinct examples, and their states


def keep_states(split: Split, model: Any, task: Any, run: Any, directory: str | None, verbose: bool) -> Split:
    """Return a split with the states of all its examples, from the cache or encoded now and stored there.

    Only the main process encodes, so it must call this first.
    """
    folder = Path(directory) if directory else Path(constants.HF_HOME, "kadapter", "states")
    collate = PadToBatch.of(task, model)
    collate.padding = {name: value for name, value in task.padding.items() if name not in NOT_READ}
    columns = [name for name in collate.padding if name in split.examples.column_names]
    names, firsts, number_of = _distinct(_names(split.examples, columns))
    folders = {source: folder / key for source, key in _keys(model, run, collate.length).items()}
    kept = {source: _kept(own_folder, names, verbose) for source, own_folder in folders.items()}
    missing_of = {source: _missing(shards, len(names)) for source, shards in kept.items()}
    missing = np.unique(np.concatenate(list(missing_of.values())))
    encoded = _encode(split, firsts[missing], model, collate, run) if len(missing) else {}
    for source, numbers in missing_of.items():
        if len(numbers):
            new = encoded[source][torch.as_tensor(np.searchsorted(missing, numbers))]
            _save(folders[source], [names[number] for number in numbers], new)
            kept[source].append((numbers, new))
    if verbose:
        distinct = f", {len(names)} of them different" if len(names) < len(split.examples) else ""
        print(f"states: {len(split.examples)} examples{distinct} of {sorted(kept)}, {len(missing)} encoded now")
    states = {source: _joined(shards, len(names)) for source, shards in kept.items()}
    if len(names) < len(split.examples):
        states = {source: tensor[torch.as_tensor(number_of)] for source, tensor in states.items()}
    return split.with_states(states, list(task.padding))


def _distinct(names: list[bytes]) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Return the distinct names in order of occurrence, the first example of each, and the number of each example."""
    numbers: dict[bytes, int] = {}
    number_of = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
    return list(numbers), np.unique(number_of, return_index=True)[1], number_of


def _names(examples: datasets.Dataset, columns: list[str]) -> list[bytes]:
    """Return for each example a hash of what the model reads of it."""
    values = (examples.with_format(None)[name][:] for name in columns)
    return [
        blake2b(repr([*zip(columns, example, strict=True)]).encode(), digest_size=HASH_BYTES).digest()
        for example in zip(*values, strict=True)
    ]


def _keys(model: Any, run: Any, length: int | None) -> dict[str, str]:
    """Return for each source of states a hash of everything that they depend on apart from the examples."""
    config, core = model.config, model.base_model
    code = [_hash([path.read_text(encoding="utf-8")]) for path in sorted(CODE.glob("*_kadapter.py"))]
    precision = [str(next(core.backbone.parameters()).dtype), run.bf16, run.fp16, str(run.device.type)]
    common = [config.backbone_fingerprint, type(model).__name__, code, *precision, length]
    keys = {"backbone": _hash(common)}
    for name, source in model.sources().items():
        shape = {key: value for key, value in config.adapters[name].items() if key not in ("training", "source")}
        read = [core.fusion.reads] if source != f"adapters.{name}" else []  # outputs keep the key that they had
        keys[source] = _hash([*common, shape, *read], core.adapters[name].state_dict())
    return keys


def _hash(values: list[Any], tensors: dict[str, Tensor] | None = None) -> str:
    total = blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=HASH_BYTES)
    for name, tensor in sorted((tensors or {}).items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def _encode(split: Split, indices: np.ndarray, model: Any, collate: PadToBatch, run: Any) -> dict[str, Tensor]:
    """Encode these examples, whether they are in use or not, in batches of similar length."""
    chosen = replace(split, indices=indices)
    order = np.argsort(-chosen.column("length"), kind="stable")
    states: dict[str, Tensor] = {}
    model.to(run.device).eval()
    for batch_indices in _batches(order, run.per_device_eval_batch_size):
        batch = collate([chosen[int(index)] for index in batch_indices])
        with torch.no_grad(), precision_context(run):
            read = model.read(**{name: tensor.to(run.device) for name, tensor in batch.items()})
        for source, tensor in read.items():
            if source not in states:
                states[source] = torch.empty(len(chosen), *tensor.shape[1:], dtype=tensor.dtype)
            states[source][torch.as_tensor(batch_indices)] = tensor.cpu()
    for source, tensor in states.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(
                f"the states of {source!r} hold NaN or infinite values for some examples, so nothing can be learned "
                "from them; look at its weights, or give --bf16 false"
            )
    return states


def _batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(order), size):
        yield order[first : first + size]


# ---- on disk: a folder for each source, with a shard for all examples that were encoded at the same time ------------


def _kept(folder: Path, names: list[bytes], verbose: bool) -> list[Kept]:
    """Return the kept states of these examples, each once; a damaged shard is reported, removed and not used."""
    kept: list[Kept] = []
    missing = list(range(len(names)))
    for path in sorted(folder.glob(PATTERN)):
        try:
            index_of, states = _load(path)
        except (OSError, ValueError) as error:
            if verbose:
                print(f"the shard {str(path)!r} of kept states is not used: {error}; its examples are encoded again")
            if isinstance(error, ValueError):
                with suppress(OSError):
                    path.unlink()
            continue
        here = [number for number in missing if names[number] in index_of]
        if here:
            kept.append((here, states[[index_of[names[number]] for number in here]]))
            missing = [number for number in missing if names[number] not in index_of]
    return kept


def _missing(kept: list[Kept], number: int) -> np.ndarray:
    there = np.zeros(number, dtype=bool)
    for numbers, _ in kept:
        there[numbers] = True
    return np.flatnonzero(~there)


def _joined(kept: list[Kept], number: int) -> Tensor:
    """Return the states of all examples in their order, (examples, n, hidden)."""
    first = kept[0][1]
    states = torch.empty(number, *first.shape[1:], dtype=first.dtype)
    for numbers, tensor in kept:
        states[torch.as_tensor(numbers)] = tensor
    return states


def _load(path: Path) -> tuple[dict[bytes, int], Tensor]:
    """Return the indices of a shard's examples by their hash, and its states.

    Raises:
        OSError: it can't be read.
        ValueError: it is damaged, or no shard of states.
    """
    shard = read_checked(path)
    if shard.keys() != {"examples", "states"} or len(shard["examples"]) != len(shard["states"]):
        raise ValueError("it is no shard of states")
    return {name.tobytes(): index for index, name in enumerate(shard["examples"].numpy())}, shard["states"]


def _save(folder: Path, names: list[bytes], states: Tensor) -> None:
    """Write a shard; a failure is reported, but costs only time."""
    examples = torch.frombuffer(bytearray(b"".join(names)), dtype=torch.uint8).view(-1, HASH_BYTES)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_checked(folder, {"examples": examples, "states": states.contiguous()})
    except OSError as error:
        print(f"states could not be kept in {str(folder)!r} ({error}); they are used nevertheless")
