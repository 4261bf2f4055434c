"""Read the output directories of trainers/run_task.py: the settings of each run and its predictions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from .. import metrics

__all__ = [
    "DESCRIPTION",
    "PREDICTIONS",
    "RESULTS",
    "Run",
    "find_runs",
    "pool_folds",
    "read_description",
    "restricted",
]

DESCRIPTION, PREDICTIONS, RESULTS = "run.json", "predictions.jsonl", "all_results.json"
NUMBER = (int, float)
FIELDS: dict[str, Any] = {
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
OPTIONAL_FIELDS = {"train_examples": int, "train_share": NUMBER}  # not recorded by earlier versions
KNOWLEDGE = {"knowledge": dict}  # of runs with a knowledge map
TOLERANCE = 1e-6


@dataclass(frozen=True)
class Run:
    """One run: its directory, the fields of its run.json, and gold answer and prediction of each example by id."""

    directory: Path
    record: dict[str, Any]
    examples: dict[str, tuple[Any, Any]]

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.record["task"]

    @property
    def seed(self) -> int:
        """The seed of training."""
        return self.record["seed"]

    @property
    def row(self) -> str:
        """The name of its row in the results table."""
        return self.record["row"]

    @property
    def key(self) -> str:
        """The name of the headline result."""
        return self.record["metric"]["key"]

    @cached_property
    def metric(self) -> metrics.Metric:
        """The metric that the run was measured by."""
        return metrics.load(self.record["metric"]["name"])

    @cached_property
    def score(self) -> float:
        """The headline result over all examples.

        Raises:
            ValueError: the metric can't take the predictions or gold answers, or has no such result.
        """
        return float(self.scores(self.statistics().sum(axis=0)))

    def statistics(self) -> np.ndarray:
        """Return the metric's statistics of each example, (examples, k), in the order of the ids."""
        gold, predictions = zip(*(self.examples[name] for name in sorted(self.examples)), strict=True)
        try:
            return self.metric.per_example(predictions, gold, **self.record["metric"].get("settings", {}))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.directory / PREDICTIONS}: {error} (counted by id)") from error

    def scores(self, total: np.ndarray) -> Any:
        """Return the headline results, (...), of summed statistics, (..., k)."""
        results = self.metric.from_total(total)
        if self.key not in results:
            raise ValueError(
                f"{self.directory / DESCRIPTION}: metric {self.record['metric']['name']!r} has no result "
                f"{self.key!r}; it has {', '.join(results)}"
            )
        return results[self.key]


def find_runs(directories: Iterable[Path]) -> list[Run]:
    """Read every run in or anywhere below the directories, each once.

    Raises:
        OSError: a directory is missing, or has no run below it.
        ValueError: a run is incomplete, or one of its files is damaged or contradicts another.
    """
    runs: dict[Path, None] = {}
    for directory in directories:
        if not directory.is_dir():
            raise OSError(f"there is no directory {str(directory)!r}; name output directories of trainers/run_task.py")
        below = sorted(path.parent.resolve() for path in directory.rglob(DESCRIPTION))
        if not below:
            raise OSError(f"no run in or below {str(directory)!r} (none has a {DESCRIPTION}); name finished runs")
        runs.update(dict.fromkeys(below))
    return [read_run(directory) for directory in runs]


def read_run(directory: Path) -> Run:
    """Read one run and check that its files agree.

    Raises:
        OSError: its predictions are missing.
        ValueError: a file is damaged, has a field missing, or contradicts another.
    """
    run = Run(directory, read_description(directory), _examples(directory / PREDICTIONS))
    results = directory / RESULTS
    recorded = _object(results, results.read_text(encoding="utf-8")) if results.is_file() else {}
    score = recorded.get(f"eval_{run.key}")
    if score is not None and abs(score - run.score) > TOLERANCE:
        raise ValueError(
            f"{directory}: {PREDICTIONS} gives {run.key} {run.score:.6f}, and {RESULTS} says {score:.6f}, so they "
            "come from different runs; evaluate again with --do_eval"
        )
    return run


