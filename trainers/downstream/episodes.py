"""Few-shot episodes: N classes, K labelled examples of each, and the nearest prototype (FewRel, section 5).

Nothing is trained. Features are the states that a head would read, layer-normed for each source and concatenated; a
class is the mean of its labelled examples (Snell et al., 2017). The queries are the same for all seeds, and the seed
draws the labelled examples, so runs of several seeds can be compared query by query.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .dataset import Split

__all__ = ["run_episodes"]


def run_episodes(
    split: Split, names: Sequence[str], episodes: int, way: int, shot: int, seed: int
) -> list[dict[str, Any]]:
    """Return id, gold answer, prediction and scores of one query for each class of each episode.

    `names` are the classes of the examples in use.

    Raises:
        ValueError: fewer than `way` classes have `shot` + 1 examples.
    """
    features, groups = _features(split), _by_class(names, way, shot)
    ids, answered = split.encoded_rows()["id"], []
    for number in range(episodes):
        queried, drawn = np.random.default_rng([number]), np.random.default_rng([number, seed])
        chosen = queried.choice(sorted(groups), way, replace=False).tolist()
        queries = [int(queried.choice(groups[name])) for name in chosen]
        labelled = [
            drawn.choice([index for index in groups[name] if index != query], shot, replace=False)
            for name, query in zip(chosen, queries, strict=True)
        ]
        prototypes = features[torch.from_numpy(np.stack(labelled))].mean(dim=1)  # (N, D)
        distances = torch.cdist(features[queries], prototypes)  # (N, N)
        for gold, query, row in zip(chosen, queries, distances.tolist(), strict=True):
            scores = {name: round(-distance, 6) for name, distance in zip(chosen, row, strict=True)}
            answer = {"gold": gold, "prediction": max(scores, key=scores.__getitem__), "scores": scores}
            answered.append({"id": f"{number}:{ids[query]}", **answer})
    return answered


def _by_class(names: Sequence[str], way: int, shot: int) -> dict[str, list[int]]:
    """Return the indices of the examples of each class that has enough of them."""
    groups = defaultdict(list)
    for index, name in enumerate(names):
        groups[name].append(index)
    enough = {name: indices for name, indices in groups.items() if len(indices) > shot}
    if len(enough) < way:
        raise ValueError(
            f"{len(enough)} classes have more than {shot} examples, and an episode needs {way}; lower --way or --shot"
        )
    return enough


def _features(split: Split) -> Tensor:
    used = torch.from_numpy(split.indices)
    sources = [states[used].float() for states in (split.states or {}).values()]  # (E, n, H) each
    return torch.cat([F.layer_norm(states, states.shape[-1:]).flatten(1) for states in sources], dim=1)
