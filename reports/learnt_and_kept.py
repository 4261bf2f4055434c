"""Draw what was learnt against what was kept: a point for each row and measure, with its intervals."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from .chart import COLOURS

__all__ = ["draw"]

MARKERS = ("o", "^", "s", "D")  # filled for the first measure, hollow for the others
Measure = Mapping[str, Any]


def draw(
    rows: Mapping[str, Mapping[str, Measure]], learnt: Mapping[str, str], kept: tuple[str, str], path: Path
) -> None:
    """Draw into a file, whose suffix sets the format; the best corner is the upper right one.

    Args:
        rows: for each row its measures by name, each with "mean" and "interval", the lowest and highest value.
        learnt: the measures of what was learnt, each with its label; they share the vertical axis.
        kept: the measure of what was kept, and its label.
        path: the file.
    """
    with matplotlib.rc_context({"svg.hashsalt": "kadapter", "svg.fonttype": "none", "font.size": 9}):
        entries = -(-len(rows) * len(learnt) // 2)  # lines of the legend, which has two columns
        figure = Figure(figsize=(5.5, 3.3 + 0.17 * entries), layout="constrained")
        axis = figure.subplots()
        for (row, measures), colour in zip(rows.items(), cycle(COLOURS), strict=False):
            for number, (name, label) in enumerate(learnt.items()):
                across, up = measures[kept[0]], measures[name]
                axis.errorbar(
                    across["mean"],
                    up["mean"],
                    xerr=_whiskers(across),
                    yerr=_whiskers(up),
                    fmt=MARKERS[number % len(MARKERS)],
                    color=colour,
                    markerfacecolor="white" if number else colour,
                    elinewidth=0.9,
                    capsize=1.8,
                    label=f"{row}, {label}",
                )
        axis.set_xlabel(kept[1])
        axis.set_ylabel("new facts")
        axis.set_xlim(-0.03, 1.03)
        axis.set_ylim(-0.03, 1.03)
        axis.grid(True, color="#e3e3e3", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def _whiskers(measure: Measure) -> list[list[float]]:
    low, high = measure["interval"]
    return [[max(0.0, measure["mean"] - low)], [max(0.0, high - measure["mean"])]]
