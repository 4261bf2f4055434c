"""Rounds of contestants, each in a fresh process of its own, whose memory is watched from outside.

Machines slow down and speed up while a benchmark runs, so contestants take turns round by round and never stand one
after another. On a CPU a fresh process is forked from a server that has imported the libraries and done nothing else.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import socket
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

IMPORTED = ["datasets", "peft", "kadapter.modeling_kadapter", "kadapter.trainers.feature_cache.trainer"]
EVERY = 0.02  # seconds between two looks at a process's memory
MIB = 2**20

Results = dict[str, list[dict[str, Any]]]


class Marks:
    """What a contestant tells about itself: memory counts between `begin` and `end`, or always if it says neither.

    Memory of a GPU, whose peak only the process itself knows, counts between them alone.
    """

    def __init__(self, channel: Connection, device: str = "cpu") -> None:
        self._channel, self._device, self.device_bytes = channel, device, 0

    def begin(self) -> None:
        """What is measured begins now."""
        if self._device != "cpu":
            import torch

            torch.cuda.reset_peak_memory_stats()
        self._channel.send("begin")

    def end(self) -> None:
        """What is measured is over."""
        self._channel.send("end")
        if self._device != "cpu":
            import torch

            self.device_bytes = torch.cuda.max_memory_allocated()


class Memory:
    """The largest resident and the largest anonymous memory that processes were seen with together, in bytes."""

    def __init__(self, process_ids: Sequence[int]) -> None:
        self._files = [Path(f"/proc/{one}/status") for one in process_ids]
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.resident = self.anonymous = 0

    def look(self) -> None:
        """Look once; a process that has ended is seen with nothing."""
        sizes = [_sizes(path) for path in self._files]
        self.resident = max(self.resident, sum(one.get("VmRSS", 0) for one in sizes))
        self.anonymous = max(self.anonymous, sum(one.get("RssAnon", 0) for one in sizes))


def _sizes(status: Path) -> dict[str, int]:
    """Return the bytes of each kind of memory that a status of a process names."""
    try:
        lines = status.read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    return {line.partition(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.endswith(" kB")}


def play(
    contest: Callable[[dict[str, Any], Marks], dict[str, Any]],
    jobs: Mapping[str, dict[str, Any]],
    rounds: int,
    device: str,
    after_round: Callable[[Results], None],
) -> Results:
    """Run every job in a fresh process in each round, and return for each name what `contest` returned, with memory.

    A job gets its round as "round". One with "processes" runs in so many, which find one another by the environment
    as torchrun's do. `after_round` is told all results so far, so that a killed benchmark leaves some.

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
                results[name].append(_in_fresh_processes(context, contest, {**jobs[name], "round": number}, name))
                progress.advance(task)
            after_round(results)
    return results


def _turned(names: Sequence[str], number: int) -> list[str]:
    """Begin each round with another contestant."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def _in_fresh_processes(context: Any, contest: Callable, job: dict[str, Any], name: str) -> dict[str, Any]:
    """Run a job in as many processes as it says; return what the first tells, with the memory of all together."""
    peers = {}
    for environment in _environments(job):
        here, there = context.Pipe()
        peers[here] = context.Process(target=_run, args=(contest, job, there, environment), daemon=True)
        peers[here].start()
        there.close()
    try:
        told, memory = _watch(peers, name)
    except RuntimeError:
        for process in peers.values():
            process.terminate()
        raise
    finally:
        for process in peers.values():
            process.join()
    return {**told, "peak_rss_mib": memory.resident / MIB, "peak_anonymous_mib": memory.anonymous / MIB}


def _watch(peers: dict[Connection, Any], name: str) -> tuple[dict[str, Any], Memory]:
    """Look at the memory of processes while the first says so, until each has told its results."""
    memory, watching, results = Memory([one.pid for one in peers.values()]), True, {}
    first = next(iter(peers))
    while len(results) < len(peers):
        if watching:
            memory.look()
        for channel in wait([one for one in peers if one not in results], EVERY):
            told = _hear(channel, peers[channel], name)
            if isinstance(told, dict):
                results[channel] = told
            elif channel is first:
                watching = watching and told != "end"
                if told == "begin":
                    memory.reset()
    return results[first], memory


def _hear(channel: Connection, process: Any, name: str) -> dict[str, Any] | str:
    try:
        told = channel.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{name} ended with exit code {process.exitcode}; -9 is for too little memory") from None
    if "failed" in told:
        raise RuntimeError(f"{name} failed:\n{told['failed']}")
    return told


def _environments(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what each process of a job finds in its environment beside ours, by which they find one another."""
    if (number := job.get("processes", 1)) == 1:
        return [{}]
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    shared = {"WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": job["threads"]}
    return [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in range(number)]


def _run(contest: Callable, job: dict[str, Any], channel: Connection, environment: dict[str, Any]) -> None:
    """Run a contestant in its own process, where libraries keep their advice to themselves."""
    os.environ.update({name: str(value) for name, value in environment.items()})
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            marks = Marks(channel, job.get("device", "cpu"))
            told = contest(job, marks)
        channel.send({**told, "peak_device_mib": marks.device_bytes / MIB})
    except Exception:  # noqa: BLE001 (told in the parent, whatever it is)
        channel.send({"failed": traceback.format_exc()})
