"""Write a backbone and adapters to disk, and time how a contestant loads them in its own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import _models
import torch
from _limit import span
from _rounds import Marks
from _work import SIZES
from huggingface_hub import constants
from transformers import AutoModel
from transformers.utils import logging

from kadapter.modeling_kadapter import KAdapterModel

CHUNK = 2**24  # bytes read at once
HOME = "home"  # HF_HOME in which the identity of the backbone's checkpoint is cached
logging.disable_progress_bar()


def write(job: dict[str, Any]) -> dict[str, Any]:
    """Write a backbone to FOLDER/backbone, and the adapters that a job's "number" asks for to FOLDER/adapterN."""
    folder, size = Path(job["folder"]), SIZES[job["size"]]
    constants.HF_HOME = str(folder / HOME)
    _models.backbone(size, pooler=True).save_pretrained(folder / "backbone")
    model = KAdapterModel.from_backbone(str(folder / "backbone"))
    for number in range(job["number"]):
        name = f"adapter{number}"
        model.add_adapter(name, _models.adapter_config(size))
        model.save_adapter(folder / name, name)
    return {}


def contest(job: dict[str, Any], marks: Marks) -> dict[str, float]:
    """Load the backbone, alone or with adapters, compute an output, and compare the time with plain reading.

    With a job's "first", nothing was loaded before: each "round" has an empty HF_HOME of its own.
    """
    torch.set_num_threads(job["threads"])
    folder, models = Path(job["folder"]), []
    constants.HF_HOME = str(folder / (f"empty{job['round']}" if job["first"] else HOME))
    adapters = [folder / f"adapter{number}" for number in range(job["adapters"])]
    reading = span(lambda: _read([folder / "backbone", *adapters]), "cpu")
    marks.begin()
    loading = span(lambda: models.append(_load(folder, adapters)), "cpu")
    ids = torch.tensor([[0, 5, 6, 2]])
    with torch.inference_mode():
        answering = span(lambda: models[0](input_ids=ids, attention_mask=torch.ones_like(ids)), "cpu")
    marks.end()
    return {
        "seconds": loading.wall,
        "seconds_to_first_answer": loading.wall + answering.wall,
        "cpu_seconds_to_first_answer": loading.cpu + answering.cpu,
        "fraction_of_limit": reading.wall / (loading.wall + answering.wall),
    }


def _load(folder: Path, adapters: list[Path]) -> Any:
    if not adapters:
        return AutoModel.from_pretrained(folder / "backbone")
    return KAdapterModel.from_pretrained([str(adapter) for adapter in adapters])


def _read(folders: list[Path]) -> None:
    for path in (path for folder in folders for path in folder.glob("*.safetensors")):
        with path.open("rb") as handle:
            while handle.read(CHUNK):
                pass
