"""What the commands share: their options, lists of values after one option, and what is done with the results."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import _lengths
import _plots
import typer
from _rounds import Marks, Results, play
from _tables import by_operation, tell, write_json
from typer.core import TyperCommand

SizeOption = Annotated[Literal["large", "base", "tiny"], typer.Option(help="Shape of the backbone, as RoBERTa's.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often every contestant runs.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps that are measured in each run.")]
Warmup = Annotated[int, typer.Option(min=1, help="Steps before those that are measured.")]
Batch = Annotated[int, typer.Option(min=1, help="Sentences in a batch.")]
MaxLength = Annotated[int, typer.Option(min=8, max=512, help="Longest sentence in tokens; longer ones are cut.")]
Bf16 = Annotated[
    bool | None, typer.Option("--bf16/--no-bf16", help="Train in bfloat16.", show_default="if faster here")
]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where the models run.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of a process.", show_default="one for each core")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="FewRel release with the lengths.", show_default="../shared/data/fewrel, else recorded lengths"),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="What counts the tokens of --data-dir.", show_default="../shared/models/all-MiniLM-L6-v2"),
]
Json = Annotated[Path | None, typer.Option("--json", help="Where the results are written, after every round.")]
Markdown = Annotated[Path | None, typer.Option(help="Where the table is written.")]
Profile = Annotated[
    Path | None, typer.Option(help="Where it is written on what the time goes, looked at in one more round.")
]
Plot = Annotated[Path | None, typer.Option(callback=_plots.checked, help="Where it is drawn, as .svg or .png.")]
CORES = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
BY_CPU_TIME = ("tokens/CPU s", "by CPU time", "CPU time")  # columns that tell nothing of what a GPU computes


class Files(NamedTuple):
    """Where results are written, None for nowhere."""

    json: Path | None
    markdown: Path | None
    plot: Path | None


class Benchmark(NamedTuple):
    """The module whose `contest` runs in fresh processes, and what is made of its results: JSON, a table, panels."""

    module: str
    summary: Callable[[Results], dict[str, dict[str, Any]]]
    table: Callable[[dict[str, dict[str, Any]]], list[dict[str, str]]]
    panels: Callable[[dict[str, dict[str, Any]]], list[list[_plots.Bars | _plots.Lines]]]


def in_bfloat16(asked: bool | None, device: str) -> bool:
    """Return whether to compute in bfloat16: as asked, or if this machine is faster in it."""
    if asked is not None:
        return asked
    import torch

    from kadapter.trainers.common.precision import bfloat16_pays

    return bfloat16_pays(torch.device(device))


def contest_in(module: str, job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Run one contestant, in a process that has the heavy libraries, which the command has not."""
    return import_module(module).contest(job, marks)


def compare(benchmark: Benchmark, jobs: Mapping[str, dict[str, Any]], rounds: int, title: str, files: Files) -> None:
    """Run every job in each round, and tell the results; the first job says on which device, by how many threads."""
    device, threads = (next(iter(jobs.values()))[key] for key in ("device", "threads"))
    contest = partial(contest_in, benchmark.module)
    said = {name: {key: job[key] for key in ("sentences",) if key in job} for name, job in jobs.items()}

    def summary_of(results: Results) -> dict[str, dict[str, Any]]:
        return {name: {**one, **said[name]} for name, one in benchmark.summary(results).items()}

    summary = summary_of(play(contest, jobs, rounds, device, lambda some: write_json(files.json, summary_of(some))))
    rows = benchmark.table(summary)
    if device != "cpu":
        rows = [{name: cell for name, cell in row.items() if name not in BY_CPU_TIME} for row in rows]
    tell(f"{title}, medians of {rounds} rounds", rows, device, threads, files.markdown)
    if files.plot is not None:
        _plots.draw(benchmark.panels(summary), files.plot)


def profile(benchmark: Benchmark, jobs: Mapping[str, dict[str, Any]], title: str, path: Path) -> None:
    """Run every job once more, beside a profiler, and tell where the time goes."""
    device, threads = (next(iter(jobs.values()))[key] for key in ("device", "threads"))
    profiled = {name: {**job, "profile": True} for name, job in jobs.items()}
    results = play(partial(contest_in, benchmark.module), profiled, 1, device, lambda some: None)
    shares = {name: runs[0]["shares"] for name, runs in results.items()}
    tell(f"{title}, where the time goes", by_operation(shares), device, threads, path)


class SpreadCommand(TyperCommand):
    """A command whose options take several values at once: `--batches 1 16 64`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse flags after spreading them."""
        return super().parse_args(ctx, spread(args))


def spread(arguments: Sequence[str]) -> list[str]:
    """Repeat an option before each of its values; there are no arguments that are not options."""
    flags, option, expected = [], None, False
    for one in arguments:
        if one.startswith("--"):
            option, expected = one, "=" not in one
        elif not expected and option is not None:
            flags.append(option.partition("=")[0])
        flags.append(one)
        expected = expected and one.startswith("--")
    return flags


def app_of(main: Callable[..., None]) -> typer.Typer:
    """Return the command of a benchmark's main function."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(cls=SpreadCommand, help=sys.modules[main.__module__].__doc__)(main)
    return app


def start(main: Callable[..., None]) -> None:
    """Run a command; a failure that has a sentence ends with it.

    Raises:
        SystemExit: always, as commands do.
    """
    try:
        app_of(main)()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")


def sentences_of(data_dir: Path | None, tokenizer: str | None) -> dict[str, Any]:
    """Return the part of a job that says how long sentences are, as "lengths", and where that is from, as "sentences".

    Raises:
        ValueError: the directory has no tokenizer, or the tokenizer no directory.
    """
    if (data_dir is None) != (tokenizer is None):
        raise ValueError("--data-dir and --tokenizer go together: give both, or neither for the lengths of FewRel")
    lengths, source = _lengths.chosen(data_dir, tokenizer)
    return {"lengths": lengths, "sentences": source}


def sentences_alike(length: int) -> dict[str, Any]:
    """Return the same part for sentences that are all of one length."""
    return {"lengths": [length], "sentences": f"{length} tokens each"}


def name_of(adapters: int) -> str:
    """Return the name of a contestant with so many adapters."""
    return f"+{adapters}" if adapters else "backbone"
