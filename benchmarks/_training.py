"""One contestant's training steps, timed in its own process."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import _lengths
import _models
import torch
import torch.distributed as together
from _limit import Time, fractions, matrix_peak, now, since
from _profile import Profiled
from _rounds import Marks
from _work import COMPILED, QUANTIZED, SIZES, Size, training_step
from datasets import Dataset, disable_progress_bars
from torch import nn
from transformers import Trainer, TrainerCallback

from kadapter.trainers.common.arguments import RunArguments
from kadapter.trainers.common.backbone_options import compile_blocks
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.common.encoding import column
from kadapter.trainers.common.memory import give_back, keep_freed_memory, limit_native_caches
from kadapter.trainers.common.sampler import POOL, GlobalBatchSampler
from kadapter.trainers.feature_cache.options import CacheArguments, open_features
from kadapter.trainers.feature_cache.store import FeatureStore
from kadapter.trainers.feature_cache.trainer import CollateWithCacheIndex, FeatureTrainer

PADDING = {"input_ids": _models.PAD, "entity_positions": 0, "labels": 0}


def contest(job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Train one contestant for some steps; return its rate, the limit, and the share of the limit that it reached.

    A job says contestant, size, batch, steps, warmup, longest, lengths, adapters, bf16, device, threads and round. It
    may say processes, which share each batch, corpus: the number of sentences that all but a few steps leave alone,
    and profile: that shares of the time are told, operation by operation.
    """
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["round"])
    if job.get("processes", 1) > 1:
        meet(job)
    if job["contestant"].startswith("ours"):
        # as its trainer does, which here comes after products that measure the limit
        limit_native_caches(many_kernels="cached" in job["contestant"])
    size, device = SIZES[job["size"]], job["device"]
    dtype = torch.bfloat16 if job["bf16"] and job["contestant"] != "official" else torch.float32
    peaks = [limit(size, dtype, device)]
    profiled = Profiled(marks, device) if job.get("profile") else None
    trained = official if job["contestant"] == "official" else under_the_trainer
    lengths, taken = trained(job, profiled or marks)
    peaks.append(limit(size, dtype, device))
    taken, peaks = of_all(taken, peaks)
    operations = training_step(job["contestant"], size, lengths, job["adapters"])
    return {
        "tokens_per_second": sum(lengths) / taken.wall,
        "tokens_per_cpu_second": sum(lengths) / taken.cpu,
        "seconds_per_step": taken.wall / job["steps"],
        "mflop_per_token": operations / sum(lengths) / 1e6,
        **fractions(operations, taken, peaks),
        **({"shares": profiled.shares()} if profiled else {}),
    }


def examples(job: dict[str, Any]) -> Dataset:
    """Make as many sentences of random tokens as warm-up and measured steps take.

    Their lengths are those of the first batches of a corpus so large that batches of like length need little padding.
    """
    number = job["batch"] * (job["warmup"] + job["steps"])
    corpus = _lengths.draw(job["lengths"], max(POOL * job["batch"], number), job["longest"], job["round"])
    return Dataset.from_list(list(sentences(job, [corpus[index] for index in list(in_batches(corpus, job))[:number]])))


