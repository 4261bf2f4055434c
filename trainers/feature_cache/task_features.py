"""Features that a task's head reads, encoded once: where backbone and adapters are frozen, they never change.

Each source, the backbone and each adapter, has a store of its own, so that rows of a table, seeds, learning rates,
fractions and rounds of a cross-validation share what is in it. How many positions of an example the head reads, and
the dtype, are known only when it is encoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from ...artifacts_kadapter import adapter_hash
from ..common.collator import PadToBatch
from ..common.knowledge import COLUMNS
from ..common.precision import precision_context
from ..downstream.dataset import Split
from .options import directory_of, open_store
from .shards import KEY, Layout, key_of
from .store import Examples, FeatureStore

__all__ = ["keep_states"]

NOT_READ = ("labels", "answer_spans")
CODE = Path(__file__).resolve().parents[2]


def keep_states(split: Split, model: Any, task: Any, run: Any, flags: Any, verbose: bool) -> Split:
    """Return a split with the states of all its examples, from the stores or encoded now and kept there.

    Only the main process encodes, so it must call this first. `flags` has the directory of the stores and its budget.
    """
    collate = PadToBatch.of(task, model)
    collate.padding = {name: value for name, value in task.padding.items() if name not in NOT_READ}
    columns = [name for name in collate.padding if name in split.examples.column_names]
    keys = _keys(split.examples, columns)
    different, indices = Examples.of(keys, np.zeros(len(keys), np.int64))
    first = np.unique(indices, return_index=True)[1]
    stores = _open(model, task, run, collate.length, flags, different, verbose)
    absent = np.any([store.shard < 0 for store in stores.values()], axis=0) if stores else np.full(len(first), True)
    missing = np.flatnonzero(absent)
    missing = missing[np.argsort(first[missing])]
    encoded: dict[str, dict[int, Tensor]] = {source: {} for source in stores}
    for batch, read in _encode(replace(split, indices=first[missing]), model, collate, run):
        for source, tensor in read.items():
            encoded.setdefault(source, {}).update(zip(missing[batch].tolist(), tensor, strict=True))
            if source in stores:
                stores[source].put(missing[batch], tensor[None], [tensor.shape[1]] * len(batch))
    for store in stores.values():
        store.flush()
    if verbose:
        distinct = f", {len(first)} of them different" if len(first) < len(keys) else ""
        print(f"states: {len(keys)} examples{distinct} of {sorted(encoded)}, {len(missing)} encoded now")
    states = {source: _in_order(indices, own, stores.get(source)) for source, own in encoded.items()}
    return split.with_states(states, [name for name in task.padding if name not in (*COLUMNS, "token_type_ids")])


def _keys(examples: datasets.Dataset, columns: list[str]) -> np.ndarray:
    """Return for each example the key of what the model reads of it."""
    values = (examples.with_format(None)[name][:] for name in columns)
    keys = [key_of([*zip(columns, example, strict=True)]) for example in zip(*values, strict=True)]
    return np.frombuffer(b"".join(keys), dtype=KEY)


def _open(
    model: Any, task: Any, run: Any, length: int | None, flags: Any, examples: Examples, verbose: bool
) -> dict[str, FeatureStore]:
    """Open the store of each source; none if the directory can't be used, which costs only time."""
    directory = directory_of(flags.states_dir)
    layout, log = Layout((0,), model.config.hidden_size), print if verbose else None
    code = blake2b(b"\0".join(path.read_bytes() for path in sorted(CODE.glob("*_kadapter.py"))), digest_size=16)
    reading: dict[str, Any] = {"head": type(model).__name__, "code": code.hexdigest(), "length": length}
    adapters = model.base_model.adapters
    # all states behind a map depend on it and on its table, of which the examples have the rows
    maps = [
        adapter_hash(model.config.adapters[name], adapters[name].state_dict()) for name in sorted(adapters.in_front)
    ]
    reading |= {"maps": maps, "table": task.knowledge.table.sha256} if maps else {}
    sources = {"backbone": "backbone"}
    for name, source in model.sources().items():
        tensors = adapters[name].state_dict()
        sources[source] = f"{model.base_model.fusion.reads} {adapter_hash(model.config.adapters[name], tensors)}"
    try:
        return {
            source: open_store(
                *(directory, flags.cache_budget, model, run, {**reading, "source": identity}, layout, examples),
                log=log,
                again="encoded",
            )
            for source, identity in sources.items()
        }
    except OSError as error:
        print(f"states could not be kept in {str(directory)!r} ({error}); they are used nevertheless")
        return {}


def _encode(split: Split, model: Any, collate: PadToBatch, run: Any) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Yield the states of the examples in use, in batches of similar length, after the indices of each batch."""
    order = np.argsort(-split.column("length"), kind="stable")
    for first in range(0, len(order), run.per_device_eval_batch_size):
        indices = order[first : first + run.per_device_eval_batch_size]
        batch = collate([split[int(index)] for index in indices])
        model.to(run.device).eval()
        with torch.no_grad(), precision_context(run):
            read = model.read(**{name: tensor.to(run.device) for name, tensor in batch.items()})
        yield indices, {source: _finite(source, states.cpu()) for source, states in read.items()}


def _finite(source: str, states: Tensor) -> Tensor:
    if not torch.isfinite(states).all():
        raise ValueError(
            f"the states of {source!r} hold NaN or infinite values for some examples, so nothing can be learned "
            "from them; look at its weights, or give --bf16 false"
        )
    return states


def _in_order(indices: np.ndarray, encoded: dict[int, Tensor], store: FeatureStore | None) -> Tensor:
    """Return the states of the examples with these indices, from the store or as encoded, (examples, n, hidden)."""
    states = dict(encoded)
    if store is not None:
        on_disk = np.flatnonzero(store.shard >= 0).tolist()
        states |= {index: store.stored(index)["states"][:, 0] for index in on_disk}
    return torch.stack([states[index] for index in indices.tolist()])
