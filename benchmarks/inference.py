"""Measure the latency and throughput of a backbone alone and with adapters added to it.

    python benchmarks/inference.py --adapters 0 1 2 4 --batches 1 4 16 64 --rounds 5 --json FILE

Everything is stored and computed in --dtype. All contestants read the same batches, the longest sentences first. The
weights are random.
"""

from __future__ import annotations

from statistics import median
from typing import Annotated, Any, Literal

import _commands as commands
import typer
from _plots import Lines
from _rounds import Results
from _tables import times

ADAPTERS, BATCHES = [0, 1, 2, 4], [1, 4, 16, 64]
RATES = ("tokens_per_second", "tokens_per_cpu_second")
NUMBERS = ("latency_ms", "sentences_per_second", *RATES)
LIMITS = ("fraction_of_limit", "fraction_of_limit_by_cpu")


def main(
    adapters: Annotated[
        list[int], typer.Option(min=0, help="Number of adapters of each contestant; all are compared with the first.")
    ] = ADAPTERS,
    batches: Annotated[list[int], typer.Option(min=1, help="Sentences in a batch.")] = BATCHES,
    repeats: Annotated[int, typer.Option(min=1, help="Batches of each size in each round.")] = 8,
    dtype: Annotated[
        Literal["bf16", "fp32"] | None,
        typer.Option(help="Dtype of weights and arithmetic; by default the faster on this machine."),
    ] = None,
    size: commands.SizeOption = "large",
    rounds: commands.Rounds = 5,
    max_length: commands.MaxLength = 64,
    device: commands.Device = "cpu",
    threads: commands.Threads = commands.CORES,
    data_dir: commands.DataDir = None,
    tokenizer: commands.Tokenizer = None,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
) -> None:
    """Read with every number of adapters in each round and compare."""
    dtype = dtype or ("bf16" if commands.in_bfloat16(None, device) else "fp32")
    shared = {"size": size, "batches": batches, "repeats": repeats, "longest": max_length, "dtype": dtype}
    shared |= {"device": device, "threads": threads, **commands.sentences_of(data_dir, tokenizer)}
    jobs = {commands.name_of(number): {**shared, "adapters": number} for number in adapters}
    title = f"Inference in {dtype}, RoBERTa-{size} sizes, {shared['sentences']}"
    commands.compare(BENCHMARK, jobs, rounds, title, commands.Files(json_file, markdown, plot))


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return each contestant's memory and, by batch size, its numbers by round and median share of the limit."""
    return {
        name: {
            **{key: _by_batch(runs, key) for key in NUMBERS},
            **{key: {batch: median(values) for batch, values in _by_batch(runs, key).items()} for key in LIMITS},
            "peak_rss_mib": max(run["peak_rss_mib"] for run in runs),
            "peak_anonymous_mib": max(run["peak_anonymous_mib"] for run in runs),
        }
        for name, runs in results.items()
        if runs
    }


def _by_batch(runs: list[dict[str, Any]], key: str) -> dict[str, list[float]]:
    return {batch: [run["points"][batch][key] for run in runs] for batch in runs[0]["points"]}


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table row for each contestant and batch size, with its time relative to the first contestant's."""
    first = next(iter(summary))
    rows = []
    for name, result in summary.items():
        for batch, rates in result["tokens_per_second"].items():
            longer = {key: times(summary[first][key][batch], result[key][batch]) for key in RATES}
            rows.append(
                {
                    "contestant": name,
                    "batch": batch,
                    "latency ms": f"{median(result['latency_ms'][batch]):.1f}",
                    "tokens/s": f"{median(rates):.0f}",
                    "sentences/s": f"{median(result['sentences_per_second'][batch]):.1f}",
                    f"time against {first}": f"{longer['tokens_per_second']:.2f}x",
                    "CPU time": f"{longer['tokens_per_cpu_second']:.2f}x",
                    "of the limit": f"{result['fraction_of_limit'][batch]:.1%}",
                    "by CPU time": f"{result['fraction_of_limit_by_cpu'][batch]:.1%}",
                    "anonymous MiB": f"{result['peak_anonymous_mib']:.0f}",
                }
            )
    return rows


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Lines]]:
    """Return panels of throughput and latency against batch size."""
    rates, times = (
        {name: {int(batch): runs for batch, runs in result[key].items()} for name, result in summary.items()}
        for key in ("tokens_per_second", "latency_ms")
    )
    return [[Lines("batch size", rates, "tokens/s"), Lines("batch size", times, "latency (ms)", logarithmic=True)]]


BENCHMARK = commands.Benchmark("_reading", summary, table, panels)

if __name__ == "__main__":
    commands.start(main)
