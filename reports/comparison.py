"""Compare rows with reference rows: means over seeds, and the paired bootstrap over examples and seeds.

A resample draws examples with replacement, the same examples for every run of a column, and seeds with replacement,
the same seeds for two rows that have the same seeds (Efron and Tibshirani, 1993, chapter 8; percentile intervals).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from .runs import Run, pool_folds

__all__ = [
    "CONTROLS",
    "Cell",
    "Column",
    "Interval",
    "Resampling",
    "Row",
    "Table",
    "check_examples",
    "label",
    "tabulate",
    "totals",
]

# The first rows of a results table, in this order; single adapters and then composed adapters follow.
CONTROLS = ("backbone", "multitask", "taps", "random")
# What distinguishes rows of the same name.
VARIANTS = ("fusion", "freeze_backbone", "freeze_adapters", "adapters", "backbone", "table")
CHUNK = 250  # resamples at a time, to keep memory small


@dataclass(frozen=True)
class Column:
    """A task, the share of its training data that runs train on, and the split that they are measured on."""

    task: str
    train_fraction: float
    split: str
    key: str = field(compare=False)

    @classmethod
    def of(cls, run: Run) -> Column:
        """Return the column of a run."""
        return cls(run.task, run.record["train_fraction"], run.record["split"], run.key)

    def __str__(self) -> str:
        return f"{self.task} {self.share} ({self.split} {self.key})"

    @property
    def share(self) -> str:
        """The share of the training data in percent."""
        return f"{100 * self.train_fraction:.4g}%"


@dataclass(frozen=True)
class Row:
    """A control or a set of adapters, and how it was fused and trained."""

    name: str
    fusion: str
    freeze_backbone: bool
    freeze_adapters: bool
    adapters: tuple[str, ...]
    backbone: str
    table: str | None = None  # the sha256 of the entity embeddings that a knowledge map maps

    @classmethod
    def of(cls, run: Run) -> Row:
        """Return the row of a run."""
        values: dict[str, Any] = {name: run.record[name] for name in VARIANTS if name != "table"}
        table = run.record.get("knowledge", {}).get("sha256")
        return cls(run.row, **{**values, "adapters": tuple(values["adapters"]), "table": table})

    @property
    def rank(self) -> tuple[int, str]:
        """The sort key in a results table: controls, then single adapters, then composed adapters."""
        if self.name in CONTROLS:
            return CONTROLS.index(self.name), ""
        return len(CONTROLS) + len(self.adapters), self.name


@dataclass(frozen=True)
class Interval:
    """The difference between the means of two rows, and its bootstrap interval."""

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies entirely above or below zero."""
        return self.low > 0 or self.high < 0


@dataclass
class Cell:
    """One row in one column: its runs by seed, and its differences from the reference rows by their names."""

    runs: dict[int, Run]
    against: dict[str, Interval]

    @property
    def mean(self) -> float:
        """The mean of the headline result over seeds."""
        return fmean(run.score for run in self.runs.values())

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over seeds; None with a single seed."""
        return stdev(run.score for run in self.runs.values()) if len(self.runs) > 1 else None

    def trained_on(self) -> list[tuple[int, float]]:
        """Return the number of training examples and their share of all, of each run that recorded them."""
        pairs = [(run.record.get("train_examples"), run.record.get("train_share")) for run in self.runs.values()]
        return sorted({(number, share) for number, share in pairs if number and share})

    def gates(self) -> dict[str, list[float]]:
        """Return the gates of each adapter, a value for each seed; empty if the fusion has no gates."""
        gates = defaultdict(list)
        for run in self.runs.values():
            for name, value in run.record["gates"].items():
                gates[name].append(value)
        return dict(gates)


@dataclass(frozen=True)
class Resampling:
    """The settings of the bootstrap: number of resamples, seed and confidence."""

    resamples: int = 2000
    seed: int = 0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.resamples < 1 or not 0 < self.confidence < 1:
            raise ValueError(
                f"resamples={self.resamples} and confidence={self.confidence} give no interval; resample at least "
                "once, with a confidence between 0 and 1"
            )

    def scores(self, runs: Iterable[Run], examples: int) -> dict[Path, np.ndarray]:
        """Return, by directory, each run's headline results on the same resamples of the examples, (resamples,)."""
        weights = self.weights(examples)
        return {run.directory: np.concatenate([run.scores(total) for total in totals(run, weights)]) for run in runs}

    def weights(self, examples: int) -> np.ndarray:
        """Return how often each example is drawn in each resample, (resamples, examples)."""
        random, weights = np.random.default_rng(self.seed), np.empty((self.resamples, examples), np.uint16)
        for resample in weights:
            resample[:] = np.bincount(random.integers(examples, size=examples), minlength=examples)
        return weights

    def interval(self, cell: Cell, reference: Cell, scores: dict[Path, np.ndarray]) -> Interval:
        """Return how much a cell differs from the cell of a reference row, with the interval."""
        cells, paired = (cell, reference), cell.runs.keys() == reference.runs.keys()
        means = [self._mean_of_seeds(each, scores, 0 if paired else n) for n, each in enumerate(cells)]
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(means[0] - means[1], [tail, 1 - tail])
        return Interval(cell.mean - reference.mean, float(low), float(high))

    def _mean_of_seeds(self, cell: Cell, scores: dict[Path, np.ndarray], stream: int) -> np.ndarray:
        by_seed = np.stack([scores[cell.runs[seed].directory] for seed in sorted(cell.runs)], axis=1)
        random = np.random.default_rng([self.seed, stream])
        drawn = random.integers(by_seed.shape[1], size=by_seed.shape)  # (resamples, seeds)
        return np.take_along_axis(by_seed, drawn, axis=1).mean(axis=1)


