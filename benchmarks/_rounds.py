"""Run contestants in rounds, each in a fresh process whose memory is watched from outside.

Machines slow down and speed up while a benchmark runs, so contestants take turns in rounds instead of finishing all
their runs at once. On a CPU, a fresh process is forked from a server that has only imported the libraries.
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
INTERVAL = 0.02  # seconds between two samples of a process's memory
MIB = 2**20

Results = dict[str, list[dict[str, Any]]]


class Marks:
    """Marks by which a contestant limits its measurement: memory counts between `begin` and `end`, or always without.

    Memory of a GPU, whose peak only the process itself knows, counts between them only.
    """

    def __init__(self, channel: Connection, device: str = "cpu") -> None:
        self._channel, self._device, self.device_bytes = channel, device, 0

    def begin(self) -> None:
        """Begin the measurement."""
        if self._device != "cpu":
            import torch

            torch.cuda.reset_peak_memory_stats()
        self._tell("begin")

    def end(self) -> None:
        """End the measurement."""
        self._tell("end")
        if self._device != "cpu":
            import torch

            self.device_bytes = torch.cuda.max_memory_allocated()

    def _tell(self, mark: str) -> None:
        """Send a mark and wait until it is seen: what takes less than a sample's interval would end unsampled."""
        self._channel.send(mark)
        self._channel.recv()


class Memory:
    """The largest resident and the largest anonymous memory of all sampled processes together, in bytes."""

    def __init__(self, process_ids: Sequence[int]) -> None:
        self._files = [Path(f"/proc/{process_id}/status") for process_id in process_ids]
        self.reset()

    def reset(self) -> None:
        """Forget the earlier samples."""
        self.resident = self.anonymous = 0

    def sample(self) -> None:
        """Sample the memory once; a process that has ended counts as zero."""
        sizes = [_sizes(path) for path in self._files]
        self.resident = max(self.resident, sum(size.get("VmRSS", 0) for size in sizes))
        self.anonymous = max(self.anonymous, sum(size.get("RssAnon", 0) for size in sizes))


def _sizes(status: Path) -> dict[str, int]:
    """Return the sizes in bytes in the status file of a process, by their names; empty if the process has ended."""
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
    """Run every job in a fresh process in each round, and return by name the results of `contest`, with memory.

    A job gets its round as "round". A job with "processes" runs in this number of processes, which find each other
    through environment variables as with torchrun. `after_round` receives all results so far, so that a killed
    benchmark leaves some.

    Raises:
        RuntimeError: a contestant failed; the message holds its traceback.
    """
    context = multiprocessing.get_context("forkserver" if device == "cpu" else "spawn")  # CUDA can't be forked
    if device == "cpu":
        context.set_forkserver_preload(IMPORTED)
    results: Results = {name: [] for name in jobs}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=rounds * len(jobs))
        for number in range(rounds):
            for name in _rotated(list(jobs), number):
                progress.update(task, description=f"round {number + 1}: {name}")
                results[name].append(_in_fresh_processes(context, contest, {**jobs[name], "round": number}, name))
                progress.advance(task)
            after_round(results)
    return results


def _rotated(names: Sequence[str], number: int) -> list[str]:
    """Return the names in an order that starts each round with another contestant."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def _in_fresh_processes(context: Any, contest: Callable, job: dict[str, Any], name: str) -> dict[str, Any]:
    """Run a job in its number of processes; return the results of the first, with the memory of all together."""
    peers = {}
    for environment in _environments(job):
        ours, theirs = context.Pipe()
        peers[ours] = context.Process(target=_run, args=(contest, job, theirs, environment), daemon=True)
        peers[ours].start()
        theirs.close()
    try:
        results, memory = _watch(peers, name)
    except RuntimeError:
        for process in peers.values():
            process.terminate()
        raise
    finally:
        for process in peers.values():
            process.join()
    return {**results, "peak_rss_mib": memory.resident / MIB, "peak_anonymous_mib": memory.anonymous / MIB}


def _watch(peers: dict[Connection, Any], name: str) -> tuple[dict[str, Any], Memory]:
    """Sample the memory of processes between the marks of the first, until all have sent their results."""
    memory, watching, results = Memory([process.pid for process in peers.values()]), True, {}
    first = next(iter(peers))
    while len(results) < len(peers):
        if watching:
            memory.sample()
        for channel in wait([channel for channel in peers if channel not in results], INTERVAL):
            message = _receive(channel, peers[channel], name)
            if isinstance(message, dict):
                results[channel] = message
            else:
                if channel is first and watching:
                    watching = _heed(message, memory)
                channel.send("seen")
    return results[first], memory


def _heed(mark: str, memory: Memory) -> bool:
    """Begin or end the measurement with a sample; return whether it goes on."""
    if mark == "begin":
        memory.reset()
    memory.sample()
    return mark != "end"


def _receive(channel: Connection, process: Any, name: str) -> dict[str, Any] | str:
    try:
        message = channel.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{name} ended with exit code {process.exitcode}; -9 means too little memory") from None
    if "failed" in message:
        raise RuntimeError(f"{name} failed:\n{message['failed']}")
    return message


def _environments(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the environment variables that let the processes of a job find each other, for each process."""
    if (number := job.get("processes", 1)) == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": number, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": job["threads"]}
    return [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in range(number)]


def _run(contest: Callable, job: dict[str, Any], channel: Connection, environment: dict[str, Any]) -> None:
    """Run a contestant in its own process, with output, warnings and logs of libraries silenced."""
    os.environ.update({name: str(value) for name, value in environment.items()})
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            marks = Marks(channel, job.get("device", "cpu"))
            results = contest(job, marks)
        channel.send({**results, "peak_device_mib": marks.device_bytes / MIB})
    except Exception:  # noqa: BLE001 (raised again in the parent, of whatever type)
        channel.send({"failed": traceback.format_exc()})
