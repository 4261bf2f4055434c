"""The base class by which a metric can be used with the evaluate library, without network access."""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from typing import Any

import evaluate
from datasets import Features

__all__ = ["Face"]


class Face(evaluate.Metric, ABC):
    """Run the function `compute` of the file in which the derived class is defined, with the same keywords."""

    @property
    @abstractmethod
    def prediction(self) -> Any:
        """The feature of a prediction, or a tuple of alternative features."""

    @property
    @abstractmethod
    def reference(self) -> Any:
        """The feature of a reference, or a tuple of alternative features."""

    def _info(self) -> evaluate.MetricInfo:
        pairs = zip(_as_tuple(self.prediction), _as_tuple(self.reference), strict=True)
        features = [Features({"predictions": prediction, "references": reference}) for prediction, reference in pairs]
        return evaluate.MetricInfo(description=inspect.getdoc(type(self)), citation="", features=features)

    def _compute(self, predictions: list, references: list, **settings: Any) -> dict[str, float]:
        return sys.modules[type(self).__module__].compute(predictions, references, **settings)


def _as_tuple(features: Any) -> tuple[Any, ...]:
    return features if isinstance(features, tuple) else (features,)
