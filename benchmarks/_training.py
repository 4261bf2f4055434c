"""Time a contestant's training steps, in its own process."""

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
import torch.distributed as dist
from _limit import Time, fractions, matrix_peak, now, since
from _profile import Profiled
from _rounds import Marks
from _work import COMPILED, FRUGAL, QUANTIZED, SIZES, Size, training_step
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

LESS_MEMORY = {"optim": "adafactor", "max_grad_norm": 0.0, "free_gradients": True}
PADDING = {"input_ids": _models.PAD, "entity_positions": 0, "labels": 0}


def contest(job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Train a contestant for some steps; return its rate, the limit, and the share of the limit that it reached.

    A job has the keys contestant, size, batch, steps, warmup, longest, lengths, adapters, bf16, device, threads and
    round. Optional keys are processes, which share each batch; corpus, a number of sentences of which the steps train
    on only a few; and profile, to return each operation's share of the time.
    """
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["round"])
    if job.get("processes", 1) > 1:
        meet(job)
    if job["contestant"].startswith("ours"):
        # as its trainer does, but before the products that measure the limit
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
        "bits": 8 * dtype.itemsize,
        "mflop_per_token": operations / sum(lengths) / 1e6,
        **fractions(operations, taken, peaks),
        **({"shares": profiled.shares()} if profiled else {}),
    }


def examples(job: dict[str, Any]) -> Dataset:
    """Make sentences of random tokens for the warm-up and measured steps.

    Their lengths are those of the first batches of a corpus that is large enough to form batches with little padding.
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
    """Return the order in which all contestants except official train on sentences of these lengths."""
    return GlobalBatchSampler(lengths, job["batch"], True, job["round"])


# ---- several processes --------------------------------------------------------------------------------------------


def meet(job: dict[str, Any]) -> None:
    """Wait for the other processes; on GPUs, each takes a GPU of its own."""
    if job["device"] != "cpu":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo" if job["device"] == "cpu" else "nccl")


def limit(size: Size, dtype: torch.dtype, device: str) -> Time:
    """Return the operations a second of matrix products, measured while the other processes measure theirs."""
    if dist.is_initialized():
        dist.barrier()
    return matrix_peak(size.matrix, dtype, device)


def of_all(taken: Time, peaks: list[Time]) -> tuple[Time, list[Time]]:
    """Return the time and the limit of all processes: the longest wall-clock time, the sum of CPU times and rates."""
    if not dist.is_initialized():
        return taken, peaks
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, (taken, Time(*map(max, zip(*peaks, strict=True)))))
    dist.destroy_process_group()
    times, limits = zip(*gathered, strict=True)
    taken = Time(max(time.wall for time in times), sum(time.cpu for time in times))
    return taken, [Time(sum(peak.wall for peak in limits), fmean(peak.cpu for peak in limits))]


# ---- as published -------------------------------------------------------------------------------------------------


def official(job: dict[str, Any], marks: Marks | Profiled) -> tuple[list[int], Time]:
    """Run the steps of the official procedure; return the lengths that were trained on, and the time.

    It uses float32, pads all sentences to the same length, shuffles them, clips gradients, and loops over tensors in
    AdamW.
    """
    model = _models.Official(SIZES[job["size"]]).to(job["device"])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-5, weight_decay=0.0, foreach=False, fused=False)
    pad, data, begin = PadToBatch(PADDING), examples(job).shuffle(seed=job["round"]), now(job["device"])
    for step in range(job["warmup"] + job["steps"]):
        if step == job["warmup"]:
            marks.begin()
            begin = now(job["device"])
        batch = pad([data[step * job["batch"] + index] for index in range(job["batch"])])
        official_step(model, trained, optimizer, to_fixed_length(batch, job["longest"], job["device"]))
    taken = since(begin, job["device"])
    marks.end()
    return data["length"][job["batch"] * job["warmup"] :], taken


def official_step(model: nn.Module, trained: list, optimizer: torch.optim.Optimizer, batch: dict) -> None:
    """Run a step as fac-adapter.py does."""
    loss = model(**batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    model.zero_grad()
    loss.item()


def to_fixed_length(batch: dict[str, torch.Tensor], length: int, device: str) -> dict[str, torch.Tensor]:
    """Pad ids and mask to the length of all batches."""
    missing = length - batch["input_ids"].shape[1]
    for name, value in (("input_ids", _models.PAD), ("attention_mask", 0)):
        batch[name] = nn.functional.pad(batch[name], (0, missing), value=value)
    return {name: tensor.to(device) for name, tensor in batch.items()}


# ---- under transformers' Trainer ----------------------------------------------------------------------------------


def under_the_trainer(job: dict[str, Any], marks: Marks | Profiled) -> tuple[list[int], Time]:
    """Train in batches of similar lengths; return the lengths that were trained on, and the time."""
    corpus = job.get("corpus")
    last = int(not corpus)  # the first epoch fills the cache and meets every length once
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
            **(LESS_MEMORY if job["contestant"] in FRUGAL else {}),
        )
        stopwatch = Stopwatch(marks, job, last)
        settings = {"args": arguments, "callbacks": [stopwatch]}
        if job["contestant"].startswith("ours"):
            ours(job, data, Path(folder, "features"), settings).train()
        else:
            theirs(job, data, settings).train()
    return measured_lengths(data, job, last), stopwatch.taken


