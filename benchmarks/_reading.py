"""Time a contestant's forward passes over batches of several sizes, in its own process."""

from __future__ import annotations

from statistics import median
from typing import Any

import _lengths
import _models
import torch
from _limit import Time, fractions, matrix_peak, span
from _rounds import Marks
from _work import SIZES, Size, adapter_forward, backbone_forward
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def contest(job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Run forward passes; return latency, rate and share of the limit for each batch size.

    A job has the keys size, adapters, batches, repeats, longest, lengths, dtype, device, threads and round.
    """
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["round"])
    size, dtype, device = SIZES[job["size"]], DTYPES[job["dtype"]], job["device"]
    peaks = [matrix_peak(size.matrix, dtype, device)]
    model = _models.composed(size, dtype, job["adapters"]).to(device)
    marks.begin()
    points = {str(batch): _read(job, size, model, batch) for batch in job["batches"]}
    marks.end()
    peaks.append(matrix_peak(size.matrix, dtype, device))
    for point in points.values():
        point |= fractions(point.pop("operations"), point.pop("taken"), peaks)
    return {"points": points}


@torch.inference_mode()
def _read(job: dict[str, Any], size: Size, model: torch.nn.Module, batch: int) -> dict[str, Any]:
    """Run forward passes over batches of a size; the round seeds their lengths, equally for all contestants."""
    device = job["device"]
    lengths = _lengths.draw(job["lengths"], batch * job["repeats"], job["longest"], job["round"])
    ordered = sorted(lengths, reverse=True)  # as in evaluation, for little padding
    batches = [ordered[first : first + batch] for first in range(0, len(ordered), batch)]
    inputs = [inputs_of(size, sentences, device) for sentences in batches]
    for warmup in inputs[:2]:  # the first pass locates the tapped modules, and the second is the first to tap them
        model(**warmup)
    taken = [span(lambda batch=batch: model(**batch), device) for batch in inputs]
    total = Time(*map(sum, zip(*taken, strict=True)))
    operations = backbone_forward(size, lengths) + job["adapters"] * adapter_forward(size, lengths)
    return {
        "latency_ms": 1000 * median(each.wall for each in taken),
        "tokens_per_second": sum(lengths) / total.wall,
        "tokens_per_cpu_second": sum(lengths) / total.cpu,
        "sentences_per_second": len(lengths) / total.wall,
        "operations": operations,
        "taken": total,
    }


def inputs_of(size: Size, lengths: list[int], device: str) -> dict[str, Tensor]:
    """Return random sentences of these lengths, padded to the longest, and their mask."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()  # (B, S)
    ids = torch.randint(5, size.vocabulary, mask.shape).where(mask.bool(), torch.tensor(_models.PAD))
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
