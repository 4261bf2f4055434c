"""One encoder under the heads of several pre-training objectives."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

__all__ = ["MultitaskModel"]


class MultitaskModel(nn.Module):
    """An encoder that trains as a whole, with a head for each objective.

    Args:
        models: a head model without adapters for each objective; all share one encoder.
    """

    def __init__(self, models: dict[str, Any]) -> None:
        super().__init__()
        self.backbone = next(iter(models.values())).base_model.backbone
        self.config = copy.copy(self.backbone.config)  # Trainer reads it, and writes into it
        self.models = nn.ModuleDict(models)
        self.requires_grad_(True)

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's embeddings, to which --neftune_noise_alpha adds noise."""
        return self.backbone.get_input_embeddings()

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Have the blocks of the encoder computed again in the backward pass."""
        self.backbone.activation_checkpointing_enable(**options)

    def forward(self, objective: str, labels: Any = None, **inputs: Any) -> Any:
        """Run the head model of that objective."""
        return self.models[objective](labels=labels, **inputs)