def restricted(runs: Iterable[Run], only: Path) -> list[Run]:
    """Return the runs with those of their examples alone whose ids a file names, one in each line.

    Raises:
        OSError: there is no such file.
        ValueError: it names no example of a run.
    """
    if not only.is_file():
        raise OSError(f"there is no file {str(only)!r}; name a file of the ids of examples, one in each line")
    ids = set(only.read_text(encoding="utf-8").splitlines())
    kept = []
    for run in runs:
        examples = {name: answers for name, answers in run.examples.items() if name in ids}
        if not examples:
            raise ValueError(
                f"{str(only)!r} names none of the examples of {run.directory}, such as {min(run.examples)!r}; ids are "
                f"those in {PREDICTIONS}, one in each line"
            )
        kept.append(replace(run, examples=examples))
    return kept


def pool_folds(runs: Iterable[Run]) -> list[Run]:
    """Merge runs that differ only in their round of a cross-validation into a single run on all their examples.

    Raises:
        ValueError: an example occurs in two rounds.
    """
    groups: dict[str, list[Run]] = defaultdict(list)
    for number, run in enumerate(runs):
        settings = {name: run.record.get(name) for name in (*FIELDS, *KNOWLEDGE) if name != "gates"}
        crossed = run.record.get("fold") is not None
        groups[json.dumps(settings, sort_keys=True) if crossed else str(number)].append(run)
    return [_pooled(rounds) if len(rounds) > 1 else rounds[0] for rounds in groups.values()]


def _pooled(rounds: list[Run]) -> Run:
    examples: dict[str, tuple[Any, Any]] = {}
    for run in rounds:
        if repeated := examples.keys() & run.examples.keys():
            raise ValueError(
                f"{run.directory}: example {min(repeated)!r} was measured in another round of the cross-validation "
                "too; leave one of the two runs out"
            )
        examples |= run.examples
    first = rounds[0]
    gates = {name: fmean(run.record["gates"][name] for run in rounds) for name in first.record["gates"]}
    recorded = [name for name in OPTIONAL_FIELDS if all(name in run.record for run in rounds)]
    means = {name: fmean(run.record[name] for run in rounds) for name in recorded}
    means |= {"train_examples": round(means["train_examples"])} if "train_examples" in means else {}
    return Run(first.directory, {**first.record, **means, "gates": gates}, examples)


def read_description(directory: Path) -> dict[str, Any]:
    """Read what a run was: its run.json.

    Raises:
        OSError: there is none.
        ValueError: it is damaged, or a field is missing or of the wrong type.
    """
    path = directory / DESCRIPTION
    record = _object(path, path.read_text(encoding="utf-8"))
    recorded = {name: expected for name, expected in {**OPTIONAL_FIELDS, **KNOWLEDGE}.items() if name in record}
    for name, expected in {**FIELDS, **recorded}.items():
        if name not in record:
            raise ValueError(f"{path} has no {name!r}; run trainers/run_task.py again")
        value = record[name]
        if not isinstance(value, expected) or (expected is not bool and isinstance(value, bool)):
            raise ValueError(f"{path} has {name}={value!r}, of the wrong type; run trainers/run_task.py again")
    if missing := {"name", "key"} - record["metric"].keys():
        raise ValueError(f"{path}: 'metric' has no {sorted(missing)}; run trainers/run_task.py again")
    if record["metric"]["name"] not in metrics.available():
        names = ", ".join(metrics.available())
        raise ValueError(f"{path}: no metric {record['metric']['name']!r}; there are {names}")
    return record


def _examples(path: Path) -> dict[str, tuple[Any, Any]]:
    if not path.is_file():
        raise OSError(f"{path.parent} has no {path.name}; evaluate the run with --do_eval, or leave it out")
    examples: dict[str, tuple[Any, Any]] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            example = _object(where, line)
            if missing := {"id", "gold", "prediction"} - example.keys():
                raise ValueError(f"{where} has no {sorted(missing)}; evaluate the run again with --do_eval")
            name = str(example["id"])
            if example["gold"] is None:
                raise ValueError(f"{where}: example {example['id']!r} has no gold answer; report on labelled examples")
            if name in examples:
                raise ValueError(f"{where}: id {example['id']!r} is repeated; give each example an id of its own")
            examples[name] = (example["gold"], example["prediction"])
    if not examples:
        raise ValueError(f"{path} is empty; evaluate the run again with --do_eval")
    return examples


def _object(where: Any, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}); it may be cut short, so evaluate the run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds a {type(content).__name__}, not a JSON object; evaluate the run again")
    return content
