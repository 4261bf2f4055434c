"""Measure what a mixed batch costs, each row of which goes through its own adapter, here and with PEFT's LoRA.

    python benchmarks/mixed_batches.py --adapters 16 --batch 32 --rounds 5 --json FILE

"ours-mixed" has so many adapters of the published kind over the rows of a batch, as many rows each, and "ours-one" a
single one on all rows of the same batches; "lean-mixed" and "lean-one" are lean adapters of half the width, and
"lora-mixed" and "lora-one" LoRA of rank 8 on query and value. All have the same encoder in float32, "backbone" nothing
but it. The weights are random.
"""

from __future__ import annotations

from statistics import median
from typing import Annotated, Any, Literal

import _commands as commands
import typer
from _plots import Bars
from _rounds import Results
from _tables import extremes, gathered, times

CONTESTANTS = ("backbone", "ours-one", "ours-mixed", "lean-one", "lean-mixed", "lora-one", "lora-mixed")
COMPARED = ("ours-mixed", "lean-mixed")


def main(
    adapters: Annotated[int, typer.Option(min=1, help="Adapters over the rows of a mixed batch.")] = 16,
    batch: commands.Batch = 32,
    length: Annotated[int, typer.Option(min=1, max=512, help="Tokens of a sentence.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Batches that are read in each round.")] = 8,
    size: Annotated[Literal["minilm", "tiny"], typer.Option(help="Size of the encoder.")] = "minilm",
    rounds: commands.Rounds = 5,
    device: commands.Device = "cpu",
    threads: commands.Threads = commands.CORES,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
) -> None:
    """Read in each way in each round and compare."""
    shared = {"size": size, "adapters": adapters, "batch": batch, "length": length}
    shared.update(repeats=repeats, device=device, threads=threads)
    jobs = {name: {**shared, "contestant": name} for name in CONTESTANTS}
    title = f"Mixed batches, {adapters} adapters over {batch} rows of {length} tokens, {size} sizes"
    commands.compare(BENCHMARK, jobs, rounds, title, commands.Files(json_file, markdown, plot))


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return each contestant's milliseconds a batch by round, and its highest memory."""
    return gathered(results, ["milliseconds", "cpu_milliseconds"])


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table row for each contestant, with the time of our mixed batches relative to its own."""
    return [
        {
            "contestant": name,
            "ms a batch": f"{median(result['milliseconds']):.1f}",
            "of CPU": f"{median(result['cpu_milliseconds']):.1f}",
            **{key: cell for ours in COMPARED for key, cell in _against(ours, summary[ours], result).items()},
            "anonymous MiB": f"{result['peak_anonymous_mib']:.0f}",
        }
        for name, result in summary.items()
    ]


def _against(name: str, ours: dict[str, Any], other: dict[str, Any]) -> dict[str, str]:
    """Return the time of one of our mixed batches relative to another contestant's, with the lowest and highest."""
    cells = {}
    for label, key in ((f"{name} against it", "milliseconds"), (f"{name} in CPU time", "cpu_milliseconds")):
        cells[label] = f"{times(ours[key], other[key]):.2f}x ({extremes(ours[key], other[key])})"
    return cells


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Bars]]:
    """Return a panel of the time of a batch."""
    return [[Bars("ms a batch", {name: result["milliseconds"] for name, result in summary.items()})]]


BENCHMARK = commands.Benchmark("_mixing", summary, table, panels)

if __name__ == "__main__":
    commands.start(main)
