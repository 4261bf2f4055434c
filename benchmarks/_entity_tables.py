"""Write a table of entity embeddings to disk, and time how a contestant opens it and looks ids up."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from _limit import span
from _rounds import MIB, Marks, Memory
from huggingface_hub import constants

from kadapter.embeddings_kadapter import EntityEmbeddings

LOOKUPS = 50  # of which the median is taken, after as many that are not counted
HOME = "home"  # HF_HOME in which the hash of the table is remembered
STEP = 7  # between the numbers of two entities

Lookup = Callable[[list[str]], Any]


def write(job: dict[str, Any]) -> dict[str, Any]:
    """Write a random table to FOLDER/table, and as .npy with a text file of ids beside it."""
    folder = Path(job["folder"])
    constants.HF_HOME = str(folder / HOME)
    ids = [f"Q{row * STEP}" for row in range(job["rows"])]
    vectors = torch.randn(job["rows"], job["dimension"])
    EntityEmbeddings(ids, vectors, "random").save_pretrained(folder / "table")
    np.save(folder / "transe.npy", vectors.numpy())
    with (folder / "entity2id.txt").open("w", encoding="utf-8") as file:
        file.write(f"{len(ids)}\n")
        file.writelines(f"{name}\t{row}\n" for row, name in enumerate(ids))
    EntityEmbeddings.from_pretrained(folder / "table")  # so that its hash is remembered
    return {}


def contest(job: dict[str, Any], marks: Marks) -> dict[str, float]:
    """Open the table, and look ids up again and again; a tenth of them are not there."""
    torch.set_num_threads(job["threads"])
    folder, first, opened = Path(job["folder"]), "first" in job["contestant"], []
    constants.HF_HOME = str(folder / (f"empty{job['round']}" if first else HOME))
    opening = _dictionary if job["contestant"] == "dictionary" else _mapped
    before = Memory([os.getpid()])
    before.sample()
    marks.begin()
    seconds = span(lambda: opened.append(opening(folder)), "cpu").wall
    draw = np.random.default_rng(job["round"])
    spans = []
    for _ in range(2 * LOOKUPS):
        rows = draw.integers(0, job["rows"] * 10 // 9, job["ids"])
        ids = [f"Q{row * STEP}" for row in rows]
        spans.append(span(lambda ids=ids: opened[0](ids), "cpu"))
    marks.end()
    return {
        "seconds": seconds,
        "milliseconds_of_lookup": 1000 * median(taken.wall for taken in spans[LOOKUPS:]),
        "cpu_milliseconds_of_lookup": 1000 * median(taken.cpu for taken in spans[LOOKUPS:]),
        "anonymous_mib_before": before.anonymous / MIB,
    }


def _mapped(folder: Path) -> Lookup:
    return EntityEmbeddings.from_pretrained(folder / "table").lookup


def _dictionary(folder: Path) -> Lookup:
    """Read the table as the official code does, but for its list of a NumPy array for each row."""
    vectors = np.load(folder / "transe.npy")
    with (folder / "entity2id.txt").open(encoding="utf-8") as file:
        next(file)
        rows = {name: int(row) for name, row in map(str.split, file)}
    nothing = np.zeros(vectors.shape[1], dtype=vectors.dtype)
    return lambda ids: torch.from_numpy(np.stack([vectors[rows[name]] if name in rows else nothing for name in ids]))
