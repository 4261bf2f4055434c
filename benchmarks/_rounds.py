"""Rounds of contestants, each in a fresh process of its own, whose memory is watched from outside.

Machines slow down and speed up while a benchmark runs, so contestants take turns round by round and never stand one
after another. On a CPU a fresh process is forked from a server that has imported the libraries and done nothing else.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

IMPORTED = ["datasets", "peft", "kadapter.modeling_kadapter", "kadapter.trainers.feature_trainer"]
EVERY = 0.02  # seconds between two looks at a process's memory
MIB = 2**20

Results = dict[str, list[dict[str, Any]]]


class Marks:
    """What a contestant tells about itself: memory counts between `begin` and `end`, or always if it says neither."""

    def __init__(self, channel: Connection) -> None:
        self._channel = channel

    def begin(self) -> None:
        """What is measured begins now."""
        self._channel.send("begin")

    def end(self) -> None:
        """What is measured is over."""
        self._channel.send("end")


class Memory:
    """The largest resident and the largest anonymous memory that a process was seen with, in bytes."""

    def __init__(self, process_id: int) -> None:
        self._status = Path(f"/proc/{process_id}/status")
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.resident = self.anonymous = 0

    def look(self) -> None:
        """Look once; a process that has ended is seen with nothing."""
        try:
            lines = self._status.read_text(encoding="ascii").splitlines()
        except OSError:
            return
        sizes = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon"))}
        self.resident = max(self.resident, 1024 * int(sizes.get("VmRSS", 0)))
        self.anonymous = max(self.anonymous, 1024 * int(sizes.get("RssAnon", 0)))


def play(
    contest: Callable[[dict[str, Any], Marks], dict[str, Any]],
    jobs: Mapping[str, dict[str, Any]],
    rounds: int,
    device: str,
    after_round: Callable[[Results], None],
) -> Results:
    """Run every job in a fresh process in each round, and return for each name what `contest` returned, with memory.

    A job gets its round as "round". `after_round` is told all results so far, so that a killed benchmark leaves some.

    Raises:
        RuntimeError: a contestant failed; the sentence holds its traceback.
    """
    context = multiprocessing.get_context("forkserver" if device == "cpu" else "spawn")  # CUDA can't be forked
    if device == "cpu":
        context.set_forkserver_preload(IMPORTED)
    results: Results = {name: [] for name in jobs}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=rounds * len(jobs))
        for number in range(rounds):
            for name in _turned(list(jobs), number):
                progress.update(task, description=f"round {number + 1}: {name}")
                results[name].append(_in_fresh_process(context, contest, {**jobs[name], "round": number}, name))
                progress.advance(task)
            after_round(results)
    return results


def _turned(names: Sequence[str], number: int) -> list[str]:
    """Begin each round with another contestant."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def _in_fresh_process(context: Any, contest: Callable, job: dict[str, Any], name: str) -> dict[str, Any]:
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(contest, job, there), daemon=True)
    process.start()
    there.close()
    memory, watching, told = Memory(process.pid), True, None
    while told is None or isinstance(told, str):
        if watching:
            memory.look()
        if not here.poll(EVERY):
            continue
        try:
            told = here.recv()
        except EOFError:
            process.join()
            raise RuntimeError(
                f"{name} ended with exit code {process.exitcode}; -9 is for too little memory"
            ) from None
        if told == "begin":
            memory.reset()
        watching = watching and told != "end"
    process.join()
    if "failed" in told:
        raise RuntimeError(f"{name} failed:\n{told['failed']}")
    return {**told, "peak_rss_mib": memory.resident / MIB, "peak_anonymous_mib": memory.anonymous / MIB}


def _run(contest: Callable, job: dict[str, Any], channel: Connection) -> None:
    """Run a contestant in its own process, where libraries keep their advice to themselves."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            told = contest(job, Marks(channel))
        channel.send(told)
    except Exception:  # noqa: BLE001 (told in the parent, whatever it is)
        channel.send({"failed": traceback.format_exc()})
