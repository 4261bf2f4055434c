"""Precision at 1, 10 and 100 and the mean reciprocal rank of right answers, over all facts and as means of relations.

A fact's statistics come from the rank of its best right answer among the candidates, 1 for the best candidate. Macro
results are means over relations, as LAMA reports them (Petroni et al., EMNLP 2019), micro results are over all facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from datasets import Value

from ._common import ValueType, check, ratio
from ._face import Face

__all__ = ["CUTOFFS", "STATISTICS", "Ranking", "compute", "from_total", "per_example"]

CUTOFFS = (1, 10, 100)
STATISTICS = 2 + len(CUTOFFS)  # of a relation: facts, hits at each cutoff, reciprocal ranks
SAMPLE = {
    "predictions": [{"relation": name, "rank": rank} for name, rank in (("a", 1), ("a", 12), ("b", 4), ("b", 300))],
    "references": [{"relation": name, "rank": 1} for name in "aabb"],
    "relations": ["a", "b"],
}


def _is_ranked(value: Any) -> bool:
    if not isinstance(value, Mapping) or not {"relation", "rank"} <= value.keys():
        return False
    return isinstance(value["relation"], str) and isinstance(value["rank"], Integral) and int(value["rank"]) >= 1


RANKED = ValueType(_is_ranked, "a mapping with the 'relation' of a fact and the 'rank' of its answer, from 1")


def per_example(
    predictions: Sequence[Mapping], references: Sequence[Mapping], *, relations: Sequence[str] | None = None
) -> np.ndarray:
    """Return for each fact and relation whether it is of it, is hit at each cutoff, and its reciprocal rank.

    Args:
        predictions: one mapping per fact, with the "rank" of its best right answer.
        references: one mapping per fact, with its "relation"; its "rank" is that of a right answer, 1.
        relations: the relations in their order; by default all that occur.

    Returns:
        (examples, relations * 5).

    Raises:
        ValueError: as `Metric.per_example`, or a relation is not among `relations`.
    """
    check(predictions, references, RANKED, RANKED)
    names = [reference["relation"] for reference in references]
    index = {name: number for number, name in enumerate(relations or sorted(set(names)))}
    if unknown := set(names) - index.keys():
        raise ValueError(f"relation {min(unknown)!r} is not among the relations {list(index)}")
    ranks = np.array([prediction["rank"] for prediction in predictions], float)
    own = np.stack([np.ones_like(ranks), *(ranks <= cutoff for cutoff in CUTOFFS), 1 / ranks], axis=1)
    statistics = np.zeros((len(names), len(index), STATISTICS))
    statistics[np.arange(len(names)), [index[name] for name in names]] = own
    return statistics.reshape(len(names), -1)


def from_total(total: np.ndarray) -> dict[str, float]:
    """Return macro and micro precision at each cutoff and mean reciprocal rank from summed statistics.

    A relation without facts is left out of the macro results.
    """
    by_relation = total.reshape(*total.shape[:-1], -1, STATISTICS)
    facts, occurring = by_relation[..., 0], (by_relation[..., 0] > 0).sum(axis=-1)
    results = {}
    for number, name in enumerate([*(f"p_at_{cutoff}" for cutoff in CUTOFFS), "mrr"], start=1):
        sums = by_relation[..., number]
        results[f"macro_{name}"] = ratio(ratio(sums, facts).sum(axis=-1), occurring)
        results[f"micro_{name}"] = ratio(sums.sum(axis=-1), facts.sum(axis=-1))
    return results


def compute(
    predictions: Sequence[Mapping], references: Sequence[Mapping], *, relations: Sequence[str] | None = None
) -> dict[str, float]:
    """Return macro and micro precision at each cutoff and mean reciprocal rank over all facts."""
    return from_total(per_example(predictions, references, relations=relations).sum(axis=0))


class Ranking(Face):
    """Macro and micro p_at_1, p_at_10, p_at_100 and mrr, for the rank of the right answer to each fact."""

    prediction: ClassVar[Any] = {"relation": Value("string"), "rank": Value("int64")}
    reference: ClassVar[Any] = prediction
