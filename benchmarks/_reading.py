"""One contestant's forward passes over batches of several sizes, timed in its own process."""

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
    """Read batches; return latency, rate and share of the limit for each batch size.

    A job says size, adapters, batches, repeats, longest, lengths, dtype, device, threads and round.
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
    for one in points.values():
        one |= fractions(one.pop("operations"), one.pop("taken"), peaks)
    return {"points": points}


@torch.inference_mode()
def _read(job: dict[str, Any], size: Size, model: torch.nn.Module, batch: int) -> dict[str, Any]:
    """Read batches of one size, drawn as the round says and alike for all contestants."""
    device = job["device"]
    lengths = _lengths.draw(job["lengths"], batch * job["repeats"], job["longest"], job["round"])
    ordered = sorted(lengths, reverse=True)  # as evaluation does, for little padding
    batches = [ordered[first : first + batch] for first in range(0, len(ordered), batch)]
    inputs = [_inputs(size, one, device) for one in batches]
    for one in inputs[:2]:  # the first run finds out where to tap, the second is the first that does
        model(**one)
    taken = [span(lambda one=one: model(**one), device) for one in inputs]
    total = Time(*map(sum, zip(*taken, strict=True)))
    operations = backbone_forward(size, lengths) + job["adapters"] * adapter_forward(size, lengths)
    return {
        "latency_ms": 1000 * median(one.wall for one in taken),
        "tokens_per_second": sum(lengths) / total.wall,
        "tokens_per_cpu_second": sum(lengths) / total.cpu,
        "sentences_per_second": len(lengths) / total.wall,
        "operations": operations,
        "taken": total,
    }


def _inputs(size: Size, lengths: list[int], device: str) -> dict[str, Tensor]:
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()  # (B, S)
    ids = torch.randint(5, size.vocabulary, mask.shape).where(mask.bool(), torch.tensor(_models.PAD))
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