def sentences(job: dict[str, Any], lengths: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Make a sentence of random tokens of each length."""
    random, words = Random(job["round"]), range(5, SIZES[job["size"]].vocabulary)
    for length in lengths:
        yield {
            "length": length,
            "input_ids": [0, *random.choices(words, k=length - 2), 2],
            "entity_positions": random.sample(range(1, length - 1), 2),
            "labels": random.randrange(_models.RELATIONS),
        }


def in_batches(lengths: list[int], job: dict[str, Any]) -> GlobalBatchSampler:
    """Return the order in which all but the official contestant train on sentences of these lengths."""
    return GlobalBatchSampler(lengths, job["batch"], True, job["round"])


# ---- by several processes -----------------------------------------------------------------------------------------


def meet(job: dict[str, Any]) -> None:
    """Wait for the other processes; on GPUs each takes one."""
    if job["device"] != "cpu":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    together.init_process_group("gloo" if job["device"] == "cpu" else "nccl")


def limit(size: Size, dtype: torch.dtype, device: str) -> Time:
    """Return the operations a second of matrix products, while the other processes measure theirs."""
    if together.is_initialized():
        together.barrier()
    return matrix_peak(size.matrix, dtype, device)


def of_all(taken: Time, peaks: list[Time]) -> tuple[Time, list[Time]]:
    """Return the time and the limit of all processes: what their cores worked, and what they reach side by side."""
    if not together.is_initialized():
        return taken, peaks
    everyone: list[Any] = [None] * together.get_world_size()
    together.all_gather_object(everyone, (taken, Time(*map(max, zip(*peaks, strict=True)))))
    together.destroy_process_group()
    times, limits = zip(*everyone, strict=True)
    taken = Time(max(one.wall for one in times), sum(one.cpu for one in times))
    return taken, [Time(sum(one.wall for one in limits), fmean(one.cpu for one in limits))]


# ---- as published -------------------------------------------------------------------------------------------------


def official(job: dict[str, Any], marks: Marks | Profiled) -> tuple[list[int], Time]:
    """Run the official procedure's steps; return the lengths that were trained on, and the time.

    float32, all sentences padded to one length and in random order, clipping, and AdamW as a loop over tensors.
    """
    model = _models.Official(SIZES[job["size"]]).to(job["device"])
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, weight_decay=0.0, foreach=False, fused=False)
    pad, data, begin = PadToBatch(PADDING), examples(job).shuffle(seed=job["round"]), now(job["device"])
    for step in range(job["warmup"] + job["steps"]):
        if step == job["warmup"]:
            marks.begin()
            begin = now(job["device"])
        rows = [data[step * job["batch"] + row] for row in range(job["batch"])]
        official_step(model, trained, optimizer, to_fixed_length(pad(rows), job["longest"], job["device"]))
    taken = since(begin, job["device"])
    marks.end()
    return data["length"][job["batch"] * job["warmup"] :], taken


def official_step(model: nn.Module, trained: list, optimizer: torch.optim.Optimizer, batch: dict) -> None:
    """One step of fac-adapter.py."""
    loss = model(**batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    model.zero_grad()
    loss.item()


def to_fixed_length(batch: dict[str, torch.Tensor], length: int, device: str) -> dict[str, torch.Tensor]:
    """Pad ids and mask to one length for all batches."""
    missing = length - batch["input_ids"].shape[1]
    for name, value in (("input_ids", _models.PAD), ("attention_mask", 0)):
        batch[name] = nn.functional.pad(batch[name], (0, missing), value=value)
    return {name: one.to(device) for name, one in batch.items()}


# ---- under transformers' Trainer ----------------------------------------------------------------------------------


def under_the_trainer(job: dict[str, Any], marks: Marks | Profiled) -> tuple[list[int], Time]:
    """Train in batches of like length; return the lengths that were trained on, and the time."""
    corpus = job.get("corpus")
    last = int(not corpus)  # the first epoch fills the cache, and sees all lengths once
    with tempfile.TemporaryDirectory(prefix="benchmark_") as folder:
        data = corpus_of(job, folder) if corpus else examples(job)
        arguments = RunArguments(
            output_dir=folder,
            bf16=job["bf16"],
            use_cpu=job["device"] == "cpu",
            per_device_train_batch_size=job["batch"] // job.get("processes", 1),
            num_train_epochs=1 + last,
            max_steps=job["warmup"] + job["steps"] if corpus else -1,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            data_seed=job["round"],
        )
        stopwatch = Stopwatch(marks, job, last)
        settings = {"args": arguments, "callbacks": [stopwatch]}
        if job["contestant"].startswith("ours"):
            ours(job, data, Path(folder, "features"), settings).train()
        else:
            theirs(job, data, settings).train()
    return measured_lengths(data, job, last), stopwatch.taken


def ours(job: dict[str, Any], data: Dataset, folder: Path, settings: dict[str, Any]) -> FeatureTrainer:
    """Return the trainer of run_adapter.py, with a cache in a folder where the contestant has one."""
    dtype = torch.bfloat16 if job["bf16"] else torch.float32
    model = _models.ours(SIZES[job["size"]], dtype, job["adapters"], job["contestant"] in QUANTIZED)
    if job["contestant"] == COMPILED:
        compile_blocks(model.base_model.backbone)
    cache = CacheArguments(
        cache_features=str(folder) if "cached" in job["contestant"] else None,
        cache_dtype="int8" if job["contestant"] == "ours-cached-8bit" else None,
    )
    features, parts = open_features(cache, model, {"train": data}, settings["args"], verbose=True)
    if job.get("corpus"):
        keep(features, parts["train"], job)
        model.release_backbone()
        give_back()
        keep_freed_memory()  # as when all states are there
    return FeatureTrainer(
        objective=None,
        model=model,
        features=features,
        train_dataset=parts["train"],
        data_collator=CollateWithCacheIndex(PadToBatch(PADDING)),
        processing_class=SimpleNamespace(pad_token_id=_models.PAD, model_max_length=512),
        **settings,
    )


def theirs(job: dict[str, Any], data: Dataset, settings: dict[str, Any]) -> Trainer:
    """Return transformers' Trainer of the whole encoder, or of what PEFT puts into it."""
    size, contestant = SIZES[job["size"]], job["contestant"]
    model = _models.full(size) if contestant == "full" else _models.low_rank(size, contestant)
    return SameBatches(model=model, train_dataset=data, data_collator=PadToBatch(PADDING), **settings)


class SameBatches(Trainer):
    """transformers' Trainer with the batches that ours has."""

    def _get_train_sampler(self, train_dataset: Any = None) -> GlobalBatchSampler:
        return GlobalBatchSampler(self.train_dataset["length"], self.args.train_batch_size, True, self.args.data_seed)


def corpus_of(job: dict[str, Any], folder: str) -> Dataset:
    """Make as many sentences as a job says, in a file that is mapped into memory as that of a run is."""
    disable_progress_bars()
    lengths = _lengths.draw(job["lengths"], job["corpus"], job["longest"], job["round"])
    return Dataset.from_generator(sentences, gen_kwargs={"job": job, "lengths": lengths}, cache_dir=folder)


def keep(features: FeatureStore, data: Dataset, job: dict[str, Any]) -> None:
    """Fill a cache with random states of the sentences that are trained on, for which there is room if not for all."""
    trained = list(in_batches(column(data, "length"), job))[: job["batch"] * (job["warmup"] + job["steps"])]
    rows = data.select(trained)
    places, lengths = list(rows["cache_index"]), list(rows["length"])
    layout = features.layout
    features.wanted[places] = True
    for first in range(0, len(places), job["batch"]):
        batch = slice(first, first + job["batch"])
        shape = (len(layout.layers), len(places[batch]), max(lengths[batch]), layout.width)
        features.put(places[batch], torch.randn(shape, dtype=layout.read), lengths[batch])
    features.flush()


def measured_lengths(data: Dataset, job: dict[str, Any], epoch: int) -> list[int]:
    """Return the lengths of the sentences that were trained on after the warm-up steps of an epoch."""
    lengths = list(data["length"])
    first, last = (job["batch"] * one for one in (job["warmup"], job["warmup"] + job["steps"]))
    order = in_batches(lengths, job)
    order.set_epoch(epoch)
    return [lengths[index] for index in list(order)[first:last]]


class Stopwatch(TrainerCallback):
    """Takes the time of one epoch, from the end of its last warm-up step to the end of its last step."""

    def __init__(self, marks: Marks | Profiled, job: dict[str, Any], epoch: int) -> None:
        self.marks, self.device = marks, job["device"]
        self.last = (1 + epoch) * (job["warmup"] + job["steps"])
        self.first = self.last - job["steps"]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the clock."""
        if state.global_step == self.first:
            self.marks.begin()
            self.begin = now(self.device)
        elif state.global_step == self.last:
            self.taken = since(self.begin, self.device)
            self.marks.end()
