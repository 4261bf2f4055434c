"""Time a model with a knowledge map, or the training of a map, in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from _limit import span
from _rounds import Marks
from _work import SIZES, Size
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM

from kadapter import EntityEmbeddings, KnowledgeMap, KnowledgeMapConfig, plug

ROWS, DIMENSION = 10_000, 128
RATE = 3e-5


def contest(job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Read or train on batches; return the milliseconds of a batch.

    A job has the keys contestant, size, batch, length, entities, repeats, device, threads and round.
    """
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["round"])
    size, device = SIZES[job["size"]], job["device"]
    table = EntityEmbeddings([f"Q{number}" for number in range(ROWS)], torch.randn(ROWS, DIMENSION), "random")
    model = _language_model(size).to(device)
    knowledge_map = KnowledgeMap(KnowledgeMapConfig.for_table(table), model.get_input_embeddings().embedding_dim)
    step = STEPS[job["contestant"]](model, knowledge_map.to(device), table)
    batches = [
        {name: tensor.to(device) for name, tensor in _batch(size, job).items()} for _ in range(job["repeats"] + 2)
    ]
    for warmup in batches[:2]:
        step(warmup)
    marks.begin()
    taken = [span(partial(step, batch), device).wall for batch in batches[2:]]
    marks.end()
    return {"milliseconds": 1000 * sum(taken) / len(taken)}


def _language_model(size: Size) -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
    )
    return BertForMaskedLM(config).requires_grad_(False).eval()


def _batch(size: Size, job: dict[str, Any]) -> dict[str, Tensor]:
    """Return random sentences whose entities stand apart, each before a masked token."""
    shape = (job["batch"], job["length"])
    slots = torch.arange(1, 1 + 4 * job["entities"], 4).expand(shape[0], -1)  # (B, M)
    labels = torch.full(shape, -100).scatter(1, slots + 2, torch.randint(5, size.vocabulary, slots.shape))
    batch = {
        "input_ids": torch.randint(5, size.vocabulary, shape),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "slots": slots,
        "vectors": torch.randn(*slots.shape, DIMENSION),
        "labels": labels,
    }
    return {name: tensor.to(job["device"]) for name, tensor in batch.items()}


def _inputs(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def _plugged(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**_inputs(batch), "knowledge_slots": batch["slots"], "knowledge_embeds": batch["vectors"]}


def alone(model: nn.Module, knowledge_map: nn.Module, table: Any) -> Callable:
    """Return the reading of sentences without entities."""
    return torch.inference_mode()(lambda batch: model(**_inputs(batch)))


def plugged(model: Any, knowledge_map: Any, table: Any) -> Callable:
    """Return the reading of sentences with entities."""
    plug(model, knowledge_map, table)
    return torch.inference_mode()(lambda batch: model(**_plugged(batch)))


def loop(model: Any, knowledge_map: Any, table: Any) -> Callable:
    """Return a step of training that embeds position by position, as published."""
    words = model.get_input_embeddings().weight

    def forward(batch: dict[str, Tensor]) -> Any:
        embeddings = _by_position(batch, words, knowledge_map)
        return model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"])

    return _trained(knowledge_map, forward)


def _by_position(batch: dict[str, Tensor], words: Tensor, knowledge_map: nn.Module) -> Tensor:
    sentences = []
    for number, ids in enumerate(batch["input_ids"].tolist()):
        slots = {position: order for order, position in enumerate(batch["slots"][number].tolist())}
        rows = [
            knowledge_map(batch["vectors"][number, slots[position]]) if position in slots else words[token]
            for position, token in enumerate(ids)
        ]
        sentences.append(torch.stack(rows))
    return torch.stack(sentences)


def ours(model: Any, knowledge_map: Any, table: Any) -> Callable:
    """Return a step of training with the map plugged in."""
    plug(model, knowledge_map, table)
    return _trained(knowledge_map, lambda batch: model(**_plugged(batch)))


def loop_inputs(model: Any, knowledge_map: Any, table: Any) -> Callable:
    """Return what `loop` does without the model: the embeddings of a batch, and the gradient of the map."""
    words = model.get_input_embeddings().weight
    return _taught(knowledge_map, lambda batch: _by_position(batch, words, knowledge_map))


def ours_inputs(model: Any, knowledge_map: Any, table: Any) -> Callable:
    """Return what `ours` does without the model."""
    words = model.get_input_embeddings()
    return _taught(
        knowledge_map, lambda batch: knowledge_map.embed(words(batch["input_ids"]), batch["slots"], batch["vectors"])
    )


def _taught(knowledge_map: Any, embeddings: Callable) -> Callable:
    knowledge_map.requires_grad_(True)

    def step(batch: dict[str, Tensor]) -> None:
        knowledge_map.zero_grad()
        embeddings(batch).sum().backward()

    return step


def _trained(knowledge_map: Any, forward: Callable) -> Callable:
    """Return a step of Adam on the loss of masked tokens."""
    knowledge_map.requires_grad_(True)
    optimizer = torch.optim.Adam(knowledge_map.parameters(), lr=RATE)

    def step(batch: dict[str, Tensor]) -> None:
        optimizer.zero_grad()
        logits = forward(batch).logits
        F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten()).backward()
        optimizer.step()

    return step


STEPS = {
    "alone": alone,
    "plugged": plugged,
    "loop": loop,
    "ours": ours,
    "loop-inputs": loop_inputs,
    "ours-inputs": ours_inputs,
}
