"""Shows how our training step grows with sentence length, batch and number of adapters: time and memory.

    python benchmarks/scaling.py --lengths 16 64 256 --batches 4 16 64 --adapters 1 2 4 --processes 1 2 --json FILE

One thing varies at a time; the others stay at --batch sentences of FewRel's lengths and one adapter. With --lengths
all sentences are of that length. Several adapters train together under one head. Several processes share each batch
and the threads, or have a GPU each, and their memory is counted together. Corpora are trained on kept states, by
ours-cached: so many sentences are written, ordered and looked up, and the cache holds those of the steps that are run.
Weights are random.
"""

from __future__ import annotations

from statistics import median
from typing import Annotated, Any

import _commands as told
import typer
from _plots import Lines
from train_step import summary

Values = list[int]
LENGTHS, BATCHES = [16, 32, 64, 128, 256], [1, 4, 16, 64]
ADAPTERS, PROCESSES, CORPORA = [1, 2, 4], [1, 2], [1_000, 30_000, 1_000_000]
ON_CORPORA = "ours-cached"  # trains where the corpus varies, and ours where anything else does


def main(
    lengths: Annotated[Values, typer.Option(min=8, max=512, help="Sentence lengths.")] = LENGTHS,
    batches: Annotated[Values, typer.Option(min=1, help="Batch sizes.")] = BATCHES,
    adapters: Annotated[Values, typer.Option(min=1, help="Numbers of adapters.")] = ADAPTERS,
    processes: Annotated[Values, typer.Option(min=1, help="Numbers of processes.")] = PROCESSES,
    corpora: Annotated[Values, typer.Option(min=1, help="Sentences in the corpus, on kept states.")] = CORPORA,
    size: told.SizeOption = "large",
    rounds: told.Rounds = 3,
    steps: told.Steps = 4,
    warmup: told.Warmup = 2,
    batch: told.Batch = 16,
    max_length: told.MaxLength = 64,
    bf16: told.Bf16 = None,
    device: told.Device = "cpu",
    threads: told.Threads = told.CORES,
    data_dir: told.DataDir = None,
    tokenizer: told.Tokenizer = None,
    json_file: told.Json = None,
    markdown: told.Markdown = None,
    plot: told.Plot = None,
) -> None:
    """Train with every length, batch size, number of adapters and of processes, and corpus size in each round."""
    check(processes, corpora, batch, steps + warmup, device)
    shared = {"contestant": "ours", "size": size, "batch": batch, "steps": steps, "warmup": warmup, "adapters": 1}
    shared |= {"longest": max_length, **told.sentences_of(data_dir, tokenizer)}
    shared |= {"bf16": told.in_bfloat16(bf16, device), "device": device, "threads": threads}
    jobs = {f"length {one}": {**shared, **told.sentences_alike(one), "longest": one} for one in lengths}
    jobs |= {f"batch {one}": {**shared, "batch": one} for one in batches}
    jobs |= {f"adapters {one}": {**shared, "adapters": one} for one in adapters}
    jobs |= {f"processes {one}": {**shared, "processes": one, "threads": max(1, threads // one)} for one in processes}
    cached = {**shared, "contestant": ON_CORPORA}
    jobs |= {f"corpus {one}": {**cached, "corpus": one} for one in corpora}
    title = f"One training step of ours, on corpora of {ON_CORPORA}, RoBERTa-{size} sizes, {shared['sentences']}"
    told.compare(BENCHMARK, jobs, rounds, title, told.Files(json_file, markdown, plot))


def check(processes: Values, corpora: Values, batch: int, steps: int, device: str) -> None:
    """Refuse what can't be run.

    Raises:
        BadParameter: processes can't share a batch, or GPUs, or a corpus is too small.
    """
    if min(corpora) < batch * steps:
        raise typer.BadParameter(
            f"--corpora {min(corpora)}: the steps alone take {batch * steps} sentences; give more"
        )
    for one in processes:
        if batch % one:
            raise typer.BadParameter(f"--processes {one} can't share --batch {batch} evenly; change one of them")
    if device != "cpu":
        import torch

        if max(processes) > torch.cuda.device_count():
            raise typer.BadParameter(
                f"--processes {max(processes)} need a GPU each, and there are {torch.cuda.device_count()}; give fewer"
            )


def table(summary: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return a row for each point."""
    return [
        {
            "what varies": name,
            "ms/step": f"{1000 * one['seconds_per_step']:.0f}",
            "tokens/s": f"{median(one['tokens_per_second']):.0f}",
            "MFLOP/token": f"{one['mflop_per_token']:.4g}",
            "of the limit": f"{one['fraction_of_limit']:.1%}",
            "by CPU time": f"{one['fraction_of_limit_by_cpu']:.1%}",
            "anonymous MiB": f"{one['peak_anonymous_mib']:.0f}",
            "device MiB": f"{one['peak_device_mib']:.0f}",
        }
        for name, one in summary.items()
    ]


def panels(summary: dict[str, dict[str, Any]]) -> list[list[Lines]]:
    """Return a row of times of a step and one of memory, a panel for each thing that varies."""
    varied: dict[str, dict[str, dict[int, list[float]]]] = {}
    for name, one in summary.items():
        axis, _, place = name.rpartition(" ")
        points = varied.setdefault(axis, {"seconds": {}, "memory": {}})
        points["seconds"][int(place)] = [one["seconds_per_step"]]
        points["memory"][int(place)] = [one["peak_anonymous_mib"]]
    trains = {axis: ON_CORPORA if axis == "corpus" else "ours" for axis in varied}
    labels = {axis: f"{axis} ({trains[axis]})" for axis in varied}
    return [
        [
            Lines(labels[axis], {trains[axis]: points["seconds"]}, "seconds a step", logarithmic=True)
            for axis, points in varied.items()
        ],
        [Lines(labels[axis], {trains[axis]: points["memory"]}, "anonymous MiB") for axis, points in varied.items()],
    ]


BENCHMARK = told.Benchmark("_training", summary, table, panels)

if __name__ == "__main__":
    told.start(main)
