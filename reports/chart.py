"""Draw a results table as a bar chart: a panel for each task, a group of bars for each share of its training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from math import ceil, nan
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .comparison import CONTROLS, Column, Row, Table, label

__all__ = ["COLOURS", "GREYS", "draw"]

GREYS = dict(zip(CONTROLS, ("#4d4d4d", "#7a7a7a", "#a3a3a3", "#cccccc"), strict=True))
# Okabe and Ito's colours, which colour-blind readers can tell apart; each time they repeat, the hatching changes.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
HATCHES = (None, "////", "----", "xxxx", "||||")  # lines only: dots make an SVG forty times as large
PANELS_PER_LINE = 3
CHARACTER_WIDTH, LINE_HEIGHT = 0.075, 0.2  # of the legend, in inches
GROUP_WIDTH, LARGEST_BAR_WIDTH = 0.84, 0.25  # groups are 1 apart


def draw(table: Table, paths: Sequence[Path]) -> None:
    """Draw means and standard deviations over seeds into files; the suffix of a path sets its format."""
    rows = list(dict.fromkeys(row for cells in table.values() for row in cells))
    rows.sort(key=lambda row: row.rank)
    panels: dict[tuple[str, str, str], list[Column]] = {}
    for column in table:
        panels.setdefault((column.task, column.split, column.key), []).append(column)
    across = min(PANELS_PER_LINE, len(panels))
    down = ceil(len(panels) / across)
    groups = max(map(len, panels.values()))
    width = max(4.5, across * max(2.4, 0.9 + groups * (0.3 + 0.19 * len(rows))))
    with matplotlib.rc_context({"svg.hashsalt": "kadapter", "svg.fonttype": "none", "font.size": 9}):
        names = [label(row, rows) for row in rows]
        legend_columns = max(1, min(4, len(rows), int(width / (0.5 + CHARACTER_WIDTH * max(map(len, names))))))
        height = 0.5 + 2.5 * down + LINE_HEIGHT * ceil(len(rows) / legend_columns)
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(down, across, squeeze=False).ravel()
        for axis, ((task, split, key), columns) in zip(axes, panels.items(), strict=False):
            _panel(axis, table, columns, rows)
            axis.set_title(task, fontsize=10)
            axis.set_ylabel(f"{key.replace('_', ' ')} ({split})")
        for axis in axes[len(panels) :]:
            axis.remove()
        handles, _ = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=legend_columns, frameon=False)
        for path in paths:
            # without a date, equal drawings are equal files
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=200, metadata=metadata)


def _panel(axis: Axes, table: Table, columns: list[Column], rows: list[Row]) -> None:
    width = min(GROUP_WIDTH / len(rows), LARGEST_BAR_WIDTH)
    for number, (row, (colour, hatch)) in enumerate(zip(rows, _styles(rows), strict=True)):
        cells = [table[column].get(row) for column in columns]
        axis.bar(
            [group + (number - (len(rows) - 1) / 2) * width for group in range(len(columns))],
            [cell.mean if cell else nan for cell in cells],
            yerr=[nan if cell is None or cell.deviation is None else cell.deviation for cell in cells],
            width=0.92 * width,
            label=label(row, rows),
            color=colour,
            hatch=hatch,
            edgecolor="white",
            linewidth=0,
            error_kw={"elinewidth": 0.9, "capsize": 1.8, "capthick": 0.9, "ecolor": "#1a1a1a"},
        )
    axis.set_xticks(range(len(columns)), [column.share for column in columns])
    axis.set_xlabel("training data")
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylim(bottom=0)
    axis.yaxis.grid(True, color="#e3e3e3", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _styles(rows: list[Row]) -> list[tuple[str, str | None]]:
    """Return a colour and a hatching for each row: controls are grey, and repeated colours are hatched."""
    colours, seen = cycle(COLOURS), Counter[str]()
    styles: list[tuple[str, str | None]] = []
    for row in rows:
        colour = GREYS.get(row.name) or next(colours)
        styles.append((colour, HATCHES[seen[colour] % len(HATCHES)]))
        seen[colour] += 1
    return styles
