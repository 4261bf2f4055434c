"""Rows against reference rows: means over seeds, and the paired bootstrap over examples and over seeds.

A resample draws examples with replacement, the same ones for every run of a column, and seeds with replacement, the
same ones for two rows that have the same seeds (Efron and Tibshirani, 1993, chapter 8; percentile intervals).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from .runs import Run, pool_folds

__all__ = ["CONTROLS", "Cell", "Column", "Interval", "Resampling", "Row", "Table", "label", "tabulate"]

# Rows in the order of a results table; adapters, alone and then composed, come after these.
CONTROLS = ("backbone", "multitask", "taps", "random")
# What a row is beside its name, shown where one name has several.
VARIANTS = ("fusion", "freeze_backbone", "freeze_adapters", "adapters", "backbone")
CHUNK = 250  # resamples at a time, so that memory stays small


@dataclass(frozen=True)
class Column:
    """A task, the share of its training data, and the split on which it is measured."""

    task: str
    train_fraction: float
    split: str
    key: str = field(compare=False)

    @classmethod
    def of(cls, run: Run) -> Column:
        """Return the column of a run."""
        return cls(run.task, run.said["train_fraction"], run.said["split"], run.key)

    def __str__(self) -> str:
        return f"{self.task} {self.share} ({self.split} {self.key})"

    @property
    def share(self) -> str:
        """The share of the training data in percent."""
        return f"{100 * self.train_fraction:.4g}%"


@dataclass(frozen=True)
class Row:
    """What stands beside the backbone, and how it was fused and trained."""

    name: str
    variant: tuple[Any, ...]

    @classmethod
    def of(cls, run: Run) -> Row:
        """Return the row of a run."""
        values = [run.said[name] for name in VARIANTS]
        return cls(run.row, tuple(tuple(one) if isinstance(one, list) else one for one in values))

    def __getitem__(self, name: str) -> Any:
        return self.variant[VARIANTS.index(name)]

    @property
    def rank(self) -> tuple[int, str]:
        """The place in a results table: controls, then adapters alone, then composed ones."""
        if self.name in CONTROLS:
            return CONTROLS.index(self.name), ""
        return len(CONTROLS) + len(self["adapters"]), self.name


@dataclass(frozen=True)
class Interval:
    """The difference of two rows' means, and the interval of its resamples."""

    difference: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the difference is more than chance, as far as the interval tells."""
        return self.low > 0 or self.high < 0


@dataclass
class Cell:
    """One row in one column: its runs by seed, and its differences to reference rows by their names."""

    runs: dict[int, Run]
    against: dict[str, Interval]

    @property
    def mean(self) -> float:
        """Mean of the headline result over seeds."""
        return fmean(run.score for run in self.runs.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds, of a sample; None for one seed."""
        return stdev(run.score for run in self.runs.values()) if len(self.runs) > 1 else None

    def trained_on(self) -> list[tuple[int, float]]:
        """Return the numbers of examples that its runs trained on and their shares of all, where they tell."""
        told = [(run.said.get("train_examples"), run.said.get("train_share")) for run in self.runs.values()]
        return sorted({(number, share) for number, share in told if number and share})

    def gates(self) -> dict[str, list[float]]:
        """Return the gates of each adapter, one a seed; none where fusion has no gates."""
        gates = defaultdict(list)
        for run in self.runs.values():
            for name, value in run.said["gates"].items():
                gates[name].append(value)
        return dict(gates)


@dataclass(frozen=True)
class Resampling:
    """How intervals are drawn."""

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
        """Return each run's headline result on the same resamples of the examples, (resamples,) by directory."""
        random, weights = np.random.default_rng(self.seed), np.empty((self.resamples, examples), np.uint16)
        for one in weights:
            one[:] = np.bincount(random.integers(examples, size=examples), minlength=examples)
        return {run.directory: self._weighted(run, weights) for run in runs}

    def _weighted(self, run: Run, weights: np.ndarray) -> np.ndarray:
        statistics = run.statistics()
        parts = (weights[start : start + CHUNK].astype(float) for start in range(0, len(weights), CHUNK))
        return np.concatenate([run.scores(part @ statistics) for part in parts])

    def interval(self, one: Cell, other: Cell, scores: dict[Path, np.ndarray]) -> Interval:
        """Return the difference of a row to a reference row with its interval."""
        paired = one.runs.keys() == other.runs.keys()
        means = [self._mean_of_seeds(cell, scores, 0 if paired else n) for n, cell in enumerate((one, other))]
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(means[0] - means[1], [tail, 1 - tail])
        return Interval(one.mean - other.mean, float(low), float(high))

    def _mean_of_seeds(self, cell: Cell, scores: dict[Path, np.ndarray], stream: int) -> np.ndarray:
        by_seed = np.stack([scores[cell.runs[seed].directory] for seed in sorted(cell.runs)], axis=1)
        random = np.random.default_rng([self.seed, stream])
        drawn = random.integers(by_seed.shape[1], size=by_seed.shape)  # (resamples, seeds)
        return np.take_along_axis(by_seed, drawn, axis=1).mean(axis=1)


