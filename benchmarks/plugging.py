"""Measure what a knowledge map costs: reading with it plugged in, and training it, against the official procedure.

    python benchmarks/plugging.py --rounds 5 --json FILE

"alone" reads sentences without entities, but as long as with them, so what "plugged" takes more is the map's.
"official" trains a map as published: float32, every sentence padded to --length and embedded position by position, the
LM head over all positions, and gradients of the frozen weights too. "ours" trains it as run_adapter.py does, in
bfloat16 if this machine is faster in it or with --bf16. Both have the same frozen masked language model, a vocabulary
of BERT's size, and sentences with two entities, whose lengths are those of FewRel. "official-inputs" and "ours-inputs"
are the embeddings of a batch and the gradient of the map alone, without the model. The weights are random.
"""

from __future__ import annotations

from statistics import median
from typing import Annotated, Any

import _commands as commands
import typer
from _plots import Bars
from _rounds import Results
from _tables import extremes, gathered, times

CONTESTANTS = {
    "alone": "reading",
    "plugged": "reading",
    "official": "training",
    "ours": "training",
    "official-inputs": "inputs",
    "ours-inputs": "inputs",
}
TIMES = ("milliseconds", "cpu_milliseconds")


def main(
    batch: commands.Batch = 16,
    length: Annotated[int, typer.Option(min=16, max=512, help="Tokens of the longest sentence.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Batches that are read or trained on in each round.")] = 8,
    size: commands.SizeOption = "base",
    rounds: commands.Rounds = 5,
    bf16: commands.Bf16 = None,
    device: commands.Device = "cpu",
    threads: commands.Threads = commands.CORES,
    data_dir: commands.DataDir = None,
    tokenizer: commands.Tokenizer = None,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
) -> None:
    """Read and train in each way in each round and compare."""
    shared = {"batch": batch, "length": length, "repeats": repeats, "size": size}
    shared |= {"bf16": commands.in_bfloat16(bf16, device), "device": device, "threads": threads}
    shared |= commands.sentences_of(data_dir, tokenizer)
    jobs = {name: {**shared, "contestant": name} for name in CONTESTANTS}
    dtype = "bfloat16" if shared["bf16"] else "float32"
    title = f"Knowledge maps, {batch} sentences of up to {length} tokens, ours in {dtype}"
    commands.compare(BENCHMARK, jobs, rounds, title, commands.Files(json_file, markdown, plot))


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return each contestant's milliseconds a batch by round, by the clock and of CPU time, and its highest memory."""
    return gathered(results, TIMES)


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table row for each contestant, with its time relative to the first that does the same."""
    first = {work: name for name, work in reversed(CONTESTANTS.items())}
    rows = []
    for name, result in summary.items():
        other = first[CONTESTANTS[name]]
        by_clock, by_cpu = ((result[key], summary[other][key]) for key in TIMES)
        rows.append(
            {
                "contestant": name,
                "work": CONTESTANTS[name],
                "ms a batch": f"{median(result['milliseconds']):.1f}",
                "against": other,
                "time": f"{times(*by_clock):.2f}x ({extremes(*by_clock)})",
                "CPU time": f"{times(*by_cpu):.2f}x ({extremes(*by_cpu)})",
                "anonymous MiB": f"{result['peak_anonymous_mib']:.0f}",
            }
        )
    return rows


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Bars]]:
    """Return a panel of the time of a batch."""
    return [[Bars("ms a batch", {name: result["milliseconds"] for name, result in summary.items()})]]


BENCHMARK = commands.Benchmark("_plugging", summary, table, panels)

if __name__ == "__main__":
    commands.start(main)
