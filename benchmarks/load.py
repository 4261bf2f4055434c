"""Measure how long a backbone takes to load from disk, with and without adapters, each in a fresh process.

    python benchmarks/load.py --adapters 0 2 --rounds 5 --json FILE

A random backbone and the adapters are first written to a temporary folder. Two times are measured: until the model is
built, and until its first output, since files may only be read then. Adapters are loaded both as usual and for the
first time, with an empty HF_HOME, when the backbone's checkpoint must be identified by hashing all its weights.
Loading does no arithmetic, so the limit is the time that plainly reading the same files takes.
"""

from __future__ import annotations

from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import _commands as commands
import typer
from _plots import Bars
from _rounds import Results
from _tables import gathered, times

ADAPTERS = [0, 2]
TIMES = ("seconds", "seconds_to_first_answer", "cpu_seconds_to_first_answer")


def main(
    adapters: Annotated[
        list[int], typer.Option(min=0, help="Number of adapters of each contestant; all are compared with the first.")
    ] = ADAPTERS,
    size: commands.SizeOption = "large",
    rounds: commands.Rounds = 5,
    threads: commands.Threads = commands.CORES,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
) -> None:
    """Load every number of adapters in each round and compare."""
    with TemporaryDirectory(prefix="benchmark_") as folder:
        shared = {"size": size, "folder": folder, "device": "cpu", "threads": threads}
        commands.written_by("_loading", {**shared, "number": max(adapters)})
        jobs = jobs_of(adapters, shared)
        title = f"Loading, RoBERTa-{size} sizes"
        commands.compare(BENCHMARK, jobs, rounds, title, commands.Files(json_file, markdown, plot))


def jobs_of(adapters: list[int], shared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the job of each contestant; contestants with adapters have a second job for their first load."""
    jobs = {}
    for number in adapters:
        jobs[commands.name_of(number)] = {**shared, "adapters": number, "first": False}
        if number:
            jobs[f"{commands.name_of(number)}, first load"] = {**shared, "adapters": number, "first": True}
    return jobs


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return each contestant's times by round, memory and median share of the limit."""
    return gathered(results, TIMES, ["fraction_of_limit"])


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table row for each contestant, with its time relative to the first contestant's."""
    first, baseline = next(iter(summary.items()))
    longer = {name: {key: times(result[key], baseline[key]) for key in TIMES} for name, result in summary.items()}
    return [
        {
            "contestant": name,
            "seconds": f"{median(result['seconds']):.2f}",
            f"against {first}": f"{longer[name]['seconds']:.2f}x",
            "to first answer": f"{median(result['seconds_to_first_answer']):.2f}",
            f"against {first}, to first answer": f"{longer[name]['seconds_to_first_answer']:.2f}x",
            "CPU time": f"{longer[name]['cpu_seconds_to_first_answer']:.2f}x",
            "of the limit": f"{result['fraction_of_limit']:.1%}",
            "anonymous MiB": f"{result['peak_anonymous_mib']:.0f}",
            "resident MiB": f"{result['peak_rss_mib']:.0f}",
        }
        for name, result in summary.items()
    ]


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Bars]]:
    """Return panels of the time until the model is built, the time until its first output, and memory."""
    seconds, until_first = ({name: result[key] for name, result in summary.items()} for key in TIMES[:2])
    memory = {name: [result["peak_anonymous_mib"]] for name, result in summary.items()}
    return [[Bars("seconds", seconds), Bars("seconds to first answer", until_first), Bars("anonymous MiB", memory)]]


BENCHMARK = commands.Benchmark("_loading", summary, table, panels)

if __name__ == "__main__":
    commands.start(main)
