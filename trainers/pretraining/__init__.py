"""Pre-training objectives: one objective, one file, found by its name.

A file holds one class `Objective`: what a corpus becomes for the model, which head learns it, how it is measured.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Any, Protocol

from datasets import Dataset

from ...configuration_kadapter import KAdapterConfig

__all__ = ["Objective", "available", "load"]


class Objective(Protocol):
    """What every objective file provides.

    Attributes:
        record_type: kind of corpus record, as data_builders name it.
        model_class: head model that is trained.
        metric: name of the result by which runs are compared.
        padding: columns of an encoded example and their padding values.
    """

    record_type: str
    model_class: type
    metric: str
    padding: dict[str, int]

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None: ...

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Learn from training records what the head must know, as fields of `KAdapterConfig`."""

    def recall(self, config: KAdapterConfig) -> None:
        """Take from a trained model's configuration what `learn` put there, to evaluate it.

        Raises:
            ValueError: the model was trained by other flags.
        """

    def encode(self, rows: dict[str, list], training: bool = False) -> dict[str, list]:
        """Turn a batch of records into examples, maybe fewer, with a column `truncated`."""

    def measure(self, predictions: Any, labels: Any, evaluated: Dataset) -> dict[str, float]:
        """Return results from the arg-max of the logits, the labels and the encoded examples."""


def available() -> list[str]:
    """Return the names of all objectives."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def load(name: str) -> type[Objective]:
    """Return the objective of that name.

    Raises:
        ValueError: there is no such file.
    """
    if name not in available():
        close = difflib.get_close_matches(name, available(), n=1)
        raise ValueError(
            f"no objective {name!r}; there are {available()}" + "".join(f"; did you mean {one!r}?" for one in close)
        )
    return importlib.import_module(f"{__name__}.{name}").Objective
