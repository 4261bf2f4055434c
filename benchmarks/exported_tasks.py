"""Compare adapters of one exported encoder with as many exported models into which weights were merged.

    python benchmarks/exported_tasks.py --threads 1 --rounds 5 --json FILE

Every text is asked by every task. "one encoder" reads it once and runs an adapter for each task; "merged" runs a model
of the encoder's size for each, as LoRA weights that were merged leave it. Weights are random, and merged models are
copies of one, since times do not depend on them. "adding ms" is what a further task takes on a running model until it
can be asked: adding an adapter, or loading another merged model.
"""

from __future__ import annotations

from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import _commands as commands
import typer
from _plots import Bars
from _rounds import Results
from _tables import extremes, gathered, times

FIRST, OURS = "merged", "one encoder"


def main(
    tasks: Annotated[int, typer.Option(min=1, help="Number of tasks.")] = 4,
    batches: Annotated[list[int], typer.Option(min=1, help="Texts in a batch.")] = [1, 16],  # noqa: B006 (typer copies it)
    length: Annotated[int, typer.Option(min=1, max=512, help="Tokens of a text.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Batches that are read in each round.")] = 3,
    runtime: Annotated[Literal["onnx", "openvino"], typer.Option(help="What runs the graphs.")] = "onnx",
    size: Annotated[Literal["large", "base", "minilm", "tiny"], typer.Option(help="Size of the encoder.")] = "large",
    rounds: commands.Rounds = 5,
    threads: commands.Threads = commands.CORES,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
) -> None:
    """Ask every task in either way in each round and compare."""
    with TemporaryDirectory(prefix="benchmark_") as folder:
        shared = {"folder": folder, "size": size, "tasks": tasks, "batches": batches, "length": length}
        shared |= {"repeats": repeats, "runtime": runtime, "device": "cpu", "threads": threads}
        written = commands.written_by("_exported_tasks", shared)
        jobs = {name: {**shared, "contestant": name} for name in (FIRST, OURS)}
        what = f"{tasks} tasks, {size} sizes in float32, {length} tokens, {runtime}, {written['instructions']}"
        commands.compare(BENCHMARK, jobs, rounds, f"Exported, {what}", commands.Files(json_file, markdown, plot))


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return each contestant's milliseconds by round, and its highest memory."""
    keys = [key for key in next(iter(results.values()))[0] if key.startswith(("ms_", "cpu_ms_"))]
    return gathered(results, [*keys, "adding_ms"])


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table row for each contestant and batch, relative to merged models."""
    rows = []
    for name, result in summary.items():
        first = summary[FIRST]
        for key in (key for key in result if key.startswith("ms_")):
            memory = result["peak_anonymous_mib"], first["peak_anonymous_mib"]
            rows.append(
                {
                    "": name,
                    "batch": key.removeprefix("ms_"),
                    "ms a batch": f"{median(result[key]):.0f}",
                    "throughput": f"{times(first[key], result[key]):.2f}x",
                    "lowest and highest": extremes(first[key], result[key]),
                    "by CPU time": f"{times(first[f'cpu_{key}'], result[f'cpu_{key}']):.2f}x",
                    "anonymous MiB": f"{memory[0]:.0f}",
                    "memory": f"{memory[0] / memory[1]:.2f}x",
                    "adding ms": f"{median(result['adding_ms']):.0f}",
                    "adding, times as fast": f"{times(first['adding_ms'], result['adding_ms']):.1f}x",
                }
            )
    return rows


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Bars]]:
    """Return panels of the time of a batch of each size, and of memory."""
    keys = [key for key in summary[FIRST] if key.startswith("ms_")]
    bars = [
        Bars(f"ms, batch {key.removeprefix('ms_')}", {name: one[key] for name, one in summary.items()}) for key in keys
    ]
    return [bars, [Bars("MiB", {name: [one["peak_anonymous_mib"]] for name, one in summary.items()})]]


BENCHMARK = commands.Benchmark("_exported_tasks", summary, table, panels)

if __name__ == "__main__":
    commands.start(main)
