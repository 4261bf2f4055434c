"""Time a model with a knowledge map, or the training of a map, in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any

import _lengths
import torch
from _limit import Time, span
from _rounds import Marks
from _training import Stopwatch
from _work import SIZES, Size
from datasets import Dataset
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM

from kadapter import EntityEmbeddings, KAdapterForMaskedLM, KnowledgeMap, KnowledgeMapConfig, plug
from kadapter.processing_kadapter import KnowledgeSource
from kadapter.trainers.common.arguments import RunArguments
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.common.knowledge import COLUMNS, Knowledge
from kadapter.trainers.common.sampler import POOL
from kadapter.trainers.feature_cache.trainer import CollateWithCacheIndex, FeatureTrainer
from kadapter.trainers.pretraining.mention_masked_lm import IGNORED, VARIANTS

ROWS, DIMENSION = 10_000, 128
RATE, WARMUP = 3e-5, 2
MASK, FIRST_WORD = 3, 5  # ids of tokens
LARGEST_VOCABULARY = 30_522  # BERT's
SHORTEST = 10  # tokens of a sentence that holds two entities with their mentions
PADDING = {"input_ids": 0, "positions": -1, "labels": IGNORED, **COLUMNS}


def contest(job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Read or train on batches; return the milliseconds of a batch, by the clock and of CPU time.

    A job has the keys contestant, size, batch, length, lengths, repeats, bf16, device, threads and round.
    """
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["round"])
    taken = CONTESTANTS[job["contestant"]](job, marks)
    each = {"milliseconds": taken.wall, "cpu_milliseconds": taken.cpu}
    # clocks of CPU time may stand still for as long as the smallest batches take
    return {name: 1000 * max(seconds, 1e-9) / job["repeats"] for name, seconds in each.items()}


def _language_model(size: Size, **settings: Any) -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=_vocabulary(size),
        hidden_size=size.width,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        **settings,
    )
    return BertForMaskedLM(config).eval()


def _vocabulary(size: Size) -> int:
    return min(size.vocabulary, LARGEST_VOCABULARY)


def _table() -> EntityEmbeddings:
    return EntityEmbeddings([f"Q{number}" for number in range(ROWS)], torch.randn(ROWS, DIMENSION), "random")


