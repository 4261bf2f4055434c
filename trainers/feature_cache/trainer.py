"""The trainer of an adapter: the backbone encodes each batch, or its states are taken from the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..common.encoding import column
from ..common.locality import IGNORED, Locality
from ..common.memory import give_back, keep_freed_memory, limit_native_caches
from ..common.trainer import KAdapterTrainer
from .options import readable
from .shards import key_of
from .store import FeatureStore

__all__ = ["CollateWithCacheIndex", "FeatureTrainer", "OnHost"]

# A CPU multiplies shorter inputs differently: their last bits depend on the rest of the batch.
SHORTEST = 16
WITH_TIME = ("cuda",)  # devices that leave the host time to look up the next batch
LOOK_UP_THREAD = ThreadPoolExecutor(1, "features")


class OnHost(NamedTuple):
    """What the host knows of a batch without waiting for the device.

    Args:
        name: the same for batches of the same tokens and for no others.
        lengths: the length of each example in tokens.
        indices: the index of each example in the cache; empty without a cache.
        looked_up: the cached states of the batch, if they are looked up in advance.
    """

    name: bytes
    lengths: list[int]
    indices: list[int]
    looked_up: Future[tuple[Tensor, np.ndarray]] | None = None


@dataclass
class CollateWithCacheIndex:
    """Collate examples, and keep on the host what identifies them and their indices in the cache.

    Args:
        collate: makes a batch of examples.
        ahead: looks up (indices, length) in the cache, in a separate thread while the previous batch is trained on.
    """

    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]
    ahead: Callable[[list[int], int], tuple[Tensor, np.ndarray]] | None = None

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch, with an `OnHost` as `on_host`."""
        batch, ids = self.collate(examples), [example["input_ids"] for example in examples]
        indices = [example["cache_index"] for example in examples if "cache_index" in example]
        length = batch["input_ids"].shape[1]
        looked_up = None if self.ahead is None else LOOK_UP_THREAD.submit(self.ahead, indices, length)
        name = b"".join([*map(key_of, ids), b"%d" % length])  # the same examples may be padded to different lengths
        return {**batch, "on_host": OnHost(name, [len(tokens) for tokens in ids], indices, looked_up)}


