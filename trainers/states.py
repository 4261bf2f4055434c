"""States that a head reads, encoded once: where backbone and adapters are frozen they never change.

They are kept for each source apart, the backbone and each adapter, so that rows of a table share them, and so do
seeds, learning rates and fractions of one split. The key holds all that they depend on: the backbone's fingerprint,
the adapter's configuration and tensors, the examples and the code that made them, the precision.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .collators import PadToBatch
from .task_data import Split

__all__ = ["keep_states"]

NOT_READ = ("labels", "answer_spans")


def keep_states(split: Split, model: Any, task: Any, run: Any, directory: str | None, tell: bool) -> Split:
    """Return a split with the states of all its examples, from the cache or encoded now and put there.

    Only the main process encodes; call it there first.
    """
    folder = Path(directory) if directory else Path(constants.HF_HOME, "kadapter", "states")
    paths = {source: folder / f"{key}.safetensors" for source, key in _keys(split, model, run).items()}
    states = {source: _load(path, len(split.examples)) for source, path in paths.items()}
    missing = [source for source, one in states.items() if one is None]
    if missing:
        encoded = _encode(split, model, task, run)
        for source in missing:
            _save(paths[source], encoded[source])
            states[source] = encoded[source]
    if tell:
        print(f"states: {len(split.examples)} examples of {sorted(states)}, {len(missing)} sources encoded now")
    return split.with_states({source: one for source, one in states.items() if one is not None}, list(task.padding))


def _keys(split: Split, model: Any, run: Any) -> dict[str, str]:
    """Return for each source of states a hash of all that they depend on."""
    config, core = model.config, model.base_model
    precision = [str(next(core.backbone.parameters()).dtype), run.bf16, run.fp16, str(run.device.type)]
    common = [config.backbone_fingerprint, split.examples._fingerprint, len(split.examples), type(model).__name__]
    keys = {"backbone": _hash([*common, *precision])}
    for name in model.active_adapters():
        shape = {key: value for key, value in config.adapters[name].items() if key not in ("training", "source")}
        keys[f"adapters.{name}"] = _hash([*common, *precision, shape], core.adapters[name].state_dict())
    return keys


def _hash(parts: list[Any], tensors: dict[str, Tensor] | None = None) -> str:
    total = blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16)
    for name, one in sorted((tensors or {}).items()):
        total.update(f"{name} {one.dtype} {tuple(one.shape)}".encode())
        total.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()


def _encode(split: Split, model: Any, task: Any, run: Any) -> dict[str, Tensor]:
    """Read every example of a split, not only those in use, in batches of like length."""
    whole = Split.of(split.rows, split.examples)
    collate = PadToBatch({name: value for name, value in task.padding.items() if name not in NOT_READ})
    order = np.argsort(-whole.column("length"), kind="stable")
    states: dict[str, Tensor] = {}
    model.to(run.device).eval()
    for places in _batches(order, run.per_device_eval_batch_size):
        batch = collate([whole[int(place)] for place in places])
        with torch.no_grad(), _precision(run):
            read = model.read(**{name: one.to(run.device) for name, one in batch.items()})
        for source, one in read.items():
            if source not in states:
                states[source] = torch.empty(len(whole), *one.shape[1:], dtype=one.dtype)
            states[source][torch.as_tensor(places)] = one.cpu()
    return states


def _batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(order), size):
        yield order[first : first + size]


def _precision(run: Any) -> AbstractContextManager:
    """The context in which training would read the same examples."""
    if not (run.bf16 or run.fp16):
        return nullcontext()
    return torch.autocast(run.device.type, dtype=torch.bfloat16 if run.bf16 else torch.float16)


def _load(path: Path, number: int) -> Tensor | None:
    try:
        states = load_file(path)["states"]
    except (OSError, SafetensorError, KeyError):  # none yet, or damaged: encoded again
        return None
    return states if len(states) == number else None


def _save(path: Path, states: Tensor) -> None:
    """Write aside and give it its name when complete; a cache that can't be written costs only time."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"states": states.contiguous()}, partial)
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        print(f"states could not be kept in {str(path.parent)!r} ({error}); they are used all the same")
    finally:
        with suppress(OSError):
            partial.unlink()
