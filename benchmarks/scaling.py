"""Measure how time and memory of a training step scale with sentence length, batch, adapters, processes and corpus.

    python benchmarks/scaling.py --lengths 16 64 256 --batches 4 16 64 --adapters 1 2 4 --processes 1 2 --json FILE

One quantity varies at a time; by default a step trains one adapter on --batch sentences of FewRel's lengths. With
--lengths, all sentences have the same length. Several adapters train together under one head. Several processes share
each batch and the threads, or have a GPU each, and their memory is added up. With --corpora, ours-cached trains on
cached hidden states: the whole corpus is written, ordered and looked up, and the cache holds the sentences of the
measured steps. The weights are random.
"""

from __future__ import annotations

from statistics import median
from typing import Annotated, Any

import _commands as commands
import typer
from _plots import Lines
from train_step import summary

Values = list[int]
LENGTHS, BATCHES = [16, 32, 64, 128, 256], [1, 4, 16, 64]
ADAPTERS, PROCESSES, CORPORA = [1, 2, 4], [1, 2], [1_000, 30_000, 1_000_000]
ON_CORPORA = "ours-cached"  # the contestant if the corpus varies; otherwise it is ours


def main(
    lengths: Annotated[Values, typer.Option(min=8, max=512, help="Sentence lengths.")] = LENGTHS,
    batches: Annotated[Values, typer.Option(min=1, help="Batch sizes.")] = BATCHES,
    adapters: Annotated[Values, typer.Option(min=1, help="Numbers of adapters.")] = ADAPTERS,
    processes: Annotated[Values, typer.Option(min=1, help="Numbers of processes.")] = PROCESSES,
    corpora: Annotated[Values, typer.Option(min=1, help="Sentences in the corpus, with a cache.")] = CORPORA,
    size: commands.SizeOption = "large",
    rounds: commands.Rounds = 3,
    steps: commands.Steps = 4,
    warmup: commands.Warmup = 2,
    batch: commands.Batch = 16,
    max_length: commands.MaxLength = 64,
    bf16: commands.Bf16 = None,
    device: commands.Device = "cpu",
    threads: commands.Threads = commands.CORES,
    data_dir: commands.DataDir = None,
    tokenizer: commands.Tokenizer = None,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
) -> None:
    """Train with every length, batch size, number of adapters and of processes, and corpus size in each round."""
    check(processes, corpora, batch, steps + warmup, device)
    shared = {"contestant": "ours", "size": size, "batch": batch, "steps": steps, "warmup": warmup, "adapters": 1}
    shared |= {"longest": max_length, **commands.sentences_of(data_dir, tokenizer)}
    shared |= {"bf16": commands.in_bfloat16(bf16, device), "device": device, "threads": threads}
    jobs = {f"length {n}": {**shared, **commands.sentences_of_length(n), "longest": n} for n in lengths}
    jobs |= {f"batch {n}": {**shared, "batch": n} for n in batches}
    jobs |= {f"adapters {n}": {**shared, "adapters": n} for n in adapters}
    jobs |= {f"processes {n}": {**shared, "processes": n, "threads": max(1, threads // n)} for n in processes}
    cached = {**shared, "contestant": ON_CORPORA}
    jobs |= {f"corpus {n}": {**cached, "corpus": n} for n in corpora}
    title = f"One training step of ours, on corpora of {ON_CORPORA}, RoBERTa-{size} sizes, {shared['sentences']}"
    commands.compare(BENCHMARK, jobs, rounds, title, commands.Files(json_file, markdown, plot))


def check(processes: Values, corpora: Values, batch: int, steps: int, device: str) -> None:
    """Refuse options that can't be run.

    Raises:
        BadParameter: the processes can't share a batch evenly, there are too few GPUs, or a corpus is too small.
    """
    if min(corpora) < batch * steps:
        raise typer.BadParameter(
            f"--corpora {min(corpora)}: the steps alone take {batch * steps} sentences; pass a larger number"
        )
    for number in processes:
        if batch % number:
            raise typer.BadParameter(f"--processes {number} can't share --batch {batch} evenly; change either of them")
    if device != "cpu":
        import torch

        if max(processes) > torch.cuda.device_count():
            raise typer.BadParameter(
                f"--processes {max(processes)} need a GPU each, and there are {torch.cuda.device_count()}; pass fewer"
            )


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a table row for each job."""
    return [
        {
            "what varies": name,
            "ms/step": f"{1000 * result['seconds_per_step']:.0f}",
            "tokens/s": f"{median(result['tokens_per_second']):.0f}",
            "MFLOP/token": f"{result['mflop_per_token']:.4g}",
            "of the limit": f"{result['fraction_of_limit']:.1%}",
            "by CPU time": f"{result['fraction_of_limit_by_cpu']:.1%}",
            "anonymous MiB": f"{result['peak_anonymous_mib']:.0f}",
            "device MiB": f"{result['peak_device_mib']:.0f}",
        }
        for name, result in summary.items()
    ]


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Lines]]:
    """Return a line of panels of step times and a line of memory, with a panel for each quantity that varies."""
    varied: dict[str, dict[str, dict[int, list[float]]]] = {}
    for name, result in summary.items():
        axis, _, value = name.rpartition(" ")
        points = varied.setdefault(axis, {"seconds": {}, "memory": {}})
        points["seconds"][int(value)] = [result["seconds_per_step"]]
        points["memory"][int(value)] = [result["peak_anonymous_mib"]]
    trains = {axis: ON_CORPORA if axis == "corpus" else "ours" for axis in varied}
    labels = {axis: f"{axis} ({trains[axis]})" for axis in varied}
    return [
        [
            Lines(labels[axis], {trains[axis]: points["seconds"]}, "seconds a step", logarithmic=True)
            for axis, points in varied.items()
        ],
        [Lines(labels[axis], {trains[axis]: points["memory"]}, "anonymous MiB") for axis, points in varied.items()],
    ]


BENCHMARK = commands.Benchmark("_training", summary, table, panels)

if __name__ == "__main__":
    commands.start(main)
