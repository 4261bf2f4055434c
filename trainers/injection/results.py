"""What an injection writes: a table of rows with intervals, the same as JSON and CSV, and every question's outcome."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...reports import learnt_and_kept
from ...reports.comparison import Resampling
from ...reports.runs import PREDICTIONS, RESULTS
from ..common.atomic_files import replace_file, replace_files
from ..downstream.run_record import write_lines
from .measures import MEASURES, Outcome, Values, interval
from .rows import Cost

__all__ = ["PICTURE", "TABLE", "RowResult", "summary", "table", "write"]

TABLE, PICTURE = "injection.csv", "injection.svg"
LEARNT = {"reliability": "as taught", "generality": "in other words"}
COSTS = ("trainable", "wall_seconds", "cpu_seconds", "peak_bytes")


@dataclass
class RowResult:
    """A row after all its seeds: what each cost, the outcomes of its questions, and its measures."""

    name: str
    costs: list[Cost] = field(default_factory=list)
    outcomes: list[dict[str, list[Outcome]]] = field(default_factory=list)
    moved: list[np.ndarray] = field(default_factory=list)
    perplexities: list[tuple[float, float]] = field(default_factory=list)  # before and after, of the texts
    values: dict[str, Values] = field(default_factory=dict)


def summary(rows: Sequence[RowResult], resampling: Resampling) -> dict[str, dict[str, Any]]:
    """Return by row what it cost, and each measure: mean, interval, values by seed, difference from the first row."""
    first, described = rows[0], {}
    for row in rows:
        measures = {}
        for name in MEASURES:
            own, reference = row.values[name], first.values[name]
            measures[name] = {
                "mean": own.mean(),
                "interval": interval(own, resampling),
                "by_seed": [Values(own.sums[[seed]], own.numbers).mean() for seed in range(len(own.sums))],
                "minus_first_row": own.mean() - reference.mean(),
                "minus_first_row_interval": interval(own, resampling, reference),
            }
        costs = [asdict(cost) for cost in row.costs]
        before, after = ([pair[when] for pair in row.perplexities] for when in (0, 1))
        perplexity = {"before": before[0] if before else None, "after": after}
        described[row.name] = {
            "measures": measures,
            "perplexity": perplexity,
            **{name: [cost[name] for cost in costs] for name in COSTS},
        }
    return described


def table(described: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Return the lines of a table, the first of which names its columns: measures with intervals, and mean costs."""
    lines = [["row", *MEASURES, "perplexity", "trained weights", "seconds", "CPU seconds", "peak MB"]]
    for name, row in described.items():
        cells = [_cell(row["measures"][measure]) for measure in MEASURES]
        cells.append(_change(row["perplexity"]))
        peaks = [peak for peak in row["peak_bytes"] if peak is not None]
        costs = [
            f"{row['trainable'][0]:,}",
            f"{np.mean(row['wall_seconds']):.1f}",
            f"{np.mean(row['cpu_seconds']):.1f}",
        ]
        lines.append([name, *cells, *costs, f"{max(peaks) / 1e6:.0f}" if peaks else "-"])
    return lines


def _change(perplexity: dict[str, Any]) -> str:
    return f"{perplexity['before']:.4g} to {np.mean(perplexity['after']):.4g}" if perplexity["after"] else "-"


def _cell(measure: dict[str, Any]) -> str:
    if np.isnan(measure["mean"]):
        return "-"
    low, high = measure["interval"]
    return f"{measure['mean']:.3f} [{low:.3f}, {high:.3f}]"


def write(
    folder: Path, rows: Sequence[RowResult], seeds: Sequence[int], settings: dict[str, Any], resampling: Resampling
) -> dict[str, dict[str, Any]]:
    """Write all_results.json, injection.csv, injection.svg and predictions.jsonl, and return the results by row.

    Raises:
        OSError: they can't be written.
    """
    described = summary(rows, resampling)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table(described))
    replace_file(folder / TABLE, text.getvalue().rstrip("\n"))
    write_lines(folder / PREDICTIONS, [line for row in rows for line in _lines(row, seeds)])
    replace_files(folder, lambda place: _draw(described, place / PICTURE))
    replace_file(folder / RESULTS, json.dumps({"settings": settings, "rows": described}, indent=2))
    return described


def _draw(described: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw what each row learnt against the known facts that it kept, or, where none were known, its agreement."""
    rows = {name: row["measures"] for name, row in described.items()}
    known = not any(np.isnan(measures["known"]["mean"]) for measures in rows.values())
    kept = ("known", "known facts kept") if known else ("agreement", "agreement on other questions")
    learnt_and_kept.draw(rows, LEARNT, kept, path)


def _lines(row: RowResult, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return what became of every question, for each seed."""
    return [
        {
            "row": row.name,
            "seed": seed,
            "facts": kind,
            "relation": each.question.fact[0],
            "subject": each.question.fact[1],
            "phrasing": each.question.number,
            "prompt": each.question.prompt,
            "before": each.before,
            "after": each.after,
            "agrees": each.agrees,
            "kl": round(each.kl, 6),
        }
        for seed, own in zip(seeds, row.outcomes, strict=True)
        for kind, outcomes in own.items()
        for each in outcomes
    ]
