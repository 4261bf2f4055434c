"""Few-shot episodes: N classes, K labelled examples of each, and the nearest prototype (FewRel, section 5).

Nothing is trained: features are the states that a head would read, of each source layer-normed and side by side; a
class is the mean of its labelled examples (Snell et al., 2017). What is asked is the same for all seeds, which draw
the labelled examples: so runs of several seeds can be compared question by question.
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
        asked, drawn = np.random.default_rng([number]), np.random.default_rng([number, seed])
        chosen = asked.choice(sorted(groups), way, replace=False).tolist()
        queries = [int(asked.choice(groups[name])) for name in chosen]
        labelled = [
            drawn.choice([one for one in groups[name] if one != query], shot, replace=False)
            for name, query in zip(chosen, queries, strict=True)
        ]
        prototypes = features[torch.from_numpy(np.stack(labelled))].mean(dim=1)  # (N, D)
        distances = torch.cdist(features[queries], prototypes)  # (N, N)
        for gold, query, row in zip(chosen, queries, distances.tolist(), strict=True):
            scores = {name: round(-one, 6) for name, one in zip(chosen, row, strict=True)}
            told = {"gold": gold, "prediction": max(scores, key=scores.__getitem__), "scores": scores}
            answered.append({"id": f"{number}:{ids[query]}", **told})
    return answered


def _by_class(names: Sequence[str], way: int, shot: int) -> dict[str, list[int]]:
    """Return the places of the examples of each class that has enough of them."""
    groups = defaultdict(list)
    for place, name in enumerate(names):
        groups[name].append(place)
    enough = {name: places for name, places in groups.items() if len(places) > shot}
    if len(enough) < way:
        raise ValueError(
            f"{len(enough)} classes have more than {shot} examples, and an episode needs {way}; lower --way or --shot"
        )
    return enough


def _features(split: Split) -> Tensor:
    states = [one[torch.from_numpy(split.places)].float() for one in (split.states or {}).values()]  # (E, n, H) each
    return torch.cat([F.layer_norm(one, one.shape[-1:]).flatten(1) for one in states], dim=1)
