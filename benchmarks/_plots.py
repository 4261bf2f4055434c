"""What a benchmark draws: medians as bars or lines, with whiskers from the lowest round to the highest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import typer

if TYPE_CHECKING:  # drawing is imported where it is done, so that no contestant has it in its memory
    from matplotlib.axes import Axes

KINDS = (".svg", ".png")
# Okabe and Ito's colours, which colour-blind readers tell apart too.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442")
LOOK = {"svg.hashsalt": "kadapter", "svg.fonttype": "none", "font.size": 8, "axes.axisbelow": True}
WHISKERS = {"elinewidth": 0.9, "capsize": 1.8, "capthick": 0.9, "ecolor": "#1a1a1a"}
STEPS = (1, 2, 5)  # of which multiples by powers of ten are marked on a logarithmic axis


class Bars(NamedTuple):
    """A panel with a bar for each contestant, whose numbers are those of its rounds."""

    x: str
    numbers: Mapping[str, Sequence[float]]
    y: str = ""

    @property
    def inches(self) -> tuple[float, float]:
        """Return width and height."""
        return 3.0, 0.7 + 0.24 * len(self.numbers)

    def draw(self, axis: Axes) -> None:
        """Draw the panel, the first contestant on top."""
        names = list(self.numbers)
        colours = [colour for _, colour in zip(names, cycle(COLOURS), strict=False)]
        middles, whiskers = spread(list(self.numbers.values()))
        axis.barh(names, middles, xerr=whiskers, height=0.72, color=colours, error_kw=WHISKERS)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.xaxis.grid(True, color="#e3e3e3", linewidth=0.6)


class Lines(NamedTuple):
    """A panel with a line for each contestant over what varies, whose numbers there are those of its rounds."""

    x: str
    numbers: Mapping[str, Mapping[int, Sequence[float]]]
    y: str
    logarithmic: bool = False

    @property
    def inches(self) -> tuple[float, float]:
        """Return width and height."""
        return 2.2, 2.1

    def draw(self, axis: Axes) -> None:
        """Draw the panel; what varies grows by factors, and so does the rest if it is told to."""
        for (name, line), colour in zip(self.numbers.items(), cycle(COLOURS), strict=False):
            middles, whiskers = spread(list(line.values()))
            looks = {**WHISKERS, "ecolor": colour, "color": colour, "marker": "o", "markersize": 3, "linewidth": 1.2}
            axis.errorbar(list(line), middles, yerr=whiskers, label=name, **looks)
        places = sorted({place for line in self.numbers.values() for place in line})
        axis.set_xscale("log")
        axis.set_xticks(places, [f"{place:,}" for place in places])
        axis.minorticks_off()
        if self.logarithmic:
            axis.set_yscale("log", subs=[])
            axis.yaxis.get_major_locator().set_params(subs=STEPS)
            axis.yaxis.set_major_formatter("{x:g}")
        else:
            axis.set_ylim(bottom=0, auto=True)  # which panels that share the axis can still move
        axis.yaxis.grid(True, color="#e3e3e3", linewidth=0.6)


def spread(numbers: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]] | None]:
    """Return the median of each, and how far below and above it the others reach, if there are others."""
    middles = [median(one) for one in numbers]
    if max(map(len, numbers)) == 1:
        return middles, None
    pairs = list(zip(numbers, middles, strict=True))
    return middles, [[middle - min(one) for one, middle in pairs], [max(one) - middle for one, middle in pairs]]


def draw(rows: Sequence[Sequence[Bars | Lines]], path: Path) -> None:
    """Draw rows of as many panels each into a file, whose kind its name tells; equal axes of a row are shared."""
    import matplotlib
    from matplotlib.figure import Figure

    size = sum(panel.inches[0] for panel in rows[0]), sum(row[0].inches[1] for row in rows)
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
        for row, beside in zip(rows, axes, strict=True):
            for panel, axis in zip(row, beside, strict=True):
                if axis is beside[0] or panel.y != row[0].y:
                    axis.set_ylabel(panel.y)
                else:
                    axis.sharey(beside[0])
                    axis.tick_params(labelleft=False)
                panel.draw(axis)
                axis.set_xlabel(panel.x)
                axis.spines[["top", "right"]].set_visible(False)
        handles, names = axes[0, 0].get_legend_handles_labels()
        if len(names) > 1:
            figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
        # A date in the file would make every drawing another one.
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def checked(path: Path | None) -> Path | None:
    """Return the path of a picture.

    Raises:
        BadParameter: its ending is none that is drawn.
    """
    if path is not None and path.suffix not in KINDS:
        raise typer.BadParameter(f"{str(path)!r} ends in none of {' '.join(KINDS)}; give the picture one of them")
    return path