Table = dict[Column, dict[Row, Cell]]


def tabulate(runs: Sequence[Run], references: Sequence[str], resampling: Resampling) -> Table:
    """Group runs by column and row, in the order of a results table, and compare each row with the reference rows.

    The rounds of a cross-validation count as one run on the examples of all of them.

    Raises:
        ValueError: two runs of one column were measured on other examples or by other metrics, or two of one row have
            one seed.
    """
    columns: dict[Column, list[Run]] = defaultdict(list)
    for run in sorted(pool_folds(runs), key=lambda run: (run.task, run.said["train_fraction"], run.said["split"])):
        columns[Column.of(run)].append(run)
    return {column: _compared(of_column, references, resampling) for column, of_column in columns.items()}


def _compared(runs: list[Run], references: Sequence[str], resampling: Resampling) -> dict[Row, Cell]:
    _check_examples(runs)
    cells: dict[Row, Cell] = {}
    for run in sorted(runs, key=lambda run: (Row.of(run).rank, repr(Row.of(run).variant), run.seed)):
        cell = cells.setdefault(Row.of(run), Cell({}, {}))
        if run.seed in cell.runs:
            raise ValueError(
                f"{cell.runs[run.seed].directory} and {run.directory} are both {run.row!r} of {Column.of(run)} with "
                f"seed {run.seed}; leave one out"
            )
        cell.runs[run.seed] = run
    scores = resampling.scores(runs, len(runs[0].examples))
    for row, cell in cells.items():
        for name in references:
            reference = _reference(row, name, cells)
            # Two reference rows are compared once, the later one with the earlier.
            if reference is None or reference == row or (row.name in references and reference.rank > row.rank):
                continue
            cell.against[name] = resampling.interval(cell, cells[reference], scores)
    return cells


def _check_examples(runs: list[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        where = f"{first.directory} and {run.directory} are both of {Column.of(run)}, but"
        if run.said["metric"] != first.said["metric"]:
            raise ValueError(f"{where} were measured by other metrics or settings; report on them one by one")
        if different := run.examples.keys() ^ first.examples.keys():
            raise ValueError(
                f"{where} were measured on other examples: {len(different)} ids are in one alone, for example "
                f"{min(different)!r}; evaluate both on the same examples"
            )
        for name, (gold, _) in run.examples.items():
            if gold != first.examples[name][0]:
                raise ValueError(f"{where} differ in the gold answer of {name!r}; evaluate both on the same data")


def _reference(row: Row, name: str, rows: Iterable[Row]) -> Row | None:
    """Find the reference row of that name that is otherwise most like a row: trained as it was, on its backbone."""
    same = [one for one in rows if one.name == name and one["freeze_backbone"] == row["freeze_backbone"]]
    same = [one for one in same if one["backbone"] == row["backbone"] or "multitask" in (row.name, one.name)]
    alike = ("backbone", "fusion", "adapters", "freeze_adapters")
    return max(same, key=lambda one: [one[name] == row[name] for name in alike], default=None)


def label(row: Row, rows: Iterable[Row]) -> str:
    """Return what a row is called: its name and, where several rows have that, what tells it from them."""
    alike = [one for one in rows if one.name == row.name]
    differing = [name for name in VARIANTS if len({one[name] for one in alike}) > 1]
    return f"{row.name} ({', '.join(_word(name, row[name]) for name in differing)})" if differing else row.name


def _word(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"{name.removeprefix('freeze_')} {'frozen' if value else 'trained'}"
    return "+".join(value) if isinstance(value, tuple) else Path(value).name