def totals(run: Run, weights: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the summed statistics of a run's examples, (chunk, k), under weights (resamples, examples)."""
    statistics = run.statistics()
    for start in range(0, len(weights), CHUNK):
        yield weights[start : start + CHUNK].astype(float) @ statistics


Table = dict[Column, dict[Row, Cell]]


def tabulate(runs: Sequence[Run], references: Sequence[str], resampling: Resampling) -> Table:
    """Group runs by column and row, in the order of a results table, and compare each row with the reference rows.

    The rounds of a cross-validation count as a single run on the examples of all rounds.

    Raises:
        ValueError: two runs of a column were measured on different examples or by different metrics, or two runs of a
            row have the same seed.
    """
    columns: dict[Column, list[Run]] = defaultdict(list)
    for run in sorted(pool_folds(runs), key=lambda run: (run.task, run.record["train_fraction"], run.record["split"])):
        columns[Column.of(run)].append(run)
    return {column: _compared(of_column, references, resampling) for column, of_column in columns.items()}


def _compared(runs: list[Run], references: Sequence[str], resampling: Resampling) -> dict[Row, Cell]:
    check_examples(runs)
    cells: dict[Row, Cell] = {}
    for run in sorted(runs, key=lambda run: (Row.of(run).rank, repr(Row.of(run)), run.seed)):
        cell = cells.setdefault(Row.of(run), Cell({}, {}))
        if run.seed in cell.runs:
            raise ValueError(
                f"{cell.runs[run.seed].directory} and {run.directory} are both {run.row!r} on {Column.of(run)} with "
                f"seed {run.seed}; leave one out"
            )
        cell.runs[run.seed] = run
    scores = resampling.scores(runs, len(runs[0].examples))
    for row, cell in cells.items():
        for name in references:
            reference = _reference(row, name, cells)
            # two reference rows are compared once, the later row with the earlier
            if reference is None or reference == row or (row.name in references and reference.rank > row.rank):
                continue
            cell.against[name] = resampling.interval(cell, cells[reference], scores)
    return cells


def check_examples(runs: Sequence[Run]) -> None:
    """Refuse runs that were measured on different examples or by different metrics.

    Raises:
        ValueError: they were; the message says where they differ.
    """
    first = runs[0]
    for run in runs[1:]:
        where = f"{first.directory} and {run.directory} are both on {Column.of(run)}, but"
        if run.record["metric"] != first.record["metric"]:
            raise ValueError(f"{where} were measured by different metrics or settings; report on each by itself")
        if different := run.examples.keys() ^ first.examples.keys():
            raise ValueError(
                f"{where} were measured on different examples: {len(different)} ids are in only one of them, for "
                f"example {min(different)!r}; evaluate both on the same examples"
            )
        for name, (gold, _) in run.examples.items():
            if gold != first.examples[name][0]:
                raise ValueError(f"{where} differ in the gold answer of {name!r}; evaluate both on the same data")


def _reference(row: Row, name: str, rows: Iterable[Row]) -> Row | None:
    """Return the row of this name that is most like a row: on the same backbone, trained the same way."""
    named = [other for other in rows if other.name == name and other.freeze_backbone == row.freeze_backbone]
    named = [other for other in named if other.backbone == row.backbone or "multitask" in (row.name, other.name)]
    compared = ("backbone", "fusion", "adapters", "freeze_adapters")
    return max(named, key=lambda other: [getattr(other, key) == getattr(row, key) for key in compared], default=None)


def label(row: Row, rows: Iterable[Row]) -> str:
    """Return the name of a row and, if several rows share the name, how it differs from them."""
    namesakes = [other for other in rows if other.name == row.name]
    differing = [key for key in VARIANTS if len({getattr(other, key) for other in namesakes}) > 1]
    return f"{row.name} ({', '.join(_word(key, getattr(row, key)) for key in differing)})" if differing else row.name


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{name.removeprefix('freeze_')} {'frozen' if value else 'trained'}"
    if name == "table":
        return f"table {str(value)[:12]}"
    return "+".join(value) if isinstance(value, tuple) else Path(value).name
