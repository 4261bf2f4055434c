"""Pre-training objectives: one file each, found by name.

A file holds one class `Objective`, which defines the encoding of a corpus, the head that learns it, and the metric.
"""

from __future__ import annotations

from typing import Any, Protocol

from datasets import Dataset

from ... import discovery
from ...configuration_kadapter import KAdapterConfig

__all__ = ["Objective", "available", "load"]


class Objective(Protocol):
    """The interface of every objective.

    Attributes:
        record_type: type of corpus record, as data_builders name it.
        model_class: head model that is trained.
        metric: name of the result by which runs are compared.
        padding: columns of an encoded example and their padding values.

    An objective may have more: `fusion`, the default under its head if that is not "concat"; `masking`, by which its
    encoded examples are masked anew in each epoch; `from_loss(loss)`, which returns results that follow from the loss.
    """

    record_type: str
    model_class: type
    metric: str
    padding: dict[str, int]

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None: ...

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Learn from training records what the head must know, as fields of `KAdapterConfig`."""

    def recall(self, config: KAdapterConfig) -> None:
        """Take what `learn` returned from a trained model's configuration, to evaluate the model.

        Raises:
            ValueError: the model was trained with other flags.
        """

    def encode(self, rows: dict[str, list], training: bool = False) -> dict[str, list]:
        """Encode a batch of records as examples, possibly fewer, with a column `truncated`."""

    def measure(self, predictions: Any, labels: Any, evaluated: Dataset) -> dict[str, float]:
        """Return results from the arg-max of the logits, the labels and the encoded examples."""


def available() -> list[str]:
    """Return the names of all objectives."""
    return discovery.available(__name__)


def load(name: str) -> type[Objective]:
    """Return the objective of that name.

    Raises:
        ValueError: there is no such file.
    """
    return discovery.find(__name__, "objective", name).Objective
