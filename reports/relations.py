"""Tabulate and draw the results of a probe by relation, and compare them with other runs of it.

The intervals are those of the paired bootstrap over facts, as in `comparison`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from shutil import get_terminal_size

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table as Drawn

from ..metrics.ranking import CUTOFFS, STATISTICS
from .chart import COLOURS, GREYS
from .comparison import Interval, Resampling, check_examples, totals
from .runs import Run, read_run

__all__ = ["FILES", "Line", "by_relation", "report_relations"]

FILES = ("relations.csv", "relations.png", "relations.svg")
MACRO, MICRO = "mean of relations", "all facts"
RESULTS = (*(f"P@{cutoff}" for cutoff in CUTOFFS), "MRR")
BAR = 0.16  # height of a bar in inches


@dataclass(frozen=True)
class Line:
    """The results of a relation, of the mean of all, or of all facts together, by the names of `RESULTS`.

    Args:
        name: the relation, or `MACRO` or `MICRO`.
        facts: how many were asked.
        results: of the first run.
        others: P@1 of the other runs, in their order.
        against: by how much P@1 of the first run exceeds that of each other run.
    """

    name: str
    facts: int
    results: dict[str, float]
    others: list[float]
    against: list[Interval]


def report_relations(
    directories: Sequence[Path],
    output_dir: Path,
    dropped: Mapping[str, int] | None = None,
    resampling: Resampling | None = None,
    log: Callable[[str], None] = print,
) -> list[Line]:
    """Print the results of a run by relation, compared with other runs, and write relations.csv, .png and .svg.

    Args:
        directories: the run, and those that it is compared with.
        output_dir: directory of the files.
        dropped: how many facts of each relation were left out; shown where it is known.
        resampling: settings of the bootstrap.
        log: function that prints a text.

    Raises:
        OSError: a directory holds no run, or the files can't be written.
        ValueError: a run is damaged, or the runs were measured on different facts.
    """
    runs, resampling = [read_run(directory) for directory in directories], resampling or Resampling()
    lines = by_relation(runs, resampling)
    names = _names(runs)
    _write_csv(lines, names, dropped or {}, output_dir / FILES[0])
    _draw(lines, names, [output_dir / name for name in FILES[1:]])
    log(_text(lines, names, dropped or {}))
    if len(runs) > 1:
        log(
            f"{100 * resampling.confidence:g}% intervals of the paired bootstrap over facts ({resampling.resamples} "
            f"resamples, seed {resampling.seed}); * marks those that exclude zero, not corrected for their number"
        )
    return lines


def by_relation(runs: Sequence[Run], resampling: Resampling) -> list[Line]:
    """Return the results of the first run by relation, then as the mean of relations and over all facts.

    Raises:
        ValueError: the runs were measured on different facts, or not by ranking.
    """
    for run in runs:
        if run.record["metric"]["name"] != "ranking":
            raise ValueError(
                f"{run.directory} is no run of a probe: it was measured by {run.record['metric']['name']}"
            )
    check_examples(runs)
    relations = runs[0].record["metric"]["settings"]["relations"]
    scored = [_results(run.statistics().sum(axis=0)) for run in runs]  # (lines, results) each
    samples = [_resampled(run, resampling) for run in runs] if len(runs) > 1 else []
    facts = runs[0].statistics().sum(axis=0).reshape(-1, STATISTICS)[:, 0]
    counted = [*facts, facts.sum(), facts.sum()]
    lines = []
    for number, name in enumerate([*relations, MACRO, MICRO]):
        results = dict(zip(RESULTS, map(float, scored[0][number]), strict=True))
        others = [float(other[number, 0]) for other in scored[1:]]
        against = [
            _interval(results[RESULTS[0]] - score, samples[0][:, number] - sample[:, number], resampling)
            for score, sample in zip(others, samples[1:], strict=True)
        ]
        lines.append(Line(name, int(counted[number]), results, others, against))
    return [line for line in lines if line.facts]


def _results(total: np.ndarray) -> np.ndarray:
    """Return results (..., relations + 2, results) of summed statistics (..., k); NaN for relations without facts."""
    sums = total.reshape(*total.shape[:-1], -1, STATISTICS)
    with np.errstate(invalid="ignore"):
        own = sums[..., 1:] / sums[..., :1]
    macro = np.nanmean(own, axis=-2, keepdims=True)
    micro = sums[..., 1:].sum(axis=-2, keepdims=True) / sums[..., :1].sum(axis=-2, keepdims=True)
    return np.concatenate([own, macro, micro], axis=-2)


def _resampled(run: Run, resampling: Resampling) -> np.ndarray:
    """Return P@1 of each line in each resample, (resamples, lines)."""
    weights = resampling.weights(len(run.examples))
    return np.concatenate([_results(total)[..., 0] for total in totals(run, weights)])


def _interval(difference: float, sample: np.ndarray, resampling: Resampling) -> Interval:
    tail, known = (1 - resampling.confidence) / 2, sample[~np.isnan(sample)]
    low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
    return Interval(difference, float(low), float(high))


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the names of rows, with their directories where several rows share a name."""
    rows = [run.row for run in runs]
    return [
        name if rows.count(name) == 1 else f"{name} ({run.directory})" for name, run in zip(rows, runs, strict=True)
    ]


