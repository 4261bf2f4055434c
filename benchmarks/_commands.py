"""Options shared by the benchmarks, lists of values after an option, and running and reporting a benchmark."""

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
from _tables import by_operation, report, write_json

SizeOption = Annotated[Literal["large", "base", "tiny"], typer.Option(help="Size of the RoBERTa backbone.")]
Rounds = Annotated[int, typer.Option(min=1, help="Number of runs of every contestant.")]
Steps = Annotated[int, typer.Option(min=1, help="Number of measured training steps of each run.")]
Warmup = Annotated[int, typer.Option(min=1, help="Number of training steps before the measured steps.")]
Batch = Annotated[int, typer.Option(min=1, help="Sentences in a batch.")]
MaxLength = Annotated[int, typer.Option(min=8, max=512, help="Tokens that longer sentences are cut to.")]
Bf16 = Annotated[
    bool | None, typer.Option("--bf16/--no-bf16", help="Train in bfloat16.", show_default="if it is faster")
]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Device that the models run on.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of a process.", show_default="the number of cores")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        help="FewRel release whose sentence lengths are used.",
        show_default="../shared/data/fewrel, else recorded lengths",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="Tokenizer for --data-dir.", show_default="../shared/models/all-MiniLM-L6-v2"),
]
Json = Annotated[Path | None, typer.Option("--json", help="File for the results, rewritten after every round.")]
Markdown = Annotated[Path | None, typer.Option(help="File for the table.")]
Profile = Annotated[
    Path | None, typer.Option(help="File for the time of each operation, measured in an additional round.")
]
Plot = Annotated[Path | None, typer.Option(callback=_plots.checked, help="File for the plot, .svg or .png.")]
CORES = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
BY_CPU_TIME = ("CPU s", "CPU time")  # in the names of columns that mean nothing for work done by a GPU


class Files(NamedTuple):
    """The files that results are written to; None for those not wanted."""

    json: Path | None
    markdown: Path | None
    plot: Path | None


class Benchmark(NamedTuple):
    """The module whose `contest` runs in fresh processes, and the functions that present its results."""

    module: str
    summary: Callable[[Results], dict[str, dict[str, Any]]]
    table: Callable[[dict[str, dict[str, Any]]], list[dict[str, str]]]
    panels: Callable[[dict[str, dict[str, Any]]], list[list[_plots.Bars | _plots.Lines]]]


def in_bfloat16(requested: bool | None, device: str) -> bool:
    """Return whether to compute in bfloat16: as requested, or else if this machine is faster in it."""
    if requested is not None:
        return requested
    import torch

    from kadapter.trainers.common.precision import bfloat16_pays

    return bfloat16_pays(torch.device(device))


def contest_in(module: str, job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Run a contestant in a process that imports the heavy libraries, which the command itself does not."""
    return import_module(module).contest(job, marks)


def written_by(module: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run the `write` of a module once, in a process that imports the heavy libraries, and return what it returns."""
    return play(partial(_write_in, module), {"writing": job}, 1, "cpu", lambda results: None)["writing"][0]


def _write_in(module: str, job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    return import_module(module).write(job)


def compare(benchmark: Benchmark, jobs: Mapping[str, dict[str, Any]], rounds: int, title: str, files: Files) -> None:
    """Run every job in each round, and report the results; all jobs share the device and threads of the first."""
    device, threads = (next(iter(jobs.values()))[key] for key in ("device", "threads"))
    contest = partial(contest_in, benchmark.module)
    sources = {name: {key: job[key] for key in ("sentences",) if key in job} for name, job in jobs.items()}

    def summary_of(results: Results) -> dict[str, dict[str, Any]]:
        return {name: {**result, **sources[name]} for name, result in benchmark.summary(results).items()}

    summary = summary_of(play(contest, jobs, rounds, device, lambda sofar: write_json(files.json, summary_of(sofar))))
    rows = benchmark.table(summary)
    if device != "cpu":
        rows = [
            {name: cell for name, cell in row.items() if not any(map(name.__contains__, BY_CPU_TIME))} for row in rows
        ]
    report(f"{title}, medians of {rounds} rounds", rows, device, threads, files.markdown)
    if files.plot is not None:
        _plots.draw(benchmark.panels(summary), files.plot)


def profile(benchmark: Benchmark, jobs: Mapping[str, dict[str, Any]], title: str, path: Path) -> None:
    """Run every job once more under a profiler, and report where the time goes."""
    device, threads = (next(iter(jobs.values()))[key] for key in ("device", "threads"))
    profiled = {name: {**job, "profile": True} for name, job in jobs.items()}
    results = play(partial(contest_in, benchmark.module), profiled, 1, device, lambda results: None)
    shares = {name: runs[0]["shares"] for name, runs in results.items()}
    report(f"{title}, where the time goes", by_operation(shares), device, threads, path)


def spread(arguments: Sequence[str]) -> list[str]:
    """Repeat each option before every one of its values, as in `--batches 1 16 64`; no argument is positional."""
    flags, option, expected = [], None, False
    for argument in arguments:
        if argument.startswith("--"):
            option, expected = argument, "=" not in argument
        elif not expected and option is not None:
            flags.append(option.partition("=")[0])
        flags.append(argument)
        expected = expected and argument.startswith("--")
    return flags


def app_of(main: Callable[..., None]) -> typer.Typer:
    """Return the command of a benchmark's main function."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=sys.modules[main.__module__].__doc__)(main)
    return app


def start(main: Callable[..., None]) -> None:
    """Run a command, and exit with the message of an expected error.

    Raises:
        SystemExit: always.
    """
    try:
        app_of(main)(args=spread(sys.argv[1:]))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")


def sentences_of(data_dir: Path | None, tokenizer: str | None) -> dict[str, Any]:
    """Return the fields "lengths" of a job, the lengths of sentences, and "sentences", where they come from.

    Raises:
        ValueError: only one of directory and tokenizer was passed.
    """
    if (data_dir is None) != (tokenizer is None):
        raise ValueError("--data-dir and --tokenizer go together: pass both, or neither for the lengths of FewRel")
    lengths, source = _lengths.chosen(data_dir, tokenizer)
    return {"lengths": lengths, "sentences": source}


def sentences_of_length(length: int) -> dict[str, Any]:
    """Return the same fields for sentences that all have the same length."""
    return {"lengths": [length], "sentences": f"{length} tokens each"}


def name_of(adapters: int) -> str:
    """Return the name of a contestant with this number of adapters."""
    return f"+{adapters}" if adapters else "backbone"
