"""Measure what exporting is worth: exported graphs in float32 and int8 beside PyTorch, and adding an adapter to them.

    python benchmarks/export.py --threads 1 --rounds 5 --json FILE

All read the same batches, with an encoder and two adapters: MiniLM itself where ../shared/models has it, else
random weights of its sizes.
int8 learns from the sentences of the quickstart. "adding ms" is `add_adapter` on a running model,
"loading ms" what a merged model of the encoder's size takes until it is ready, in the same runtime.
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

FIRST = "eager"
CONTESTANTS = (FIRST, "onnx-fp32", "onnx-int8")
SHARED = Path(__file__).parents[2] / "shared" / "models" / "all-MiniLM-L6-v2"
OTHERS = ("adding_ms", "loading_ms")


def main(
    contestants: Annotated[
        list[str], typer.Option(help="eager, and RUNTIME-PRECISION of onnx or openvino, fp32 or int8.")
    ] = list(CONTESTANTS),  # noqa: B006 (typer copies it)
    batches: Annotated[list[int], typer.Option(min=1, help="Sentences in a batch.")] = [1, 16],  # noqa: B006
    length: Annotated[int, typer.Option(min=1, max=512, help="Tokens of a sentence.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Batches that are read in each round.")] = 20,
    size: Annotated[Literal["minilm", "tiny"], typer.Option(help="Size of the encoder.")] = "minilm",
    rounds: commands.Rounds = 5,
    threads: commands.Threads = commands.CORES,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
) -> None:
    """Read in each way in each round and compare."""
    names = [FIRST, *(name for name in contestants if name != FIRST)]
    with TemporaryDirectory(prefix="benchmark_") as folder:
        shared = {"folder": folder, "size": size, "batches": batches, "length": length, "repeats": repeats}
        shared |= {"device": "cpu", "threads": threads}
        source = str(SHARED) if size == "minilm" and SHARED.is_dir() else None
        writing = {**shared, "source": source, "precisions": sorted({name.partition("-")[2] for name in names[1:]})}
        written = commands.written_by("_exporting", writing)
        jobs = {name: {**shared, "contestant": name} for name in names}
        encoder = Path(source).name if source else f"{size} sizes"
        what = f"{encoder} and 2 adapters, {length} tokens, {written['instructions']}"
        commands.compare(BENCHMARK, jobs, rounds, f"Exported, {what}", commands.Files(json_file, markdown, plot))


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return each contestant's milliseconds a batch by round, and how far its features are from the first's."""
    keys = [key for key in next(iter(results.values()))[0] if key.startswith(("ms_", "cpu_ms_"))]
    return gathered(results, [*keys, *OTHERS], ["cosine"])


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table row for each contestant and batch, with the first's time relative to its own."""
    rows = []
    for name, result in summary.items():
        for key in (key for key in result if key.startswith("ms_")):
            ours, first = result[key], summary[FIRST][key]
            rows.append(
                {
                    "contestant": name,
                    "batch": key.removeprefix("ms_"),
                    "ms a batch": f"{median(ours):.2f}",
                    f"as fast as {FIRST}": f"{times(first, ours):.2f}x",
                    "lowest and highest": extremes(first, ours),
                    "by CPU time": f"{times(summary[FIRST][f'cpu_{key}'], result[f'cpu_{key}']):.2f}x",
                    "cosine": f"{result['cosine']:.5f}",
                    **added(result),
                }
            )
    return rows


def added(result: dict[str, Any]) -> dict[str, str]:
    """Return the cells about adding an adapter, which are empty for PyTorch."""
    columns = ("adding ms", "loading ms", "adding against loading")
    if not all(result["adding_ms"]):
        return dict.fromkeys(columns, "")
    adding, loading = (median(result[key]) for key in OTHERS)
    faster = times(result["loading_ms"], result["adding_ms"])
    return dict(zip(columns, (f"{adding:.1f}", f"{loading:.1f}", f"{faster:.1f}x"), strict=True))


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Bars]]:
    """Return a panel of the time of a batch for each size of batches."""
    keys = [key for key in summary[FIRST] if key.startswith("ms_")]
    bars = [
        Bars(f"ms, batch {key.removeprefix('ms_')}", {name: one[key] for name, one in summary.items()}) for key in keys
    ]
    return [bars]


BENCHMARK = commands.Benchmark("_exporting", summary, table, panels)

if __name__ == "__main__":
    commands.start(main)
