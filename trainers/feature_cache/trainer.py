"""The trainer of one adapter: the backbone reads a batch, or what it read before is taken from the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.encoding import column
from ..common.memory import give_back, keep_freed_memory, limit_native_caches
from ..common.trainer import KAdapterTrainer
from .options import readable
from .shards import key_of
from .store import FeatureStore

__all__ = ["CollateWithCacheIndex", "FeatureTrainer", "OnHost"]

# Shorter rows take other paths through a CPU's matrix products, and their last bits differ with their neighbours.
SHORTEST = 16
WITH_TIME = ("cuda",)  # devices beside which the host has a core for looking up the next batch
LOOKING = ThreadPoolExecutor(1, "features")


class OnHost(NamedTuple):
    """What the host knows of a batch without waiting for the device.

    Args:
        name: the same for batches of the same tokens and for no others.
        lengths: of each example in tokens.
        places: of each example in the cache; none where there is no cache.
        found: what the cache has of them, if it is looked up ahead.
    """

    name: bytes
    lengths: list[int]
    places: list[int]
    found: Future[tuple[Tensor, np.ndarray]] | None = None


@dataclass
class CollateWithCacheIndex:
    """Collate examples, and keep on the host what tells them apart and where each stands in the cache.

    Args:
        collate: makes a batch of examples.
        ahead: looks up (places, length) in the cache, in a thread of its own while the last batch is trained on.
    """

    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]
    ahead: Callable[[list[int], int], tuple[Tensor, np.ndarray]] | None = None

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch, with an `OnHost` as `on_host`."""
        batch, ids = self.collate(examples), [example["input_ids"] for example in examples]
        places = [example["place"] for example in examples if "place" in example]
        found = None if self.ahead is None else LOOKING.submit(self.ahead, places, batch["input_ids"].shape[1])
        name = b"".join([*map(key_of, ids), b"%d" % batch["input_ids"].shape[1]])  # padded to one length or another
        return {**batch, "on_host": OnHost(name, [len(one) for one in ids], places, found)}


