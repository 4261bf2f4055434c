"""One encoder under the heads of several pre-training objectives."""

from __future__ import annotations

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
        self.models = nn.ModuleDict(models)
        self.requires_grad_(True)

    def forward(self, objective: str, labels: Any = None, **inputs: Any) -> Any:
        """Run the head model of that objective."""
        return self.models[objective](labels=labels, **inputs)
