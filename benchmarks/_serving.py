"""Write an exported model with two adapters and two heads, and load a server of it, in a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import numpy as np
from _rounds import Marks

ROOT = Path(__file__).parents[1]
ADAPTERS = ("first", "second")
HEADS = ("own", "topics")
STARTED = "Uvicorn running on "
SECONDS = 60.0  # after which a request that has no answer ends the benchmark


def write(job: dict[str, Any]) -> dict[str, Any]:
    """Write to FOLDER a model for pairs of mentions with two adapters, and beside it a head for texts."""
    import _models
    import torch
    from _exporting import backbone_of
    from _work import SIZES

    from kadapter.exports.writing import ExportOptions, export
    from kadapter.heads_kadapter import KAdapterForEntityPairClassification, KAdapterForSequenceClassification

    torch.set_num_threads(job["threads"])
    folder = Path(job["folder"])
    backbone, tokenizer = backbone_of(job["source"], folder, job["size"])
    config = _models.adapter_config(SIZES[job["size"]])
    shape = {"adapters": dict.fromkeys(ADAPTERS, config), "fusion": "delta", "num_labels": 16}
    for name, model_class in zip(
        HEADS, (KAdapterForEntityPairClassification, KAdapterForSequenceClassification), strict=True
    ):
        torch.manual_seed(0)  # the same adapters for both heads, since their weights are drawn first
        model = model_class.from_backbone(backbone, **shape).eval()
        export(model, folder / name, ExportOptions(), tokenizer)
    return {"instructions": torch.backends.cpu.get_cpu_capability()}


def contest(job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Load a server with requests; return requests a second, latencies in milliseconds, and requests a pass.

    A job has the keys contestant, folder, clients, requests, warmup, batch, threads and round.
    """
    with server(job) as address:
        asyncio.run(load(address, job, job["warmup"], seed=-1))
        before = asyncio.run(counted(address))
        begin = time.perf_counter()
        latencies = asyncio.run(load(address, job, job["requests"], seed=job["round"]))
        taken = time.perf_counter() - begin
        after = asyncio.run(counted(address))
    answered, passes = (after[key] - before[key] for key in ("answered", "passes"))
    median, late = np.percentile(latencies, [50, 95])
    return {
        "requests_per_second": len(latencies) / taken,
        "median_ms": 1000 * median,
        "late_ms": 1000 * late,
        "requests_per_pass": answered / passes,
    }


@contextmanager
def server(job: dict[str, Any]) -> Iterator[str]:
    """Start a server in a process of its own, and yield its address.

    Raises:
        RuntimeError: it does not start.
    """
    folder, said = Path(job["folder"]), []
    command = [sys.executable, str(ROOT / "examples" / "server.py"), str(folder / HEADS[0]), "--port", "0"]
    command += ["--head", f"{HEADS[1]}={folder / HEADS[1]}", "--batch", str(job["batch"])]
    command += ["--threads", str(job["threads"])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                said.append(line)
                if STARTED in line:
                    yield line.partition(STARTED)[2].split()[0]
                    return
            raise RuntimeError(f"the server did not start: {''.join(said)[-500:]}")
        finally:
            process.terminate()


async def load(address: str, job: dict[str, Any], number: int, seed: int) -> list[float]:
    """Send a number of requests by so many clients, each as soon as its last is answered; return their seconds."""
    requests, latencies = iter(list(drawn(number, seed))), []

    async def client(http: aiohttp.ClientSession) -> None:
        for request in requests:
            begin = time.perf_counter()
            async with http.post(f"{address}/predict", json=request) as answer:
                answer.raise_for_status()
                await answer.read()
            latencies.append(time.perf_counter() - begin)

    limits = aiohttp.TCPConnector(limit=job["clients"])
    async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(SECONDS)) as http:
        await asyncio.gather(*(client(http) for _ in range(job["clients"])))
    return latencies


async def counted(address: str) -> dict[str, int]:
    """Return how many requests a server has answered, and in how many passes."""
    async with aiohttp.ClientSession() as http, http.get(address) as answer:
        return await answer.json()


def drawn(number: int, seed: int) -> Iterator[dict[str, Any]]:
    """Draw requests for both heads and all choices of adapters, of the sentences of the quickstart."""
    from _exporting import sentences

    random, texts = Random(seed), sentences()
    for _ in range(number):
        text = random.choice(texts)
        request: dict[str, Any] = {"text": text, "head": random.choice(HEADS)}
        request["adapter_names"] = random.choice([*ADAPTERS, list(ADAPTERS)])
        if request["head"] == HEADS[0]:
            middle = text.index(" ")
            request["entity_spans"] = [[0, middle], [middle + 1, len(text)]]
        yield request
