"""Measure knowledge adapters beside a language model: generation with them, and training one, against LoRA.

    python benchmarks/language_model.py --rounds 5 --json FILE

"generate-1" and "generate-8" continue so many prompts with the cache, "ours-1" and "ours-8" with two adapters beside
the same model. "lora" trains LoRA weights of rank 16 in all Linears of the blocks; "ours" trains an adapter on kept
hidden states, without the backbone in memory, and "ours-held-back" does so with the locality term on as many texts as
a step learns. All learn two tokens of each text. The sizes are SmolLM2-135M's, the weights random, all is float32.
"""

from __future__ import annotations

from statistics import median
from typing import Annotated, Any, Literal

import _commands as commands
import typer
from _plots import Bars
from _rounds import Results
from _tables import extremes, gathered, times

AGAINST = {  # each contestant, and what it is compared with
    "generate-1": "generate-1",
    "ours-1": "generate-1",
    "generate-8": "generate-8",
    "ours-8": "generate-8",
    "lora": "lora",
    "ours": "lora",
    "ours-held-back": "lora",
}


def main(
    batch: commands.Batch = 16,
    length: Annotated[int, typer.Option(min=4, max=512, help="Tokens of a text, and of a prompt.")] = 16,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens that are generated.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Generations or steps in each round.")] = 4,
    size: Annotated[Literal["smollm2", "tiny"], typer.Option(help="Size of the decoder.")] = "smollm2",
    rounds: commands.Rounds = 5,
    device: commands.Device = "cpu",
    threads: commands.Threads = commands.CORES,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
) -> None:
    """Generate and train in each way in each round and compare."""
    shared = {"batch": batch, "length": length, "new_tokens": new_tokens, "repeats": repeats}
    shared.update(size=size, device=device, threads=threads)
    jobs = {name: {**shared, "contestant": name} for name in AGAINST}
    title = f"Beside a language model, {size} sizes, {batch} texts of {length} tokens a step, {new_tokens} new tokens"
    commands.compare(BENCHMARK, jobs, rounds, title, commands.Files(json_file, markdown, plot))


def summary(results: Results) -> dict[str, dict[str, Any]]:
    """Return each contestant's milliseconds by round, and its highest memory."""
    return gathered(results, ["milliseconds", "cpu_milliseconds"])


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table row for each contestant, with its time and memory relative to what it is compared with."""
    rows = []
    for name, result in summary.items():
        other = summary[AGAINST[name]]
        memory, others_memory = result["peak_anonymous_mib"], other["peak_anonymous_mib"]
        rows.append(
            {
                "contestant": name,
                "ms": f"{median(result['milliseconds']):.1f}",
                "against": AGAINST[name],
                "time": f"{times(result['milliseconds'], other['milliseconds']):.2f}x",
                "lowest and highest": extremes(result["milliseconds"], other["milliseconds"]),
                "CPU time": f"{times(result['cpu_milliseconds'], other['cpu_milliseconds']):.2f}x",
                "anonymous MiB": f"{memory:.0f}",
                "memory": f"{memory / others_memory:.2f}x",
            }
        )
    return rows


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Bars]]:
    """Return panels of the time of a generation and of a training step."""
    works = {"ms a generation": "generate", "ms a step": "lora"}
    numbers = {name: result["milliseconds"] for name, result in summary.items()}
    return [
        [Bars(title, {name: numbers[name] for name in numbers if AGAINST[name].startswith(first)})]
        for title, first in works.items()
    ]


BENCHMARK = commands.Benchmark("_language_model", summary, table, panels)

if __name__ == "__main__":
    commands.start(main)
