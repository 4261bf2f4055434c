"""Time batches whose rows go through one adapter or through their own, in a process of its own."""

from __future__ import annotations

from typing import Any

import _models
import torch
from _limit import span
from _reading import inputs_of
from _rounds import Marks
from _work import LORA_RANK, SIZES, Size
from torch import nn

from kadapter.configuration_kadapter import KnowledgeAdapterConfig
from kadapter.modeling_kadapter import KAdapterModel
from kadapter.prenorm_kadapter import PreNormAdapterConfig


def contest(job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Read batches; return the milliseconds of a batch, by the clock and of the CPU.

    A job has the keys contestant, size, adapters, batch, length, repeats, device, threads and round.
    """
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["round"])
    size, device, (method, _, way) = SIZES[job["size"]], job["device"], job["contestant"].partition("-")
    names = [f"adapter{index}" for index in range(job["adapters"] if way == "mixed" else 1)]
    model = MODELS[method](size, names).to(device).eval()
    inputs = [inputs_of(size, [job["length"]] * job["batch"], device) for _ in range(job["repeats"])]
    rows = {"adapter_names": [names[row % len(names)] for row in range(job["batch"])]} if way == "mixed" else {}
    with torch.inference_mode():
        for warmup in inputs[:2]:
            model(**warmup, **rows)
        marks.begin()
        taken = [span(lambda batch=batch: model(**batch, **rows), device) for batch in inputs]
        marks.end()
    return {
        "milliseconds": 1000 * sum(each.wall for each in taken) / len(taken),
        "cpu_milliseconds": 1000 * sum(each.cpu for each in taken) / len(taken),
    }


def plain(size: Size, names: list[str]) -> nn.Module:
    """Return the encoder alone."""
    return _models.backbone(size)


def ours(size: Size, names: list[str], shape: KnowledgeAdapterConfig | None = None) -> nn.Module:
    """Return knowledge adapters of these names beside an encoder, whose contributions say something."""
    adapters = dict.fromkeys(names, shape or _models.adapter_config(size))
    return KAdapterModel.from_backbone(_models.backbone(size), adapters=adapters, fusion="delta")


def lean(size: Size, names: list[str]) -> nn.Module:
    """Return lean adapters of half the published width."""
    width, heads = size.adapter_width // 2, size.adapter_heads // 2
    shape = PreNormAdapterConfig(hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads)
    return ours(size, names, shape)


def lora(size: Size, names: list[str]) -> nn.Module:
    """Return an encoder with LoRA weights of PEFT of these names, none of them zeros."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=LORA_RANK, target_modules=["query", "value"], init_lora_weights=False)
    model = get_peft_model(_models.backbone(size), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    return model


MODELS = {"backbone": plain, "ours": ours, "lean": lean, "lora": lora}
