"""The directories of downstream runs, as trainers/run_task.py leaves them: what each was, and what it predicted."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import numpy as np

from .. import metrics

__all__ = ["Run", "find_runs", "pool_folds"]

DESCRIPTION, PREDICTIONS, RESULTS = "run.json", "predictions.jsonl", "all_results.json"
NUMBER = (int, float)
FIELDS: dict[str, type | tuple[type, ...]] = {
    "task": str,
    "row": str,
    "adapters": list,
    "fusion": str,
    "backbone": str,
    "freeze_backbone": bool,
    "freeze_adapters": bool,
    "train_fraction": NUMBER,
    "seed": int,
    "split": str,
    "metric": dict,
    "gates": dict,
}
MAYBE = {"train_examples": int, "train_share": NUMBER}  # what runs of earlier versions don't tell
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Run:
    """One run: its directory, what its run.json says, and gold and prediction of each example by id."""

    directory: Path
    said: dict[str, Any]
    examples: dict[str, tuple[Any, Any]]

    @property
    def task(self) -> str:
        """The task's name."""
        return self.said["task"]

    @property
    def seed(self) -> int:
        """The seed of training."""
        return self.said["seed"]

    @property
    def row(self) -> str:
        """What stands beside the backbone: a row of the results table."""
        return self.said["row"]

    @property
    def key(self) -> str:
        """The name of the result by which the task is told."""
        return self.said["metric"]["key"]

    @cached_property
    def metric(self) -> ModuleType:
        """The metric that the run was measured by."""
        return metrics.load(self.said["metric"]["name"])

    @cached_property
    def score(self) -> float:
        """The headline result over all examples.

        Raises:
            ValueError: predictions or gold answers are not of the metric's kind, or it has no such result.
        """
        return float(self.scores(self.statistics().sum(axis=0)))

    def statistics(self) -> np.ndarray:
        """Return the metric's statistics of each example, (examples, k), in the order of the ids."""
        gold, predictions = zip(*(self.examples[one] for one in sorted(self.examples)), strict=True)
        try:
            return self.metric.per_example(predictions, gold, **self.said["metric"].get("settings", {}))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.directory / PREDICTIONS}: {error} (counted by id)") from error

    def scores(self, total: np.ndarray) -> Any:
        """Return the headline result of summed statistics, (...) of (..., k)."""
        results = self.metric.from_total(total)
        if self.key not in results:
            raise ValueError(
                f"{self.directory / DESCRIPTION}: metric {self.said['metric']['name']!r} has no result "
                f"{self.key!r}; it has {', '.join(results)}"
            )
        return results[self.key]


def find_runs(places: Iterable[Path]) -> list[Run]:
    """Read all runs in or anywhere below some directories, each once.

    Raises:
        OSError: a directory is missing, or has no run below it.
        ValueError: a run is incomplete, or a file of it damaged or against its other files.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not place.is_dir():
            raise OSError(f"there is no directory {str(place)!r}; name output directories of trainers/run_task.py")
        below = sorted(path.parent.resolve() for path in place.rglob(DESCRIPTION))
        if not below:
            raise OSError(f"no run in or below {str(place)!r} (none has a {DESCRIPTION}); name finished runs")
        found.update(dict.fromkeys(below))
    return [read_run(directory) for directory in found]


def read_run(directory: Path) -> Run:
    """Read one run.

    Raises:
        OSError: its predictions are missing.
        ValueError: a file is damaged, lacks a field, or is against another.
    """
    run = Run(directory, _description(directory / DESCRIPTION), _examples(directory / PREDICTIONS))
    results = directory / RESULTS
    told = _object(results, results.read_text(encoding="utf-8")) if results.is_file() else {}
    recorded = told.get(f"eval_{run.key}")
    if recorded is not None and abs(recorded - run.score) > TOLERANCE:
        raise ValueError(
            f"{directory}: {PREDICTIONS} gives {run.key} {run.score:.6f}, and {RESULTS} says {recorded:.6f}, so they "
            "are of different runs; evaluate again with --do_eval"
        )
    return run


def pool_folds(runs: Iterable[Run]) -> list[Run]:
    """Return the runs with those that differ only in their round of cross-validation as one, on all their examples.

    Raises:
        ValueError: an example stands in two rounds of them.
    """
    alike: dict[str, list[Run]] = defaultdict(list)
    for number, run in enumerate(runs):
        told = {name: value for name, value in run.said.items() if name in FIELDS and name != "gates"}
        crossed = run.said.get("fold") is not None
        alike[json.dumps(told, sort_keys=True) if crossed else str(number)].append(run)
    return [_pooled(rounds) if len(rounds) > 1 else rounds[0] for rounds in alike.values()]


def _pooled(rounds: list[Run]) -> Run:
    examples: dict[str, tuple[Any, Any]] = {}
    for run in rounds:
        if twice := examples.keys() & run.examples.keys():
            raise ValueError(
                f"{run.directory}: example {min(twice)!r} was measured in another round of the cross-validation too; "
                "leave one of the two runs out"
            )
        examples |= run.examples
    first = rounds[0]
    gates = {name: fmean(run.said["gates"][name] for run in rounds) for name in first.said["gates"]}
    told = {name: fmean(run.said[name] for run in rounds) for name in MAYBE if all(name in run.said for run in rounds)}
    told |= {"train_examples": round(told["train_examples"])} if "train_examples" in told else {}
    return Run(first.directory, {**first.said, **told, "gates": gates}, examples)


def _description(path: Path) -> dict[str, Any]:
    said = _object(path, path.read_text(encoding="utf-8"))
    for name, kind in {**FIELDS, **{name: kind for name, kind in MAYBE.items() if name in said}}.items():
        if name not in said:
            raise ValueError(f"{path} lacks {name!r}; run trainers/run_task.py again")
        if not isinstance(said[name], kind) or (kind is not bool and isinstance(said[name], bool)):
            raise ValueError(f"{path} says {name}={said[name]!r}, which is of no use; run trainers/run_task.py again")
    if missing := {"name", "key"} - said["metric"].keys():
        raise ValueError(f"{path}: 'metric' lacks {sorted(missing)}; run trainers/run_task.py again")
    if said["metric"]["name"] not in metrics.available():
        raise ValueError(f"{path}: no metric {said['metric']['name']!r}; there are {', '.join(metrics.available())}")
    return said


def _examples(path: Path) -> dict[str, tuple[Any, Any]]:
    if not path.is_file():
        raise OSError(f"{path.parent} has no {path.name}; evaluate the run with --do_eval, or leave it out")
    examples: dict[str, tuple[Any, Any]] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            one = _object(where, line)
            if missing := {"id", "gold", "prediction"} - one.keys():
                raise ValueError(f"{where} lacks {sorted(missing)}; evaluate the run again with --do_eval")
            if one["gold"] is None:
                raise ValueError(f"{where}: example {one['id']!r} has no gold answer; report on labelled examples")
            if str(one["id"]) in examples:
                raise ValueError(f"{where}: id {one['id']!r} was there before; give each example an id of its own")
            examples[str(one["id"])] = (one["gold"], one["prediction"])
    if not examples:
        raise ValueError(f"{path} is empty; evaluate the run again with --do_eval")
    return examples


def _object(where: Any, text: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON ({error}); it may be cut short, so evaluate the run again") from error
    if not isinstance(read, dict):
        raise ValueError(f"{where} holds a {type(read).__name__}, not a JSON object; evaluate the run again")
    return read
