"""Pre-training objectives: one file each, found by name.

A file holds one class `Objective`, which defines the encoding of a corpus, the head that learns it, and the metric.
"""

from __future__ import annotations

from typing import Any, Protocol

from datasets import Dataset

from ... import discovery
from ..common.encoding import ExampleEncoder

__all__ = ["Objective", "available", "check_backbone_dropout", "load"]


class Objective(ExampleEncoder, Protocol):
    """The interface of every objective, beyond what it shares with tasks.

    Attributes:
        metric: name of the result by which runs are compared.

    An objective may have more: `fusion`, the default under its head if that is not "concat"; `adapter_kind`, likewise
    of what it trains if that is not the published adapter; `masking`, by which its
    encoded examples are masked anew in each epoch; `from_loss(loss)`, which returns results that follow from the loss;
    `adapter_config()`, the configuration of what it trains if that is no K-Adapter; `complete(batch)`, which adds to a
    padded batch what is looked up.
    """

    metric: str

    def measure(self, predictions: Any, labels: Any, evaluated: Dataset) -> dict[str, float]:
        """Return results from the arg-max of the logits, the labels and the encoded examples."""


def check_backbone_dropout(objective: Any, flags: Any) -> None:
    """Refuse dropout of the frozen backbone where nothing is trained before it.

    Raises:
        ValueError: it is asked for.
    """
    if flags.backbone_dropout is not None and not hasattr(objective, "adapter_config"):
        raise ValueError(
            f"--backbone_dropout {flags.backbone_dropout} is for a map before the backbone, and --objective "
            f"{flags.objective} trains none; leave it out"
        )


def available() -> list[str]:
    """Return the names of all objectives."""
    return discovery.available(__name__)


def load(name: str) -> type[Objective]:
    """Return the objective of that name.

    Raises:
        ValueError: there is no such file.
    """
    return discovery.find(__name__, "objective", name).Objective
