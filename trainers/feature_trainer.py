"""The trainer of one adapter: the backbone reads a batch, or what it read before is taken from the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .examples import column
from .feature_arguments import readable
from .feature_cache import Features
from .trainer import KAdapterTrainer

__all__ = ["FeatureTrainer", "WithPlaces"]

# Shorter rows take other paths through a CPU's matrix products, and their last bits differ with their neighbours.
SHORTEST = 16


@dataclass
class WithPlaces:
    """Collate examples, and keep on the host where each stands in the cache."""

    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the batch, with `places` where the examples have any."""
        places = [example["place"] for example in examples if "place" in example]
        return {**self.collate(examples), **({"places": places} if places else {})}


class FeatureTrainer(KAdapterTrainer):
    """A `KAdapterTrainer` that has the backbone read each batch, or takes what it read before from the cache.

    With a cache the first epoch writes it, and the backbone then leaves memory when every example is there. In
    float32 losses and weights are the same bit for bit with and without it.

    Args:
        features: the cache, or None.
        reader: what has a `tap` that lets the backbone read a batch; None for the model itself.
        arguments: keywords of `KAdapterTrainer`.
    """

    def __init__(self, *, features: Features | None = None, reader: Any = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.features, self.released = features, False
        self.reader = reader if reader is not None else self.model.base_model
        if features is not None and features.complete():
            self._release()

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move a batch to the device, with the hidden states that its adapter taps."""
        inputs = dict(inputs)
        places = inputs.pop("places", None)
        inputs = super()._prepare_inputs(inputs)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if self.features is None:
            inputs["hidden_states"] = self._tap(ids, mask)
        else:
            inputs["hidden_states"] = self._find_or_tap(self.features, places, ids, mask)
        return inputs

    def _tap(self, input_ids: Tensor, attention_mask: Tensor) -> dict[int, Tensor]:
        """Return what the backbone reads of (batch, length), the tapped states and the last, as training needs it."""
        length = input_ids.shape[1]
        more = (0, max(0, min(SHORTEST, self.processing_class.model_max_length) - length))
        padded = F.pad(input_ids, more, value=self.processing_class.pad_token_id or 0), F.pad(attention_mask, more)
        with torch.no_grad(), self.compute_loss_context_manager():
            return {layer: one[:, :length] for layer, one in self.reader.tap(*padded).items()}

    def _find_or_tap(
        self, features: Features, places: Sequence[int], input_ids: Tensor, attention_mask: Tensor
    ) -> dict[int, Tensor]:
        states = features.get(places, input_ids.shape[1]).to(input_ids.device, non_blocking=True)
        new = np.flatnonzero(~features.has(places)).tolist()
        if new:
            mask = attention_mask[new]
            tapped = self._tap(input_ids[new], mask)
            read = torch.stack([tapped[layer].to(states) for layer in features.layout.layers])  # (layers, B, S, H)
            states[:, new] = features.put([places[row] for row in new], read, mask.sum(dim=1).tolist())
        return dict(zip(features.layout.layers, states, strict=True))

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

    def _share(self, features: Features) -> None:
        features.flush()
        self.accelerator.wait_for_everyone()
        features.refresh()

    def _complete(self, features: Features) -> None:
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
        if size and self.is_world_process_zero():  # of several adapters the first lets it go
            print(f"features: all examples are kept; the backbone leaves memory ({readable(size)})")
