"""The trainer of models of which only a part trains, or that are no `PreTrainedModel`."""

from __future__ import annotations

import os
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_NAME

from .trainer import KAdapterTrainer

__all__ = ["LeanTrainer"]


class LeanTrainer(KAdapterTrainer):
    """A `KAdapterTrainer` whose checkpoints hold the tensors that train and nothing else, each once."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            os.makedirs(folder, exist_ok=True)
            save_file(
                {name: one.contiguous() for name, one in self._trained().items()}, f"{folder}/{SAFE_WEIGHTS_NAME}"
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load what trains, if the checkpoint holds just that; the optimizer's state would be amiss otherwise.

        Raises:
            ValueError: it was made by other flags.
        """
        with safe_open(f"{resume_from_checkpoint}/{SAFE_WEIGHTS_NAME}", "pt") as file:
            held = {(name, *file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
        amiss = held ^ {(name, *one.shape) for name, one in self._trained().items()}
        if amiss:
            name, *shape = min(amiss)
            raise ValueError(
                f"{resume_from_checkpoint!r} was made by other flags: {name!r} of shape {shape} is in it or in the "
                "model, not in both; resume by the flags that it was made by, or start anew by --overwrite_output_dir"
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _trained(self) -> dict[str, Tensor]:
        return {name: one.detach() for name, one in self.model.named_parameters() if one.requires_grad}

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Forgive that frozen tensors are in no checkpoint."""
        trained = self._trained()
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name in trained]
        super()._issue_warnings_after_load(load_result)
