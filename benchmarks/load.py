"""Loads a backbone alone, and a backbone with adapters, each from disk in a fresh process.

    python benchmarks/load.py --adapters 0 2 --rounds 5 --json FILE

A random backbone and as many adapters as are needed are written to a temporary folder first. Time is given until the
model stands, and until its first answer, since files may be read only then. Adapters are loaded as ever, and for the
first time, with an empty HF_HOME, when it must be found out by hashing all its weights which checkpoint the backbone
is. There is no arithmetic in loading: the limit is here the time that plainly reading the same files takes.
"""

from __future__ import annotations

from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import _commands as told
import typer
from _plots import Bars
from _rounds import Marks, Results, play
from _tables import times

ADAPTERS = [0, 2]
TIMES = ("seconds", "seconds_to_first_answer", "cpu_seconds_to_first_answer")


def main(
    adapters: Annotated[
        list[int], typer.Option(min=0, help="Adapters of each contestant; the first is compared to.")
    ] = ADAPTERS,
    size: told.SizeOption = "large",
    rounds: told.Rounds = 5,
    threads: told.Threads = told.CORES,
    json_file: told.Json = None,
    markdown: told.Markdown = None,
    plot: told.Plot = None,
) -> None:
    """Load every number of adapters in each round and compare."""
    with TemporaryDirectory(prefix="benchmark_") as folder:
        shared = {"size": size, "folder": folder, "device": "cpu", "threads": threads}
        play(write, {"writing": {**shared, "number": max(adapters)}}, 1, "cpu", lambda results: None)
        jobs = jobs_of(adapters, shared)
        title = f"Loading, RoBERTa-{size} sizes"
        told.compare(BENCHMARK, jobs, rounds, title, told.Files(json_file, markdown, plot))


def jobs_of(adapters: list[int], shared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the job of each contestant, for adapters also that of their first load."""
    jobs = {}
    for number in adapters:
        jobs[told.name_of(number)] = {**shared, "adapters": number, "first": False}
        if number:
            jobs[f"{told.name_of(number)}, first load"] = {**shared, "adapters": number, "first": True}
    return jobs


def write(job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Write backbone and adapters, in a process that has the heavy libraries."""
    from _loading import write

    return write(job)


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return times by round, memory, and the median share of the limit of each contestant."""
    return {
        name: {
            **{key: [one[key] for one in runs] for key in TIMES},
            "fraction_of_limit": median(one["fraction_of_limit"] for one in runs),
            "peak_rss_mib": max(one["peak_rss_mib"] for one in runs),
            "peak_anonymous_mib": max(one["peak_anonymous_mib"] for one in runs),
        }
        for name, runs in results.items()
        if runs
    }


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a row for each contestant, its time beside that of the first."""
    first = next(iter(summary))
    longer = {name: {key: times(one[key], summary[first][key]) for key in TIMES} for name, one in summary.items()}
    return [
        {
            "contestant": name,
            "seconds": f"{median(one['seconds']):.2f}",
            f"against {first}": f"{longer[name]['seconds']:.2f}x",
            "to first answer": f"{median(one['seconds_to_first_answer']):.2f}",
            f"against {first}, to first answer": f"{longer[name]['seconds_to_first_answer']:.2f}x",
            "CPU time": f"{longer[name]['cpu_seconds_to_first_answer']:.2f}x",
            "of the limit": f"{one['fraction_of_limit']:.1%}",
            "anonymous MiB": f"{one['peak_anonymous_mib']:.0f}",
            "resident MiB": f"{one['peak_rss_mib']:.0f}",
        }
        for name, one in summary.items()
    ]


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Bars]]:
    """Return panels of the time until the model stands, that until its first answer, and memory."""
    return [
        [
            Bars("seconds", {name: one["seconds"] for name, one in summary.items()}),
            Bars("seconds to first answer", {name: one["seconds_to_first_answer"] for name, one in summary.items()}),
            Bars("anonymous MiB", {name: [one["peak_anonymous_mib"]] for name, one in summary.items()}),
        ]
    ]


BENCHMARK = told.Benchmark("_loading", summary, table, panels)

if __name__ == "__main__":
    told.start(main)
