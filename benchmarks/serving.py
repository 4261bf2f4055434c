"""Measure a server of an exported model under load on this machine: requests answered in batches and one by one.

    python benchmarks/serving.py --clients 16 --rounds 5 --json FILE

examples/server.py serves an encoder with two adapters and two heads: MiniLM where ../shared/models has it, else random
weights of its sizes. So many clients, in a process of their own on the same machine, ask it, each as soon as its last
request is answered: for either head, through either adapter or both. "single" answers one request after the other,
"batched" all that wait, up to --batch.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import _commands as commands
import typer
from _plots import Bars
from _rounds import Results
from _tables import extremes, gathered, times

FIRST = "single"
CONTESTANTS = (FIRST, "batched")
SHARED = Path(__file__).parents[2] / "shared" / "models" / "all-MiniLM-L6-v2"
VALUES = ("requests_per_second", "median_ms", "late_ms", "requests_per_pass")


def main(
    clients: Annotated[int, typer.Option(min=1, help="Requests that are under way at any time.")] = 16,
    requests: Annotated[int, typer.Option(min=1, help="Requests of a round.")] = 600,
    warmup: Annotated[int, typer.Option(min=1, help="Requests before those that are measured.")] = 64,
    batch: Annotated[int, typer.Option(min=2, help="Requests of a pass at most.")] = 16,
    size: Annotated[Literal["minilm", "tiny"], typer.Option(help="Size of the encoder.")] = "minilm",
    rounds: commands.Rounds = 5,
    threads: commands.Threads = commands.CORES,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
) -> None:
    """Load the server in each way in each round and compare."""
    with TemporaryDirectory(prefix="benchmark_") as folder:
        shared = {"folder": folder, "size": size, "clients": clients, "requests": requests, "warmup": warmup}
        shared |= {"device": "cpu", "threads": threads}
        source = str(SHARED) if size == "minilm" and SHARED.is_dir() else None
        written = commands.written_by("_serving", {**shared, "source": source})
        sizes = {FIRST: 1, "batched": batch}
        jobs = {name: {**shared, "contestant": name, "batch": sizes[name]} for name in CONTESTANTS}
        encoder = Path(source).name if source else f"{size} sizes"
        title = f"Served, {encoder}, 2 adapters and 2 heads, {clients} clients"
        title += f", {written['instructions']}"
        commands.compare(BENCHMARK, jobs, rounds, title, commands.Files(json_file, markdown, plot))


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return each contestant's rate and latencies by round."""
    return gathered(results, VALUES)


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table row for each contestant, with its rate relative to the first contestant's."""
    first = summary[FIRST]["requests_per_second"]
    return [
        {
            "contestant": name,
            "requests/s": f"{median(rates := result['requests_per_second']):.0f}",
            "lowest to highest": f"{min(rates):.0f} to {max(rates):.0f}",
            f"against {FIRST}": f"{times(rates, first):.2f}x",
            "in the rounds": extremes(rates, first),
            "median ms": f"{median(result['median_ms']):.1f}",
            "95% within ms": f"{median(result['late_ms']):.1f}",
            "requests a pass": f"{median(result['requests_per_pass']):.1f}",
        }
        for name, result in summary.items()
    ]


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Bars]]:
    """Return a panel of rates and a panel of latencies."""
    rates = {name: result["requests_per_second"] for name, result in summary.items()}
    late = {name: result["late_ms"] for name, result in summary.items()}
    return [[Bars("requests/s", rates), Bars("95% answered within (ms)", late)]]


BENCHMARK = commands.Benchmark("_serving", summary, table, panels)

if __name__ == "__main__":
    commands.start(main)
