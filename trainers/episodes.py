"""Few-shot episodes: N classes, K labelled examples of each, and the nearest prototype (FewRel, section 5).

Nothing is trained: features are the states that a head would read, of each source layer-normed and side by side; a
class is the mean of its labelled examples (Snell et al., 2017).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .task_data import Split

__all__ = ["run_episodes"]


def run_episodes(
    split: Split, names: Sequence[str], episodes: int, way: int, shot: int, seed: int
) -> list[dict[str, Any]]:
    """Return id, gold answer, prediction and scores of one query for each class of each episode.

    `names` are the classes of the examples in use.

    Raises:
        ValueError: fewer than `way` classes have `shot` + 1 examples.
    """
    features, groups = _features(split), defaultdict(list)
    for place, name in enumerate(names):
        groups[name].append(place)
    classes = sorted(name for name, places in groups.items() if len(places) > shot)
    if len(classes) < way:
        raise ValueError(
            f"{len(classes)} classes have more than {shot} examples, and an episode needs {way}; lower --way or --shot"
        )
    ids, generator = split.encoded_rows()["id"], np.random.default_rng(seed)
    answered = []
    for number in range(episodes):
        chosen = [classes[one] for one in generator.choice(len(classes), way, replace=False)]
        drawn = np.stack([generator.choice(groups[name], shot + 1, replace=False) for name in chosen])  # (N, K + 1)
        prototypes = features[torch.from_numpy(drawn[:, 1:])].mean(dim=1)  # (N, D)
        distances = torch.cdist(features[torch.from_numpy(drawn[:, 0])], prototypes)  # (N, N)
        for gold, query, row in zip(chosen, drawn[:, 0], distances.tolist(), strict=True):
            scores = {name: round(-one, 6) for name, one in zip(chosen, row, strict=True)}
            told = {"gold": gold, "prediction": max(scores, key=scores.__getitem__), "scores": scores}
            answered.append({"id": f"{number}:{ids[int(query)]}", **told})
    return answered


def _features(split: Split) -> Tensor:
    states = [one[torch.from_numpy(split.places)].float() for one in (split.states or {}).values()]  # (E, n, H) each
    return torch.cat([F.layer_norm(one, one.shape[-1:]).flatten(1) for one in states], dim=1)
