"""A trainer for models that train only in part, or that are no `PreTrainedModel`."""

from __future__ import annotations

import os
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_NAME

from .trainer import KAdapterTrainer

__all__ = ["TrainableOnlyTrainer"]


class TrainableOnlyTrainer(KAdapterTrainer):
    """A `KAdapterTrainer` whose checkpoints hold only the trainable tensors, each once."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            os.makedirs(folder, exist_ok=True)
            tensors = {name: tensor.contiguous() for name, tensor in self._trainable().items()}
            save_file(tensors, f"{folder}/{SAFE_WEIGHTS_NAME}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the trainable tensors; the checkpoint must hold exactly those, or the optimizer's state would not fit.

        Raises:
            ValueError: it was made with other flags.
        """
        with safe_open(f"{resume_from_checkpoint}/{SAFE_WEIGHTS_NAME}", "pt") as file:
            held = {(name, *file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
        mismatched = held ^ {(name, *tensor.shape) for name, tensor in self._trainable().items()}
        if mismatched:
            name, *shape = min(mismatched)
            raise ValueError(
                f"{resume_from_checkpoint!r} was made with other flags: {name!r} of shape {shape} is in it or in the "
                "model, not in both; resume with the flags that it was made with, or start again with "
                "--overwrite_output_dir"
            )
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _trainable(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.model.named_parameters() if tensor.requires_grad}

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Ignore that frozen tensors are missing in the checkpoint."""
        trainable = self._trainable()
        load_result.missing_keys[:] = [name for name in load_result.missing_keys if name in trainable]
        super()._issue_warnings_after_load(load_result)