def ours(job: dict[str, Any], data: Dataset, folder: Path, settings: dict[str, Any]) -> FeatureTrainer:
    """Return the trainer of run_adapter.py, with a cache in a folder if the contestant uses one."""
    dtype = torch.bfloat16 if job["bf16"] else torch.float32
    model = _models.ours(SIZES[job["size"]], dtype, job["adapters"], job["contestant"] in QUANTIZED)
    if job["contestant"] == COMPILED:
        compile_blocks(model.base_model.backbone)
    cache = CacheArguments(
        cache_features=str(folder) if "cached" in job["contestant"] else None,
        cache_dtype="int8" if job["contestant"] == "ours-cached-8bit" else None,
    )
    features, splits = open_features(cache, model, {"train": data}, settings["args"], verbose=True)
    if job.get("corpus"):
        fill(features, splits["train"], job)
        model.release_backbone()
        give_back()
        keep_freed_memory()  # as in a run that finds all hidden states in its cache
    return FeatureTrainer(
        objective=None,
        model=model,
        features=features,
        train_dataset=splits["train"],
        data_collator=CollateWithCacheIndex(PadToBatch(PADDING)),
        processing_class=SimpleNamespace(pad_token_id=_models.PAD, model_max_length=512),
        **settings,
    )


def theirs(job: dict[str, Any], data: Dataset, settings: dict[str, Any]) -> Trainer:
    """Return transformers' Trainer for the whole encoder, or for the weights that PEFT adds to it."""
    size, contestant = SIZES[job["size"]], job["contestant"]
    model = _models.full(size) if contestant == "full" else _models.low_rank(size, contestant)
    return SameBatches(model=model, train_dataset=data, data_collator=PadToBatch(PADDING), **settings)


class SameBatches(Trainer):
    """The Trainer of transformers with the same batches as ours."""

    def _get_train_sampler(self, train_dataset: Any = None) -> GlobalBatchSampler:
        return GlobalBatchSampler(self.train_dataset["length"], self.args.train_batch_size, True, self.args.data_seed)


def corpus_of(job: dict[str, Any], folder: str) -> Dataset:
    """Make the sentences of a job's corpus, in a file that is mapped into memory as in a real run."""
    disable_progress_bars()
    lengths = _lengths.draw(job["lengths"], job["corpus"], job["longest"], job["round"])
    return Dataset.from_generator(sentences, gen_kwargs={"job": job, "lengths": lengths}, cache_dir=folder)


def fill(features: FeatureStore, data: Dataset, job: dict[str, Any]) -> None:
    """Fill a cache with random hidden states of the sentences that are trained on, since the corpus may not fit."""
    trained = list(in_batches(column(data, "length"), job))[: job["batch"] * (job["warmup"] + job["steps"])]
    examples = data.select(trained)
    indices, lengths = list(examples["cache_index"]), list(examples["length"])
    layout = features.layout
    features.wanted[indices] = True
    for first in range(0, len(indices), job["batch"]):
        batch = slice(first, first + job["batch"])
        shape = (len(layout.layers), len(indices[batch]), max(lengths[batch]), layout.width)
        features.put(indices[batch], torch.randn(shape, dtype=layout.read), lengths[batch])
    features.flush()


def measured_lengths(data: Dataset, job: dict[str, Any], epoch: int) -> list[int]:
    """Return the lengths of the sentences that were trained on after the warm-up steps of an epoch."""
    lengths = list(data["length"])
    first, last = (job["batch"] * step for step in (job["warmup"], job["warmup"] + job["steps"]))
    order = in_batches(lengths, job)
    order.set_epoch(epoch)
    return [lengths[index] for index in list(order)[first:last]]


class Stopwatch(TrainerCallback):
    """A callback that times an epoch, from the end of its last warm-up step to the end of its last step."""

    def __init__(self, marks: Marks | Profiled, job: dict[str, Any], epoch: int) -> None:
        self.marks, self.device = marks, job["device"]
        self.last = (1 + epoch) * (job["warmup"] + job["steps"])
        self.first = self.last - job["steps"]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start or stop the clock after the steps between which the time is measured."""
        if state.global_step == self.first:
            self.marks.begin()
            self.begin = now(self.device)
        elif state.global_step == self.last:
            self.taken = since(self.begin, self.device)
            self.marks.end()