# ---- table and files ------------------------------------------------------------------------------------------------


def _text(lines: Sequence[Line], names: Sequence[str], dropped: Mapping[str, int]) -> str:
    drawn, file = Drawn(box=box.SIMPLE), io.StringIO()
    for heading in ("relation", "facts", "left out", *RESULTS, *(f"P@1 less {name}" for name in names[1:])):
        drawn.add_column(heading, overflow="fold")
    for line in lines:
        differences = [
            f"{each.difference:+.3f} [{each.low:+.3f}, {each.high:+.3f}]" + " *" * each.excludes_zero
            for each in line.against
        ]
        shown = [f"{value:.3f}" for value in line.results.values()]
        drawn.add_row(line.name, str(line.facts), str(_dropped(line, dropped)), *shown, *differences)
    Console(file=file, width=get_terminal_size((100_000, 0)).columns, markup=False, highlight=False).print(drawn)
    title = f"{names[0]}: " + ("by relation" if len(names) == 1 else f"by relation, less {', '.join(names[1:])}")
    return "\n".join([title, *(text.rstrip() for text in file.getvalue().splitlines() if text.strip())])


def _dropped(line: Line, dropped: Mapping[str, int]) -> int:
    return sum(dropped.values()) if line.name in (MACRO, MICRO) else dropped.get(line.name, 0)


def _write_csv(lines: Sequence[Line], names: Sequence[str], dropped: Mapping[str, int], path: Path) -> None:
    """Write a line for each relation with all numbers at full precision."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        compared = [f"{what} {name}" for name in names[1:] for what in ("P@1 of", "less", "low less", "high less")]
        writer.writerow(["row", "relation", "facts", "left_out", *RESULTS, *compared])
        for line in lines:
            pairs = zip(line.others, line.against, strict=True)
            cells = [cell for own, each in pairs for cell in (own, each.difference, each.low, each.high)]
            own = [names[0], line.name, line.facts, _dropped(line, dropped)]
            writer.writerow([*own, *line.results.values(), *cells])


def _draw(lines: Sequence[Line], names: Sequence[str], paths: Sequence[Path]) -> None:
    """Draw P@1 of every run by relation as horizontal bars; the suffix of a path sets its format."""
    scores = [[line.results[RESULTS[0]] for line in lines]]
    scores += [[line.others[number] for line in lines] for number in range(len(names) - 1)]
    height = 1.2 + len(lines) * (0.1 + BAR * len(names))
    with matplotlib.rc_context({"svg.hashsalt": "kadapter", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7, height), layout="constrained")
        axis, colours = figure.subplots(), cycle(COLOURS)
        width = 0.84 / len(names)
        for number, (name, own) in enumerate(zip(names, scores, strict=True)):
            places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(lines))]
            axis.barh(places, own, 0.92 * width, label=name, color=GREYS.get(name) or next(colours))
        axis.set_yticks(range(len(lines)), [f"{line.name} ({line.facts})" for line in lines])
        axis.set_ylim(len(lines) - 0.4, -0.6)  # the first at the top
        axis.set_xlabel(f"{RESULTS[0]} (facts in brackets)")
        axis.set_xlim(left=0)
        axis.xaxis.grid(True, color="#e3e3e3", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=min(3, len(names)), frameon=False)
        for path in paths:
            figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)
