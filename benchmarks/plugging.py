"""Measure what a knowledge map costs: reading with it plugged in, and training it, against the official procedure.

    python benchmarks/plugging.py --rounds 5 --json FILE

"alone" reads sentences without entities, but as long as with them, so what "plugged" takes more is the map's. "loop"
trains a map as the official code does: the embedding of every position is looked up or mapped by itself, in a loop
over sentences and positions. "ours" puts the entities of a batch into place together. Both have the same frozen masked
language model, examples, loss and optimizer. "loop-inputs" and "ours-inputs" are the embeddings of a batch and the
gradient of the map alone, without the model between them. The weights are random.
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
    "loop": "training",
    "ours": "training",
    "loop-inputs": "inputs",
    "ours-inputs": "inputs",
}


def main(
    batch: commands.Batch = 16,
    length: Annotated[int, typer.Option(min=16, max=512, help="Tokens of a sentence, entities among them.")] = 64,
    entities: Annotated[int, typer.Option(min=1, max=8, help="Entities of a sentence.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Batches that are read or trained on in each round.")] = 8,
    size: commands.SizeOption = "base",
    rounds: commands.Rounds = 5,
    device: commands.Device = "cpu",
    threads: commands.Threads = commands.CORES,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
) -> None:
    """Read and train in each way in each round and compare."""
    shared = {"batch": batch, "length": length, "entities": entities, "repeats": repeats}
    shared.update(size=size, device=device, threads=threads)
    jobs = {name: {**shared, "contestant": name} for name in CONTESTANTS}
    title = f"Knowledge maps, {batch} sentences of {length} tokens with {entities} entities"
    commands.compare(BENCHMARK, jobs, rounds, title, commands.Files(json_file, markdown, plot))


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return each contestant's milliseconds a batch by round, and its highest memory."""
    return gathered(results, ["milliseconds"])


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table row for each contestant, with its time relative to the first that does the same."""
    first = {work: name for name, work in reversed(CONTESTANTS.items())}
    return [
        {
            "contestant": name,
            "work": CONTESTANTS[name],
            "ms a batch": f"{median(result['milliseconds']):.1f}",
            "against": first[CONTESTANTS[name]],
            "ratio": f"{times(result['milliseconds'], summary[first[CONTESTANTS[name]]]['milliseconds']):.2f}x",
            "lowest and highest": extremes(result["milliseconds"], summary[first[CONTESTANTS[name]]]["milliseconds"]),
        }
        for name, result in summary.items()
    ]


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Bars]]:
    """Return a panel of the time of a batch."""
    return [[Bars("ms a batch", {name: result["milliseconds"] for name, result in summary.items()})]]


BENCHMARK = commands.Benchmark("_plugging", summary, table, panels)

if __name__ == "__main__":
    commands.start(main)