class FeatureTrainer(KAdapterTrainer):
    """A `KAdapterTrainer` that has the backbone read each batch, or takes what it read before from the cache.

    With a cache the first epoch writes it, and the backbone then leaves memory when every example is there. In
    float32 losses and weights are the same bit for bit with and without it.

    Args:
        features: the cache, or None.
        reader: what several trainers share and lets the backbone read a batch once; None for the model itself.
        data_collator: what collates.
        arguments: keywords of `KAdapterTrainer`.
    """

    def __init__(
        self,
        *,
        data_collator: CollateWithCacheIndex,
        features: FeatureStore | None = None,
        reader: Any = None,
        **arguments: Any,
    ) -> None:
        limit_native_caches(many_kernels=features is not None)
        super().__init__(data_collator=data_collator, **arguments)
        self.features, self.released = features, False
        self.reader = reader
        device, workers = self.args.device.type, self.args.dataloader_num_workers
        if features is not None and device in WITH_TIME and not workers:
            data_collator.ahead = partial(features.get, pinned=device == "cuda")
        if features is not None and features.complete():
            self._release()

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device, with the hidden states that its adapter taps."""
        inputs = dict(inputs)
        on_host = inputs.pop("on_host")
        inputs = super()._prepare_inputs(inputs)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if ids.device.type == "cuda" and min(on_host.lengths) == ids.shape[1]:
            inputs["attention_mask"] = mask = None  # nothing is padding, and attention without a mask is the fastest
        if self.features is None:
            inputs["hidden_states"] = self._tap(ids, mask, on_host.name)
        else:
            inputs["hidden_states"] = self._find_or_tap(self.features, on_host, ids, mask)
        return inputs

    def _tap(self, input_ids: Tensor, attention_mask: Tensor | None, name: bytes) -> dict[int, Tensor]:
        """Return what the backbone reads of (batch, length), the tapped states and the last, as training needs it."""
        length, given = input_ids.shape[1], (input_ids, attention_mask)
        more = (0, max(0, min(SHORTEST, self.processing_class.model_max_length) - length))
        if more[1] and attention_mask is not None:
            padding = self.processing_class.pad_token_id or 0
            given = F.pad(input_ids, more, value=padding), F.pad(attention_mask, more)
        with torch.no_grad(), self.compute_loss_context_manager():
            shared = self.reader
            tapped = self.model.base_model.tap(*given) if shared is None else shared.tap(*given, name)
        return {layer: one[:, :length] for layer, one in tapped.items()}

    def _find_or_tap(
        self, features: FeatureStore, on_host: OnHost, input_ids: Tensor, attention_mask: Tensor | None
    ) -> dict[int, Tensor]:
        """Return what the cache has of a batch, and has the backbone read the rest of it."""
        places, layers, found = on_host.places, features.layout.layers, on_host.found
        looked_up = features.get(places, input_ids.shape[1], input_ids.is_cuda) if found is None else found.result()
        states, there = looked_up[0].to(input_ids.device, non_blocking=True), looked_up[1]
        new = np.flatnonzero(~there).tolist()
        if new:
            rows = slice(None) if len(new) == len(places) else new
            mask = None if attention_mask is None else attention_mask[rows]
            tapped = self._tap(input_ids[rows], mask, on_host.name + np.asarray(new).tobytes())
            if -1 not in layers and not same_bits(tapped[layers[-1]], tapped[-1]):
                features.stop("this backbone's last hidden state is not that of its last block; tap another layer")
                return tapped  # of the whole batch, since nothing is ever kept
            read = torch.stack([tapped[layer].to(states) for layer in layers])  # (layers, B, S, H)
            states[:, rows] = features.put([places[row] for row in new], read, [on_host.lengths[row] for row in new])
        return features.layout.by_layer(states)

    # ---- the cache --------------------------------------------------------------------------------------------------

    def _run_epoch(self, *, epoch: int, **arguments: Any) -> None:
        """Run one epoch; after it every process sees what the others kept and, if more follow, nothing is missing."""
        super()._run_epoch(epoch=epoch, **arguments)
        if self.features is not None:
            self._share(self.features)
            if not self.control.should_training_stop:
                self._complete(self.features)

    def evaluate(self, *arguments: Any, **keywords: Any) -> dict[str, float]:
        """Evaluate, and keep what the backbone read for it."""
        results = super().evaluate(*arguments, **keywords)
        if self.features is not None:
            self.features.flush()
        return results

    def _share(self, features: FeatureStore) -> None:
        features.flush()
        self.accelerator.wait_for_everyone()
        features.refresh()

    def _complete(self, features: FeatureStore) -> None:
        """Let the backbone read what is missing, each process its share, and leave memory if nothing is."""
        shares = slice(self.args.process_index, None, self.args.world_size), slice(None)
        for share in shares:  # the second finds something where processes have no disk in common
            self._read(features.missing()[share] if features.writing else [])
            self._share(features)
        if features.complete():
            self._release()

    def _read(self, places: Sequence[int]) -> None:
        """Let the backbone read the examples at these places, in batches of like length."""
        size = self.args.per_device_eval_batch_size
        for dataset in (self.train_dataset, self.eval_dataset):
            if dataset is not None and len(places):
                rows = np.flatnonzero(np.isin(column(dataset, "place"), places))
                rows = rows[np.argsort(column(dataset, "length")[rows], kind="stable")].tolist()
                for first in range(0, len(rows), size):
                    self._prepare_inputs(self.data_collator([dataset[row] for row in rows[first : first + size]]))

    def _release(self) -> None:
        if self.released:
            return
        self.released = True
        size = sum(one.nbytes for one in self.model.base_model.backbone.parameters())
        self.model.release_backbone()
        give_back()
        keep_freed_memory()
        if size and self.is_world_process_zero():  # of several adapters the first lets it go
            print(f"features: all examples are kept; the backbone leaves memory ({readable(size)})")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal, at once where they are one."""
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)
