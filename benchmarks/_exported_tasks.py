"""Export an encoder with an adapter for each task, and merged models, and time either in a process of its own."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import _models
import numpy as np
import torch
from _limit import span
from _rounds import Marks
from _work import SIZES

from kadapter.exports.writing import ExportOptions, export
from kadapter.modeling_kadapter import KAdapterModel
from kadapter.runtime import ExportedModel

ENCODER, MERGED, OTHER = "encoder", "merged-{}", "other"


def write(job: dict[str, Any]) -> dict[str, Any]:
    """Write to FOLDER an encoder with an adapter a task, an adapter more, and a merged model a task and one more."""
    torch.set_num_threads(job["threads"])
    folder, size = Path(job["folder"]), SIZES[job["size"]]
    config = _models.adapter_config(size)
    plain = _models.backbone(size).eval()
    export(KAdapterModel.from_backbone(plain), folder / MERGED.format(0))
    for number in range(1, job["tasks"] + 1):
        shutil.copytree(folder / MERGED.format(0), folder / MERGED.format(number))
    adapters = {f"task-{number}": config for number in range(job["tasks"])}
    export(KAdapterModel.from_backbone(plain, adapters=adapters, fusion="delta"), folder / ENCODER)
    other = KAdapterModel.from_backbone(plain, adapters={OTHER: config}, fusion="delta")
    export(other, folder / OTHER, ExportOptions(adapters_only=True))
    return {"instructions": torch.backends.cpu.get_cpu_capability()}


def contest(job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Ask every task of batches of each size; return milliseconds, and what a further task takes.

    A job has the keys contestant, folder, tasks, batches, length, repeats, runtime, size, device, threads and round.
    """
    folder, tasks, merged = Path(job["folder"]), range(job["tasks"]), job["contestant"] == "merged"
    opened = partial(ExportedModel.from_directory, runtime=job["runtime"], threads=job["threads"])
    models = [opened(folder / name) for name in (map(MERGED.format, tasks) if merged else [ENCODER])]
    drawn = np.random.default_rng(job["round"])
    results: dict[str, Any] = {}
    marks.begin()
    for batch in job["batches"]:
        ids = drawn.integers(5, SIZES[job["size"]].vocabulary, (batch, job["length"]))
        ask = partial(ask_merged if merged else ask_adapters, models, ids)
        taken = sorted((span(ask, "cpu") for _ in range(job["repeats"] + 1)), key=lambda each: each.wall)
        middle = taken[(len(taken) - 1) // 2]
        results |= {f"ms_{batch}": 1000 * middle.wall, f"cpu_ms_{batch}": 1000 * middle.cpu}
    marks.end()
    begin = time.perf_counter()
    if merged:
        models.append(opened(folder / MERGED.format(job["tasks"])))
    else:
        models[0].add_adapter(folder / OTHER)
    return {**results, "adding_ms": 1000 * (time.perf_counter() - begin)}


def ask_merged(models: list[ExportedModel], ids: np.ndarray) -> list[np.ndarray | None]:
    """Return the features of each text for each task, by a model of its own."""
    return [model(ids).last_hidden_state for model in models]


def ask_adapters(models: list[ExportedModel], ids: np.ndarray) -> np.ndarray | None:
    """Return the features of each text for each task, by the adapters of one model, in rows of text after text."""
    model = models[0]
    names = model.adapters
    return model(np.repeat(ids, len(names), axis=0), adapter_names=names * len(ids)).last_hidden_state