def _examples(job: dict[str, Any], number: int, length: int | None = None) -> list[dict[str, Any]]:
    """Return sentences of random tokens with two entities, each before a mention of two tokens, some of them masked.

    Their lengths, entities included, are those of a corpus, unless one is given; longer ones are left out, as the
    official code leaves them out.
    """
    random, words = Random(job["round"]), range(FIRST_WORD, _vocabulary(SIZES[job["size"]]))
    fitting = [length] if length else [own for own in job["lengths"] if SHORTEST <= own <= job["length"]]
    examples = []
    for order, own in enumerate(_lengths.draw(fitting, number, job["length"], job["round"])):
        ids, slots = random.choices(words, k=own), [1, own // 2]
        positions = [slots[mention] + after for mention in VARIANTS[order % len(VARIANTS)] for after in (2, 3)]
        labels = [ids[position] for position in positions]
        for position in positions:
            ids[position] = MASK
        rows = random.sample(range(ROWS), 2)
        columns = dict(zip(COLUMNS, (slots, rows), strict=True))
        examples.append({"input_ids": ids, "positions": positions, "labels": labels, **columns, "length": own})
    return examples


def _batches(job: dict[str, Any], table: EntityEmbeddings, length: int | None = None) -> list[dict[str, Tensor]]:
    """Return padded batches in random order, whose entities were looked up."""
    complete = Knowledge(KnowledgeSource(table)).complete
    pad = PadToBatch(PADDING, job["length"], complete)
    examples = _examples(job, job["batch"] * (WARMUP + job["repeats"]), length)
    firsts = range(0, len(examples), job["batch"])
    padded = [pad(examples[first : first + job["batch"]]) for first in firsts]
    return [{name: tensor.to(job["device"]) for name, tensor in batch.items()} for batch in padded]


def _timed(step: Callable, batches: list[dict[str, Tensor]], job: dict[str, Any], marks: Marks) -> Time:
    """Return the time of all batches but the first, which warm up."""
    for batch in batches[:WARMUP]:
        step(batch)
    marks.begin()
    taken = [span(partial(step, batch), job["device"]) for batch in batches[WARMUP:]]
    marks.end()
    return Time(*map(sum, zip(*taken, strict=True)))


# ---- reading sentences that are all as long -------------------------------------------------------------------------


def reading(job: dict[str, Any], marks: Marks, *, entities: bool) -> Time:
    """Read sentences with a map plugged in, or without entities by the model alone."""
    table, model = _table(), _language_model(SIZES[job["size"]]).requires_grad_(False).to(job["device"])
    names = ["input_ids", "attention_mask"]
    if entities:
        plug(model, KnowledgeMap(KnowledgeMapConfig.for_table(table), _width(model)).to(job["device"]), table)
        names += ["knowledge_slots", "knowledge_embeds"]
    step = torch.inference_mode()(lambda batch: model(**{name: batch[name] for name in names}))
    return _timed(step, _batches(job, table, job["length"]), job, marks)


def _width(model: nn.Module) -> int:
    return model.get_input_embeddings().embedding_dim  # type: ignore[operator]  # a model of transformers


# ---- training as published ------------------------------------------------------------------------------------------


def official(job: dict[str, Any], marks: Marks) -> Time:
    """Train a map as MapTuning.py does.

    Every sentence is padded to the same length and embedded position by position, the LM head reads all positions, all
    is in float32, and of the weights that do not train gradients are computed too, and added up in every step.
    """
    table, model = _table(), _language_model(SIZES[job["size"]], attn_implementation="eager").to(job["device"])
    knowledge_map = KnowledgeMap(KnowledgeMapConfig.for_table(table), _width(model)).to(job["device"])
    knowledge_map.requires_grad_(True)
    words = model.get_input_embeddings().weight.detach()
    optimizer = torch.optim.Adam(knowledge_map.parameters(), lr=RATE)

    def step(batch: dict[str, Tensor]) -> None:
        embeddings = by_position(batch, words, knowledge_map)
        logits = model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"]).logits
        labels = torch.full_like(batch["input_ids"], IGNORED)
        masked = batch["positions"] >= 0
        labels[masked.nonzero()[:, 0], batch["positions"][masked]] = batch["labels"][masked]
        optimizer.zero_grad()
        F.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        optimizer.step()

    return _timed(step, _batches(job, table), job, marks)


def by_position(batch: dict[str, Tensor], words: Tensor, knowledge_map: nn.Module) -> Tensor:
    """Return the embeddings of a batch, (batch, sequence, hidden), each looked up or mapped by itself."""
    sentences = []
    for number, ids in enumerate(batch["input_ids"].tolist()):
        slots = {position: order for order, position in enumerate(batch["knowledge_slots"][number].tolist())}
        rows = [
            knowledge_map(batch["knowledge_embeds"][number, slots[position]]) if position in slots else words[token]
            for position, token in enumerate(ids)
        ]
        sentences.append(torch.stack(rows))
    return torch.stack(sentences)


# ---- training under run_adapter.py's trainer ------------------------------------------------------------------------


def ours(job: dict[str, Any], marks: Marks) -> Time:
    """Train a map as run_adapter.py does with the objective mention_masked_lm."""
    table, dtype = _table(), torch.bfloat16 if job["bf16"] else torch.float32
    settings = {} if job["bf16"] else {"attn_implementation": "eager"}
    model = KAdapterForMaskedLM.from_backbone(_language_model(SIZES[job["size"]], **settings).to(dtype), fusion="add")
    model.add_adapter("wikidata", KnowledgeMapConfig.for_table(table))
    model.train_adapter("wikidata")
    steps = WARMUP + job["repeats"]
    corpus = _examples(job, job["batch"] * max(POOL, steps))
    stopwatch = Stopwatch(marks, {**job, "warmup": WARMUP, "steps": job["repeats"]}, 0)
    with tempfile.TemporaryDirectory(prefix="benchmark_") as folder:
        arguments = RunArguments(
            output_dir=folder,
            bf16=job["bf16"],
            use_cpu=job["device"] == "cpu",
            per_device_train_batch_size=job["batch"],
            max_steps=steps,
            learning_rate=RATE,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            data_seed=job["round"],
        )
        FeatureTrainer(
            objective=None,
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(corpus),
            data_collator=CollateWithCacheIndex(PadToBatch(PADDING, None, Knowledge(KnowledgeSource(table)).complete)),
            processing_class=SimpleNamespace(pad_token_id=0, model_max_length=512),
            callbacks=[stopwatch],
        ).train()
    return stopwatch.taken


# ---- the embeddings of a batch, and the gradient of the map, without the model --------------------------------------


def inputs(job: dict[str, Any], marks: Marks, *, together: bool) -> Time:
    """Embed batches and take the gradient of the map, all entities together or position by position."""
    table, size = _table(), SIZES[job["size"]]
    words = nn.Embedding(_vocabulary(size), size.width).requires_grad_(False).to(job["device"])
    knowledge_map = KnowledgeMap(KnowledgeMapConfig.for_table(table), size.width).requires_grad_(True)
    knowledge_map.to(job["device"])

    def step(batch: dict[str, Tensor]) -> None:
        knowledge_map.zero_grad()
        slots = [batch[name] for name in ("knowledge_slots", "knowledge_embeds")]
        embeddings = (
            knowledge_map.embed(words(batch["input_ids"]), *slots)
            if together
            else by_position(batch, words.weight, knowledge_map)
        )
        embeddings.sum().backward()

    return _timed(step, _batches(job, table, job["length"]), job, marks)


CONTESTANTS: dict[str, Callable[[dict[str, Any], Marks], Time]] = {
    "alone": partial(reading, entities=False),
    "plugged": partial(reading, entities=True),
    "official": official,
    "ours": ours,
    "official-inputs": partial(inputs, together=False),
    "ours-inputs": partial(inputs, together=True),
}
