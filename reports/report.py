"""Tabulate downstream runs: what helps on which task, by how much, and whether by more than chance."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from shutil import get_terminal_size
from statistics import fmean, stdev
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as Drawn

from .chart import draw
from .comparison import Cell, Column, Interval, Resampling, Row, Table, label, tabulate
from .runs import find_runs, restricted

__all__ = ["REFERENCES", "lines_of", "report", "text_of"]

REFERENCES = ("backbone", "taps", "random")
Section = tuple[str, Drawn, str]  # title, table, notes
FILES = ("report.md", "report.csv", "report.png", "report.svg")


def report(
    directories: Sequence[Path],
    output_dir: Path,
    references: Sequence[str] | None = None,
    resampling: Resampling | None = None,
    only: Path | None = None,
    log: Callable[[str], None] = print,
) -> Table:
    """Read runs, print their results table, and write it as report.md, report.csv, report.png and report.svg.

    Args:
        directories: run directories, or directories that contain them at any depth.
        output_dir: directory of the files; those of an earlier report are replaced.
        references: names of the rows that all others are compared with; by default backbone, taps and random.
        resampling: settings of the bootstrap.
        only: file of the ids of examples, one in each line, to which the report is restricted; by default all.
        log: function that prints a text.

    Raises:
        OSError: a directory or a file is missing, holds no runs, or can't be written.
        ValueError: a run is damaged or has none of the examples, runs can't be compared, or there is no row of a
            reference's name.
    """
    resampling = resampling or Resampling()
    runs = find_runs(directories) if only is None else restricted(find_runs(directories), only)
    table = tabulate(runs, references or REFERENCES, resampling)
    rows = _rows(table)
    if unknown := set(references or ()) - {row.name for row in rows}:
        names = ", ".join(dict.fromkeys(row.name for row in rows))
        raise ValueError(f"no run belongs to the reference row {min(unknown)!r}; the rows are {names}")
    sections = _sections(table, rows, _marks(table, references or REFERENCES), resampling)
    output_dir.mkdir(parents=True, exist_ok=True)
    markdown = (f"## {title}\n\n{text_of(drawn, box.MARKDOWN)}\n\n{notes}\n" for title, drawn, notes in sections)
    (output_dir / FILES[0]).write_text("\n".join(markdown), encoding="utf-8")
    _write_csv(table, output_dir / FILES[1])
    draw(table, [output_dir / name for name in FILES[2:]])
    log("\n".join(f"{title}\n{text_of(drawn, box.SIMPLE)}\n{notes}\n" for title, drawn, notes in sections))
    log(f"wrote {', '.join(FILES)} to {output_dir}")
    return table


def _rows(table: Table) -> list[Row]:
    return sorted({row: None for cells in table.values() for row in cells}, key=lambda row: row.rank)


def _cells(table: Table) -> Iterator[tuple[Column, Row, Cell]]:
    for column, cells in table.items():
        for row, cell in cells.items():
            yield column, row, cell


# ---- the tables ---------------------------------------------------------------------------------------------------


def _sections(table: Table, rows: list[Row], marks: dict[str, str], resampling: Resampling) -> list[Section]:
    """Return the titles, tables and notes of a report."""
    compared = sum(len(cell.against) for _, _, cell in _cells(table))
    percent = f"{100 * resampling.confidence:g}%"
    cells = "Mean ± standard deviation over seeds (number of seeds)." + _trained_on(table)
    if compared:
        legend = ", ".join(f"{mark} = {name}" for name, mark in marks.items())
        cells += f" + and - mark results above and below a reference ({legend}) by more than chance; see Differences."
    intervals = (
        f"{percent} intervals of the paired bootstrap over examples and seeds ({resampling.resamples} resamples, seed "
        f"{resampling.seed}); * marks those that exclude zero. A row or reference with a single seed is resampled "
        f"over examples only. The {compared} intervals are not corrected for multiple comparisons."
    )
    gates = "Mean ± standard deviation over seeds of how far fusion lets each adapter through; 0 shuts it out."
    drawn = [("Results", _results(table, rows, marks), cells)]
    drawn += [("Differences", _differences(table, rows, list(marks)), intervals)] if compared else []
    drawn += [("Gates", _gates(table, rows), gates)] if any(cell.gates() for _, _, cell in _cells(table)) else []
    return drawn


def _trained_on(table: Table) -> str:
    """Return how many examples the runs of each column really trained on, since every label keeps at least one."""
    notes = []
    for column, cells in table.items():
        if pairs := sorted({pair for cell in cells.values() for pair in cell.trained_on()}):
            numbers, shares = zip(pairs[0], pairs[-1], strict=True)
            percent = _range(f"{100 * share:.3g}%" for share in shares)
            notes.append(f"{column.task} {column.share}, {_range(map(str, numbers))} ({percent})")
    return f" Training examples: {'; '.join(notes)}." if notes else ""


def _range(ends: Iterable[str]) -> str:
    return " to ".join(dict.fromkeys(ends))


def _marks(table: Table, references: Sequence[str]) -> dict[str, str]:
    """Return the shortest unique prefix of each reference row that any row was compared with."""
    used = {name for _, _, cell in _cells(table) for name in cell.against}
    names = [name for name in references if name in used]
    return {name: _unique_prefix(name, names) for name in names}


def _unique_prefix(name: str, names: list[str]) -> str:
    starts = (name[:length] for length in range(1, len(name)))
    return next((start for start in starts if sum(other.startswith(start) for other in names) == 1), name)


def _results(table: Table, rows: list[Row], marks: dict[str, str]) -> Drawn:
    drawn = _headed("", *map(str, table))
    for row in rows:
        drawn.add_row(label(row, rows), *(_shown(cells.get(row), marks) for cells in table.values()))
    return drawn


def _shown(cell: Cell | None, marks: dict[str, str]) -> str:
    if cell is None:
        return "-"
    significant = {name: interval for name, interval in cell.against.items() if interval.excludes_zero}
    signs = [("+" if interval.low > 0 else "-") + marks[name] for name, interval in significant.items()]
    return " ".join([_spread(cell.mean, cell.deviation), f"({len(cell.runs)})", *signs])


def _spread(mean: float, deviation: float | None) -> str:
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


def _differences(table: Table, rows: list[Row], references: Sequence[str]) -> Drawn:
    drawn = _headed("task", "row", *(f"less {name}" for name in references))
    for column, row, cell in _cells(table):
        if cell.against:
            drawn.add_row(str(column), label(row, rows), *(_interval(cell.against.get(name)) for name in references))
    return drawn


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    mark = " *" if interval.excludes_zero else ""
    return f"{interval.difference:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]{mark}"


def _gates(table: Table, rows: list[Row]) -> Drawn:
    adapters = list(dict.fromkeys(name for _, _, cell in _cells(table) for name in cell.gates()))
    drawn = _headed("task", "row", *adapters)
    for column, row, cell in _cells(table):
        if gates := cell.gates():
            spreads = {name: (fmean(values), stdev(values) if values[1:] else None) for name, values in gates.items()}
            shown = (_spread(*spreads[name]) if name in spreads else "-" for name in adapters)
            drawn.add_row(str(column), label(row, rows), *shown)
    return drawn


def _headed(*names: str) -> Drawn:
    drawn = Drawn()
    for name in names:
        drawn.add_column(name, overflow="fold")
    return drawn


def text_of(drawn: Drawn, lines: box.Box) -> str:
    """Return a table as text: Markdown with a line for each row, anything else as wide as the terminal."""
    drawn.box, file = lines, io.StringIO()
    unlimited = 100_000
    width = unlimited if lines is box.MARKDOWN else get_terminal_size((unlimited, 0)).columns
    Console(file=file, width=width, markup=False, highlight=False, emoji=False).print(drawn)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines() if line.strip())


# ---- the CSV file -------------------------------------------------------------------------------------------------


def _write_csv(table: Table, path: Path) -> None:
    """Write a line for each row of each column, with all numbers at full precision."""
    lines = lines_of(table)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for line in lines for name in line)))
        writer.writeheader()
        writer.writerows(lines)


def lines_of(table: Table) -> list[dict[str, Any]]:
    """Return a line for each row of each column, with all numbers at full precision."""
    return [_line(column, row, cell) for column, row, cell in _cells(table)]


def _line(column: Column, row: Row, cell: Cell) -> dict[str, Any]:
    line = {
        "task": column.task,
        "train_fraction": column.train_fraction,
        "split": column.split,
        "metric": column.key,
        "row": row.name,
        "adapters": " ".join(row.adapters),
        **{name: getattr(row, name) for name in ("fusion", "freeze_backbone", "freeze_adapters", "backbone")},
        "train_examples": " ".join(str(number) for number, _ in cell.trained_on()),
        "seeds": " ".join(map(str, cell.runs)),
        "mean": cell.mean,
        "standard_deviation": cell.deviation,
    }
    for name, interval in cell.against.items():
        line |= {f"difference_{name}": interval.difference, f"low_{name}": interval.low, f"high_{name}": interval.high}
    return line | {f"gate_{name}": fmean(values) for name, values in cell.gates().items()}
