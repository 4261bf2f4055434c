"""Measure how long entity embeddings take to open and to look ids up in, and how much memory they take.

    python benchmarks/entity_embeddings.py --rows 5000000 --dimension 128 --rounds 5 --json FILE

A random table is first written to a temporary folder, as kadapter keeps it and as the official code of map-tuning
reads it: a .npy file, and a text file of ids and rows, which becomes a dictionary. "first" is a user's first opening,
with an empty HF_HOME, when all of the table is hashed; what is found is remembered. All files are in the page cache,
and ids are drawn anew for every look-up. Memory is what a process has beyond what it had before it opened the table.
With 5 million rows 5.3 GB are written, and a round takes two to four minutes, nearly all of it for the dictionary.
"""

from __future__ import annotations

from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import _commands as commands
import typer
from _plots import Bars
from _rounds import Results
from _tables import times

ROWS = {"large": 5_000_000, "base": 500_000, "tiny": 2_000}
CONTESTANTS = ("mapped", "mapped, first", "dictionary")
TIMES = ("seconds", "milliseconds_of_lookup", "cpu_milliseconds_of_lookup")


def main(
    rows: Annotated[int | None, typer.Option(min=1, help="Number of entities.", show_default="by size")] = None,
    dimension: Annotated[int, typer.Option(min=1, help="Width of the vectors.")] = 128,
    ids: Annotated[int, typer.Option(min=1, help="Number of ids that are looked up together.")] = 1000,
    size: commands.SizeOption = "large",
    rounds: commands.Rounds = 5,
    threads: commands.Threads = commands.CORES,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
) -> None:
    """Open the table in each way in each round and compare."""
    rows = rows or ROWS[size]
    with TemporaryDirectory(prefix="benchmark_") as folder:
        shared = {"folder": folder, "rows": rows, "dimension": dimension, "ids": ids}
        shared.update(device="cpu", threads=threads)
        commands.written_by("_entity_tables", shared)
        jobs = {name: {**shared, "contestant": name} for name in CONTESTANTS}
        title = f"Entity embeddings, {rows} x {dimension}, {ids} ids at a time"
        commands.compare(BENCHMARK, jobs, rounds, title, commands.Files(json_file, markdown, plot))


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return each contestant's times by round, and the memory that it took."""
    return {
        name: {
            **{key: [run[key] for run in runs] for key in TIMES},
            "anonymous_mib": max(run["peak_anonymous_mib"] - run["anonymous_mib_before"] for run in runs),
            **{key: max(run[key] for run in runs) for key in ("peak_anonymous_mib", "peak_rss_mib")},
        }
        for name, runs in results.items()
        if runs
    }


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table row for each contestant, with its time relative to the first contestant's."""
    first, baseline = next(iter(summary.items()))
    return [
        {
            "contestant": name,
            "seconds to open": f"{median(result['seconds']):.3f}",
            f"against {first}": f"{times(result['seconds'], baseline['seconds']):.2f}x",
            "ms a look-up": f"{median(result['milliseconds_of_lookup']):.2f}",
            "of CPU time": f"{median(result['cpu_milliseconds_of_lookup']):.2f}",
            "slowest round": f"{max(result['milliseconds_of_lookup']):.2f}",
            "anonymous MiB": f"{result['anonymous_mib']:.0f}",
            "resident MiB": f"{result['peak_rss_mib']:.0f}",
        }
        for name, result in summary.items()
    ]


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Bars]]:
    """Return panels of the time to open, the time of a look-up, and memory."""
    seconds, lookups = ({name: result[key] for name, result in summary.items()} for key in TIMES[:2])
    memory = {name: [result["anonymous_mib"]] for name, result in summary.items()}
    return [[Bars("seconds to open", seconds), Bars("ms a look-up", lookups), Bars("anonymous MiB", memory)]]


BENCHMARK = commands.Benchmark("_entity_tables", summary, table, panels)

if __name__ == "__main__":
    commands.start(main)