class FeatureTrainer(KAdapterTrainer):
    """A `KAdapterTrainer` that lets the backbone encode each batch, or takes the hidden states from the cache.

    With a cache the first epoch writes it, and the backbone is released from memory once every example is there. In
    float32, losses and weights are bit-identical with and without the cache.

    Args:
        features: the cache, or None.
        reader: a shared backbone that encodes each batch once for several trainers; None for the model's own.
        locality: the term that holds the adapter back on other text, or None.
        data_collator: makes the batches.
        arguments: keywords of `KAdapterTrainer`.
    """

    def __init__(
        self,
        *,
        data_collator: CollateWithCacheIndex,
        features: FeatureStore | None = None,
        reader: Any = None,
        locality: Locality | None = None,
        **arguments: Any,
    ) -> None:
        limit_native_caches(many_kernels=features is not None)
        super().__init__(data_collator=data_collator, **arguments)
        self.features, self.released = features, False
        self.reader, self.locality = reader, locality
        if locality is not None:
            locality.tell(self.model.base_model)
        self.moved: Tensor | float = 0.0  # the locality term without its weight, summed since the last log
        self.moved_steps = 0  # over so many steps
        self.micro_batch = (-1, 0)  # the step, and the number of its micro-batches so far
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
        if self.model.base_model.adapters.in_front:  # the backbone's states depend on what is trained before it
            return inputs
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if ids.device.type == "cuda" and min(on_host.lengths) == ids.shape[1]:
            inputs["attention_mask"] = mask = None  # there is no padding, and attention without a mask is faster
        if self.features is None:
            inputs["hidden_states"] = self._tap(ids, mask, on_host.name)
        else:
            inputs["hidden_states"] = self._find_or_tap(self.features, on_host, ids, mask)
        return inputs

    def _tap(self, input_ids: Tensor, attention_mask: Tensor | None, name: bytes) -> dict[int, Tensor]:
        """Return the tapped and the last hidden states of (batch, length) tokens, in the precision of training."""
        length, inputs = input_ids.shape[1], (input_ids, attention_mask)
        more = (0, max(0, min(SHORTEST, self.processing_class.model_max_length) - length))
        if more[1] and attention_mask is not None:
            padding = self.processing_class.pad_token_id or 0
            inputs = F.pad(input_ids, more, value=padding), F.pad(attention_mask, more)
        with torch.no_grad(), self.compute_loss_context_manager():
            shared = self.reader
            tapped = self.model.base_model.tap(*inputs) if shared is None else shared.tap(*inputs, name)
        return {layer: states[:, :length] for layer, states in tapped.items()}

    def _find_or_tap(
        self, features: FeatureStore, on_host: OnHost, input_ids: Tensor, attention_mask: Tensor | None
    ) -> dict[int, Tensor]:
        """Return the cached states of a batch, and let the backbone encode the rest of it."""
        indices, layers = on_host.indices, features.layout.layers
        if on_host.looked_up is None:
            states, there = features.get(indices, input_ids.shape[1], input_ids.is_cuda)
        else:
            states, there = on_host.looked_up.result()
        states = states.to(input_ids.device, non_blocking=True)
        new = np.flatnonzero(~there).tolist()
        if new:
            chosen = slice(None) if len(new) == len(indices) else new
            mask = None if attention_mask is None else attention_mask[chosen]
            tapped = self._tap(input_ids[chosen], mask, on_host.name + np.asarray(new).tobytes())
            if -1 not in layers and not same_bits(tapped[layers[-1]], tapped[-1]):
                features.stop("this backbone's last hidden state is not that of its last block; tap another layer")
                return tapped  # it covers the whole batch, since nothing is ever kept
            read = torch.stack([tapped[layer].to(states) for layer in layers])  # (layers, B, S, H)
            lengths = [on_host.lengths[number] for number in new]
            states[:, chosen] = features.put([indices[number] for number in new], read, lengths)
        return features.layout.by_layer(states)

    # ---- the locality term ------------------------------------------------------------------------------------------

    def compute_loss(  # type: ignore[override]  # transformers calls it by keyword
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """Return the loss, in training with the locality term, and with `return_outputs` the outputs too."""
        if self.locality is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, **kwargs)
        inputs = dict(inputs)  # of which transformers takes the labels away to smoothe them
        with _listening(self.model.base_model.adapters) as made:
            loss, outputs = super().compute_loss(model, dict(inputs), True, **kwargs)
        loss = loss + self._locality_term(self.locality, **kwargs)
        if self.locality.heard_above:
            loss = loss + self._unheard(self.locality, made[0], outputs.logits, inputs, **kwargs)
        return (loss, outputs) if return_outputs else loss

    def _unheard(
        self, locality: Locality, made: Any, logits: Tensor, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Return the term that raises contributions to answers, averaged over tokens as the loss of these is."""
        places = inputs["logits_to_keep"]
        following = inputs["labels"].gather(1, places.clamp(min=0) + 1).masked_fill(places < 0, IGNORED)
        squares = locality.unheard(self.model.base_model, made, logits, following)
        if num_items_in_batch is None or not self.model_accepts_loss_kwargs:
            return locality.weight * squares / (places >= 0).sum()
        processes = self.args.world_size if self.args.average_tokens_across_devices else 1
        return locality.weight * squares / num_items_in_batch * processes

    def _locality_term(self, locality: Locality, num_items_in_batch: Any = None) -> Tensor:
        """Return the term that holds the adapter back on a step's other texts, of which this takes its share."""
        step, seen = self.micro_batch
        number = seen if step == self.state.global_step else 0
        self.micro_batch = (self.state.global_step, number + 1)
        processes, micro_batches = self.args.world_size, self.current_gradient_accumulation_steps
        share, shares = number * processes + self.args.process_index, micro_batches * processes
        moved = locality.share(self.model.base_model, self.state.global_step, share, shares)
        self.moved, self.moved_steps = self.moved + moved.detach(), self.moved_steps + (number == 0)
        # Gradients are averaged over processes; over micro-batches they are summed, unless the loss is a plain mean.
        scaled = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return locality.weight * processes * (1 if scaled else micro_batches) * moved

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the mean over steps of the squared contribution relative to the backbone's state."""
        if self.locality is not None and "loss" in logs:
            moved = self.accelerator.reduce(torch.as_tensor(self.moved, device=self.args.device), "sum")
            logs["moved"] = float(moved) / max(1, self.moved_steps)
            self.moved, self.moved_steps = 0.0, 0
        super().log(logs, *args, **kwargs)

    # ---- the cache --------------------------------------------------------------------------------------------------

    def _run_epoch(  # type: ignore[override]  # transformers calls it by keyword
        self, *, epoch: int, **arguments: Any
    ) -> None:
        """Run one epoch; then share the cached states between processes and, if more epochs follow, complete them."""
        super()._run_epoch(epoch=epoch, **arguments)
        if self.features is not None:
            self._share(self.features)
            if not self.control.should_training_stop:
                self._complete(self.features)

    def evaluate(self, *arguments: Any, **keywords: Any) -> dict[str, float]:
        """Evaluate, and keep the states that the backbone computed for it."""
        results = super().evaluate(*arguments, **keywords)
        if self.features is not None:
            self.features.flush()
        return results

    def _share(self, features: FeatureStore) -> None:
        features.flush()
        self.accelerator.wait_for_everyone()
        features.refresh()

    def _complete(self, features: FeatureStore) -> None:
        """Let the backbone encode what is missing, each process a share, and release it if nothing is missing."""
        shares = slice(self.args.process_index, None, self.args.world_size), slice(None)
        for share in shares:  # the second is needed where processes do not share a disk
            self._read(features.missing()[share] if features.writing else [])
            self._share(features)
        if features.complete():
            self._release()

    def _read(self, indices: Sequence[int] | np.ndarray) -> None:
        """Let the backbone encode the examples with these indices in the cache, in batches of similar length."""
        size = self.args.per_device_eval_batch_size
        for dataset in (self.train_dataset, self.eval_dataset):
            if dataset is not None and len(indices):
                chosen = np.flatnonzero(np.isin(column(dataset, "cache_index"), indices))
                chosen = chosen[np.argsort(column(dataset, "length")[chosen], kind="stable")]
                for first in range(0, len(chosen), size):
                    examples = [dataset[number] for number in chosen[first : first + size].tolist()]
                    self._prepare_inputs(self.data_collator(examples))

    def _release(self) -> None:
        if self.released:
            return
        self.released = True
        size = sum(weight.nbytes for weight in self.model.base_model.backbone.parameters())
        self.model.release_backbone()
        give_back()
        keep_freed_memory()
        if size and self.is_world_process_zero():  # the first of several adapters releases it
            print(f"features: all examples are kept; the backbone leaves memory ({readable(size)})")


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Return whether two tensors are equal, without comparing them if they share their memory."""
    return left.data_ptr() == right.data_ptr() or torch.equal(left, right)


@contextmanager
def _listening(adapters: Any) -> Iterator[list[dict[str, Tensor]]]:
    """Collect what the adapters of a model make of what it is given meanwhile."""
    made: list[dict[str, Tensor]] = []
    handle = adapters.register_forward_hook(lambda module, given, outputs: made.append(outputs))
    try:
        yield made
    finally:
        handle.remove()
