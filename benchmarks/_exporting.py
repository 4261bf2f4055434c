"""Export an encoder with adapters, and time how a contestant reads batches, in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import _models
import numpy as np
import torch
from _limit import span
from _rounds import Marks
from _work import SIZES
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kadapter.exports.int8 import Calibration
from kadapter.exports.writing import ExportOptions, export
from kadapter.modeling_kadapter import KAdapterModel
from kadapter.runtime import ExportedModel

SENTENCES = sorted((Path(__file__).parents[1] / "quickstart" / "facts").glob("*.txt"))
NUMBER = 100  # sentences that int8 learns from
LONGEST = 200  # characters of such a sentence
NAMES = ("first", "second")


def write(job: dict[str, Any]) -> dict[str, Any]:
    """Write to FOLDER an artifact, an export of each precision, the encoder alone, and another adapter.

    Returns the instructions that PyTorch uses, by which exported graphs and it are compared.
    """
    torch.set_num_threads(job["threads"])
    folder, size = Path(job["folder"]), SIZES[job["size"]]
    backbone, tokenizer = backbone_of(job["source"], folder, job["size"])
    config = _models.adapter_config(size)
    model = KAdapterModel.from_backbone(backbone, adapters=dict.fromkeys(NAMES, config), fusion="delta").eval()
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    model.save_pretrained(folder / "artifact")
    for precision in job["precisions"]:
        learned = Calibration(sentences()) if precision == "int8" else None
        export(model, folder / precision, ExportOptions(precision=precision, calibration=learned), tokenizer)
    plain = KAdapterModel.from_backbone(backbone)
    export(plain, folder / "merged")
    other = KAdapterModel.from_backbone(backbone, adapters={"other": config}, fusion="delta")
    export(other, folder / "other", ExportOptions(adapters_only=True))
    return {"instructions": torch.backends.cpu.get_cpu_capability()}


def backbone_of(source: str | None, folder: Path, size: str) -> tuple[str, Any]:
    """Return the path of the encoder and its tokenizer, random ones where there is no source."""
    if source is not None:
        return source, AutoTokenizer.from_pretrained(source)
    _models.backbone(SIZES[size]).save_pretrained(folder / "backbone")
    words = sorted({word for sentence in sentences() for word in sentence.split()})[: SIZES[size].vocabulary - 10]
    ids = {word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "@", "#", *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return str(folder / "backbone"), PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def sentences() -> list[str]:
    """Return sentences of the quickstart."""
    lines = [line.strip() for path in SENTENCES for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if 0 < len(line) < LONGEST][:NUMBER]


def contest(job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Read batches of each size; return milliseconds, how close features are, and what adding and loading take.

    A job has the keys contestant, folder, size, batches, length, repeats, device, threads and round.
    """
    torch.set_num_threads(job["threads"])
    folder, contestant = Path(job["folder"]), job["contestant"]
    eager = KAdapterModel.from_pretrained(folder / "artifact").eval()
    read, model = as_eager(eager), None
    if contestant != "eager":
        runtime, _, precision = contestant.partition("-")
        model = ExportedModel.from_directory(folder / precision, runtime=runtime, threads=job["threads"])
        read = as_exported(model)
    results: dict[str, Any] = {}
    marks.begin()
    for batch in job["batches"]:
        inputs = tokens(eager, batch, job["length"], seed=job["round"])
        taken = sorted(
            (span(partial(read, inputs), "cpu") for _ in range(job["repeats"] + 2)), key=lambda each: each.wall
        )
        middle = taken[len(taken) // 2]
        results |= {f"ms_{batch}": 1000 * middle.wall, f"cpu_ms_{batch}": 1000 * middle.cpu}
    marks.end()
    ids = inputs["input_ids"]
    results["cosine"] = closeness(
        as_eager(eager)({"input_ids": ids, "attention_mask": torch.ones_like(ids)}), read(inputs)
    )
    return {**results, **adding(model, folder, contestant.partition("-")[0], job["threads"])}


def tokens(model: KAdapterModel, batch: int, length: int, seed: int) -> dict[str, torch.Tensor]:
    """Return random sentences, all of a length."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, model.config.vocab_size, (batch, length), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def as_eager(model: KAdapterModel) -> Callable[[dict[str, torch.Tensor]], np.ndarray]:
    """Return what reads inputs by PyTorch."""

    def read(inputs: dict[str, torch.Tensor]) -> np.ndarray:
        with torch.inference_mode():
            return model(**inputs).last_hidden_state.numpy()

    return read


def as_exported(model: ExportedModel) -> Callable[[dict[str, torch.Tensor]], np.ndarray]:
    """Return what reads inputs by exported graphs."""
    return lambda inputs: model(**{name: tensor.numpy() for name, tensor in inputs.items()}).last_hidden_state


def closeness(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the mean cosine of features with those of PyTorch."""
    lengths = np.linalg.norm(expected, axis=-1) * np.linalg.norm(found, axis=-1)
    return float(((expected * found).sum(axis=-1) / lengths).mean())


def adding(model: ExportedModel | None, folder: Path, runtime: str, threads: int) -> dict[str, float]:
    """Return the milliseconds of adding an adapter to a running model, and of loading a merged one; of PyTorch 0."""
    if model is None:
        return dict.fromkeys(("adding_ms", "loading_ms"), 0.0)
    begin = time.perf_counter()
    model.add_adapter(folder / "other")
    added = time.perf_counter()
    ExportedModel.from_directory(folder / "merged", runtime=runtime, threads=threads)
    return {"adding_ms": 1000 * (added - begin), "loading_ms": 1000 * (time.perf_counter() - added)}
