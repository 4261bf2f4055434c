"""Time a language model that generates, or the training of what is beside or in it, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from _limit import span
from _rounds import Marks
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from kadapter import KAdapterForCausalLM, PreNormAdapterConfig
from kadapter.trainers.common.kept_texts import KeptTexts
from kadapter.trainers.common.locality import Locality

SIZES: dict[str, dict[str, Any]] = {
    "smollm2": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 60,
    },
}
RATE, RANK, LEARNED, WEIGHT = 1e-3, 16, 2, 10.0
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def contest(job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Generate or train; return the milliseconds of a generation or a step, by the clock and of the CPU.

    A job has the keys contestant, size, batch, length, new_tokens, repeats, device, threads and round.
    """
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["round"])
    work = CONTESTANTS[job["contestant"]](job)
    for _ in range(2):
        work()
    marks.begin()
    taken = [span(work, job["device"]) for _ in range(job["repeats"])]
    marks.end()
    return {
        "milliseconds": 1000 * sum(each.wall for each in taken) / len(taken),
        "cpu_milliseconds": 1000 * sum(each.cpu for each in taken) / len(taken),
    }


def decoder(job: dict[str, Any]) -> LlamaForCausalLM:
    """Return a language model with random weights."""
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    config = LlamaConfig(**SIZES[job["size"]], **special, tie_word_embeddings=True)
    return LlamaForCausalLM(config).requires_grad_(False).eval().to(job["device"])


def beside(job: dict[str, Any], number: int) -> KAdapterForCausalLM:
    """Return a language model with adapters beside it, whose up-projections are no zeros."""
    size = SIZES[job["size"]]
    last = size["num_hidden_layers"] - 1
    width = min(192, size["hidden_size"] // 2)
    shape = {"layers": [0, last // 2, last], "hidden_size": width, "projection_initializer_range": 0.02}
    shape |= {"num_attention_heads": max(1, width // 64)}
    adapters = {f"adapter{index}": PreNormAdapterConfig(**shape) for index in range(number)}
    return KAdapterForCausalLM.from_backbone(decoder(job), adapters=adapters).to(job["device"])


def tokens(job: dict[str, Any], number: int) -> Tensor:
    """Return random tokens, (number, length)."""
    return torch.randint(3, SIZES[job["size"]]["vocab_size"], (number, job["length"]), device=job["device"])


# ---- generating -----------------------------------------------------------------------------------------------------


def generating(job: dict[str, Any]) -> Callable[[], Any]:
    """Return what continues prompts, greedily and with the cache, by the model alone or with two adapters."""
    who, _, number = job["contestant"].partition("-")
    model: Any = (beside(job, 2) if who == "ours" else decoder(job)).eval()
    ids = tokens(job, int(number))
    length = {"min_new_tokens": job["new_tokens"], "max_new_tokens": job["new_tokens"]}
    return partial(model.generate, ids, attention_mask=torch.ones_like(ids), do_sample=False, **length)


# ---- training -------------------------------------------------------------------------------------------------------


def low_rank(job: dict[str, Any]) -> Callable[[], None]:
    """Return a training step of LoRA weights in all Linears of the blocks."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(decoder(job), LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEARS)).train()
    ids = tokens(job, job["batch"])
    labels = _labels(ids)

    def loss() -> Tensor:
        return model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss

    return step(model, loss)


def kept(job: dict[str, Any]) -> Callable[[], None]:
    """Return a training step of an adapter on kept states, held back on as many other texts or not."""
    model = beside(job, 1)
    model.train_adapter("adapter0")
    ids, others = tokens(job, job["batch"]), tokens(job, job["batch"])
    mask, positions = torch.ones_like(ids), torch.arange(job["length"] - LEARNED - 1, job["length"] - 1)
    with torch.no_grad():
        states, unrelated = (model.base_model.tap(each, mask) for each in (ids, others))
    model.release_backbone()
    flat = {layer: tensor.flatten(0, 1).cpu() for layer, tensor in unrelated.items()}
    square = float(unrelated[-1].square().mean())
    term = Locality(KeptTexts(flat, np.full(job["batch"], job["length"]), square), WEIGHT, job["batch"], 0)
    labels, at = _labels(ids), positions.to(ids).expand(len(ids), -1)

    def loss() -> Tensor:
        own = {"hidden_states": states, "labels": labels, "logits_to_keep": at}
        learned = model(input_ids=ids, attention_mask=mask, **own).loss
        held_back = job["contestant"] == "ours-held-back"
        return learned + WEIGHT * term.share(model.base_model, 0, 0, 1) if held_back else learned

    return step(model.train(), loss)


def _labels(ids: Tensor) -> Tensor:
    """Return the last tokens as labels; the others teach nothing."""
    return torch.cat([torch.full_like(ids[:, :-LEARNED], -100), ids[:, -LEARNED:]], dim=1)


def step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a step of AdamW on what has gradients."""
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=RATE)

    def train() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


CONTESTANTS: dict[str, Callable[[dict[str, Any]], Callable[[], Any]]] = {
    **dict.fromkeys(("generate-1", "generate-8", "ours-1", "ours-8"), generating),
    "lora": low_rank,
    **dict.fromkeys(("ours", "ours-held-back"), kept),
}
