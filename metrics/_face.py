"""The face that a metric shows to the evaluate library; it needs no network."""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from typing import Any

import evaluate
from datasets import Features

__all__ = ["Face"]


class Face(evaluate.Metric, ABC):
    """The `compute` of the file in which the deriving class stands; settings are keywords of `compute` here too."""

    @property
    @abstractmethod
    def prediction(self) -> Any:
        """Feature of one prediction, or a tuple of those that it may be of."""

    @property
    @abstractmethod
    def reference(self) -> Any:
        """Feature of one reference, or a tuple likewise."""

    def _info(self) -> evaluate.MetricInfo:
        kinds = zip(_several(self.prediction), _several(self.reference), strict=True)
        features = [Features({"predictions": one, "references": other}) for one, other in kinds]
        return evaluate.MetricInfo(description=inspect.getdoc(type(self)), citation="", features=features)

    def _compute(self, predictions: list, references: list, **settings: Any) -> dict[str, float]:
        return sys.modules[type(self).__module__].compute(predictions, references, **settings)


def _several(features: Any) -> tuple[Any, ...]:
    return features if isinstance(features, tuple) else (features,)
