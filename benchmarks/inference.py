"""Reads sentences with a backbone alone and with adapters added to it: latency and throughput.

    python benchmarks/inference.py --adapters 0 1 2 4 --batches 1 4 16 64 --rounds 5 --json FILE

Everything is held and computed in --dtype. All contestants read the same batches, the longest sentences first. Weights
are random.
"""

from __future__ import annotations

from statistics import median
from typing import Annotated, Any, Literal

import _commands as told
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
        list[int], typer.Option(min=0, help="Adapters of each contestant; the first is compared to.")
    ] = ADAPTERS,
    batches: Annotated[list[int], typer.Option(min=1, help="Sentences in a batch.")] = BATCHES,
    repeats: Annotated[int, typer.Option(min=1, help="Batches of each size in each round.")] = 8,
    dtype: Annotated[
        Literal["bf16", "fp32"] | None,
        typer.Option(help="In which all is held and computed; by default that in which this machine is faster."),
    ] = None,
    size: told.SizeOption = "large",
    rounds: told.Rounds = 5,
    max_length: told.MaxLength = 64,
    device: told.Device = "cpu",
    threads: told.Threads = told.CORES,
    data_dir: told.DataDir = None,
    tokenizer: told.Tokenizer = None,
    json_file: told.Json = None,
    markdown: told.Markdown = None,
    plot: told.Plot = None,
) -> None:
    """Read with every number of adapters in each round and compare."""
    dtype = dtype or ("bf16" if told.in_bfloat16(None, device) else "fp32")
    shared = {"size": size, "batches": batches, "repeats": repeats, "longest": max_length, "dtype": dtype}
    shared |= {"device": device, "threads": threads, **told.sentences_of(data_dir, tokenizer)}
    jobs = {told.name_of(number): {**shared, "adapters": number} for number in adapters}
    title = f"Inference in {dtype}, RoBERTa-{size} sizes, {shared['sentences']}"
    told.compare(BENCHMARK, jobs, rounds, title, told.Files(json_file, markdown, plot))


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return for each contestant its memory, and by batch size what each round gave and the share of the limit."""
    return {
        name: {
            **{key: _by_batch(runs, key) for key in NUMBERS},
            **{key: {batch: median(one) for batch, one in _by_batch(runs, key).items()} for key in LIMITS},
            "peak_rss_mib": max(one["peak_rss_mib"] for one in runs),
            "peak_anonymous_mib": max(one["peak_anonymous_mib"] for one in runs),
        }
        for name, runs in results.items()
        if runs
    }


def _by_batch(runs: list[dict[str, Any]], key: str) -> dict[str, list[float]]:
    return {batch: [one["points"][batch][key] for one in runs] for batch in runs[0]["points"]}


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a row for each contestant and batch size, its time for a token beside that of the first contestant."""
    first = next(iter(summary))
    rows = []
    for name, one in summary.items():
        for batch, rates in one["tokens_per_second"].items():
            longer = {key: times(summary[first][key][batch], one[key][batch]) for key in RATES}
            rows.append(
                {
                    "contestant": name,
                    "batch": batch,
                    "latency ms": f"{median(one['latency_ms'][batch]):.1f}",
                    "tokens/s": f"{median(rates):.0f}",
                    "sentences/s": f"{median(one['sentences_per_second'][batch]):.1f}",
                    f"time against {first}": f"{longer['tokens_per_second']:.2f}x",
                    "CPU time": f"{longer['tokens_per_cpu_second']:.2f}x",
                    "of the limit": f"{one['fraction_of_limit'][batch]:.1%}",
                    "by CPU time": f"{one['fraction_of_limit_by_cpu'][batch]:.1%}",
                    "anonymous MiB": f"{one['peak_anonymous_mib']:.0f}",
                }
            )
    return rows


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Lines]]:
    """Return a panel of throughput and one of latency, against batch size."""
    rates, times = (
        {name: {int(batch): runs for batch, runs in one[key].items()} for name, one in summary.items()}
        for key in ("tokens_per_second", "latency_ms")
    )
    return [[Lines("batch size", rates, "tokens/s"), Lines("batch size", times, "latency (ms)", logarithmic=True)]]


BENCHMARK = told.Benchmark("_reading", summary, table, panels)

if __name__ == "__main__":
    told.start(main)
