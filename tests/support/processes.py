"""Real processes that train or save, alone or together, forked from one that has imported the libraries.

Importing them takes seconds of each process that torchrun starts; here one process a worker does it once for all. That
torchrun and accelerate start them too is what tests/training/test_processes.py is about.
"""

import gc
import multiprocessing
import os
import signal
import socket
import sys
from multiprocessing.connection import wait

from kadapter.trainers.common.entry_point import run_program

SECONDS = 300
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([f"kadapter.trainers.{name}" for name in ("run_adapter", "run_task", "run_multitask")])


def start_processes(function, arguments, output, number=1):
    """Start a function in so many processes, which find each other as those of torchrun do.

    Args:
        function: what to run; it must be importable by its name.
        arguments: what is in `sys.argv` after the program's name.
        output: the file, or the pipe with a name, that takes what all of them print.
        number: how many processes there are.
    """
    together = {}
    if number > 1:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(found.getsockname()[1])}
        together |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    processes = []
    for rank in range(number):
        own = together and {**together, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        given = (function, [str(part) for part in arguments], str(output), own)
        processes.append(CONTEXT.Process(target=_run, args=given, daemon=True))
        processes[-1].start()
    return processes


def run_processes(function, arguments, output, number=1):
    """Run a function in so many processes to their end, and return what they printed."""
    output.write_text("", encoding="utf-8")
    processes = start_processes(function, arguments, output, number)
    left = {one.sentinel: one for one in processes}
    while left and (ended := wait(list(left), timeout=SECONDS)):
        for one in ended:
            left.pop(one).join()
        if any(one.exitcode for one in processes):
            break
    kill_processes(processes)  # those that wait for one that failed
    printed = output.read_text(encoding="utf-8")
    assert [one.exitcode for one in processes] == [0] * number, printed
    return printed


def kill_processes(processes):
    """Kill -9 all that still run, before any of them sees that another is gone."""
    running = [process for process in processes if process.is_alive()]
    for sent in (signal.SIGSTOP, signal.SIGKILL):
        for process in running:
            os.kill(process.pid, sent)
    for process in processes:
        process.join()


def _run(function, arguments, output, together):
    gc.freeze()  # what was imported, which each pass of the collector would go through
    os.environ.update(together)
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout.reconfigure(line_buffering=True)
    sys.argv = [function.__module__.rpartition(".")[2], *arguments]
    run_program(function)


def measure_nothing(job, marks):
    """A contestant of a benchmark that takes no time."""
    marks.begin()
    marks.end()
    return {}
