"""Plot medians as bars or lines, with whiskers from the lowest round to the highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import typer

if TYPE_CHECKING:  # imported only for drawing, so that matplotlib takes no memory in a contestant's process
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png")
STYLE = {"svg.hashsalt": "kadapter", "svg.fonttype": "none", "font.size": 8, "axes.axisbelow": True}
WHISKERS = {"elinewidth": 0.9, "capsize": 1.8, "capthick": 0.9, "ecolor": "#1a1a1a"}
STEPS = (1, 2, 5)  # times powers of ten are labelled on a logarithmic axis


class Bars(NamedTuple):
    """A panel with a bar for each contestant, from its numbers by round."""

    x: str
    numbers: Mapping[str, Sequence[float]]
    y: str = ""

    @property
    def inches(self) -> tuple[float, float]:
        """The width and height of the panel."""
        return 3.0, 0.7 + 0.24 * len(self.numbers)

    def draw(self, axis: Axes, colours: Sequence[str]) -> None:
        """Draw the panel, with the first contestant on top."""
        names = list(self.numbers)
        repeated = [colour for _, colour in zip(names, cycle(colours), strict=False)]
        medians, whiskers = spread(list(self.numbers.values()))
        axis.barh(names, medians, xerr=whiskers, height=0.72, color=repeated, error_kw=WHISKERS)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.xaxis.grid(True, color="#e3e3e3", linewidth=0.6)


class Lines(NamedTuple):
    """A panel with a line for each contestant, from its numbers by round at each value of the varied quantity."""

    x: str
    numbers: Mapping[str, Mapping[int, Sequence[float]]]
    y: str
    logarithmic: bool = False

    @property
    def inches(self) -> tuple[float, float]:
        """The width and height of the panel."""
        return 2.2, 2.1

    def draw(self, axis: Axes, colours: Sequence[str]) -> None:
        """Draw the panel; the x axis is logarithmic, and the y axis too if `logarithmic` is set."""
        for (name, line), colour in zip(self.numbers.items(), cycle(colours), strict=False):
            medians, whiskers = spread(list(line.values()))
            style = {**WHISKERS, "ecolor": colour, "color": colour, "marker": "o", "markersize": 3, "linewidth": 1.2}
            axis.errorbar(list(line), medians, yerr=whiskers, label=name, **style)
        ticks = sorted({x for line in self.numbers.values() for x in line})
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        if self.logarithmic:
            axis.set_yscale("log", subs=[])
            axis.yaxis.get_major_locator().set_params(subs=STEPS)
            axis.yaxis.set_major_formatter("{x:g}")
        else:
            axis.set_ylim(bottom=0, auto=True)  # panels that share the axis can still raise the top
        axis.yaxis.grid(True, color="#e3e3e3", linewidth=0.6)


class Curves(NamedTuple):
    """A panel with a curve for each contestant, from its numbers by round at each value of a continuous quantity."""

    x: str
    numbers: Mapping[str, Mapping[float, Sequence[float]]]
    y: str

    @property
    def inches(self) -> tuple[float, float]:
        """The width and height of the panel."""
        return 4.6, 3.0

    def draw(self, axis: Axes, colours: Sequence[str]) -> None:
        """Draw the panel, with as much of the y axis as the curves take."""
        for (name, curve), colour in zip(self.numbers.items(), cycle(colours), strict=False):
            medians, whiskers = spread(list(curve.values()))
            style = {**WHISKERS, "ecolor": colour, "color": colour, "marker": "o", "markersize": 3, "linewidth": 1.2}
            axis.errorbar(list(curve), medians, yerr=whiskers, label=name, **style)
        axis.set_xlim(left=0)
        axis.yaxis.grid(True, color="#e3e3e3", linewidth=0.6)


def spread(numbers: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]] | None]:
    """Return the median of each list, and how far its values reach below and above it (None for single values)."""
    medians = [median(values) for values in numbers]
    if max(map(len, numbers)) == 1:
        return medians, None
    pairs = list(zip(numbers, medians, strict=True))
    return medians, [[mid - min(values) for values, mid in pairs], [max(values) - mid for values, mid in pairs]]


def draw(rows: Sequence[Sequence[Bars | Lines | Curves]], path: Path) -> None:
    """Draw lines of equally many panels into a file, .svg or .png; panels of a line with the same y label share it."""
    import matplotlib
    from matplotlib.figure import Figure

    from kadapter.reports.chart import COLOURS

    size = sum(panel.inches[0] for panel in rows[0]), sum(row[0].inches[1] for row in rows)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
        for row, axes_of_row in zip(rows, axes, strict=True):
            for panel, axis in zip(row, axes_of_row, strict=True):
                if axis is axes_of_row[0] or panel.y != row[0].y:
                    axis.set_ylabel(panel.y)
                else:
                    axis.sharey(axes_of_row[0])
                    axis.tick_params(labelleft=False)
                panel.draw(axis, COLOURS)
                axis.set_xlabel(panel.x)
                axis.spines[["top", "right"]].set_visible(False)
        handles, names = axes[0, 0].get_legend_handles_labels()
        if len(names) > 1:
            figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
        # without a date, equal drawings are equal files
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def checked(path: Path | None) -> Path | None:
    """Return the path of a plot.

    Raises:
        BadParameter: the suffix of the path is not supported.
    """
    if path is not None and path.suffix not in SUFFIXES:
        raise typer.BadParameter(f"{str(path)!r} ends in none of {' '.join(SUFFIXES)}; use one of these suffixes")
    return path
