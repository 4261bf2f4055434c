"""Train a contestant for so much CPU time, in a process of its own, and measure it on the way."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _rounds import Marks
from datasets import disable_progress_bars
from transformers import AutoModel, TrainerCallback, set_seed

from kadapter import KnowledgeAdapterConfig, PreNormAdapterConfig, TopLayersAdapterConfig
from kadapter.trainers import pretraining
from kadapter.trainers.common.arguments import AdapterArguments, CorpusArguments, RunArguments
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.common.encoding import encode_splits, open_tokenizer
from kadapter.trainers.common.trainer import KAdapterTrainer
from kadapter.trainers.feature_cache.options import CacheArguments, open_features
from kadapter.trainers.feature_cache.trainer import CollateWithCacheIndex, FeatureTrainer

ENDLESS = 10_000  # epochs; the budget ends a run
WARMUP = 0.05  # of the budget
UNCACHED = "-uncached"


def shape_of(contestant: str, width: int) -> KnowledgeAdapterConfig:
    """Return the shape of our adapter that a contestant is named for, beside an encoder of a width."""
    published = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": width // 32}
    kinds: dict[str, KnowledgeAdapterConfig] = {
        "ours-published": KnowledgeAdapterConfig(**published),
        "ours-lean": PreNormAdapterConfig(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1),
        "ours-top-1": TopLayersAdapterConfig(num_hidden_layers=1),
        "ours-top-2": TopLayersAdapterConfig(num_hidden_layers=2),
        "ours-top-3": TopLayersAdapterConfig(num_hidden_layers=3),
    }
    return kinds[contestant.removesuffix(UNCACHED)]


def contest(job: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """Train; return at each fifth of the budget the CPU seconds, and the scores on both halves of what is held out.

    A job has the keys contestant, objective, corpus, data_dir, backbone, sentences, held_out, budget, rate, batch,
    longest, device, threads and seed.
    """
    torch.set_num_threads(job["threads"])
    disable_progress_bars()
    set_seed(job["seed"])
    tokenizer = open_tokenizer(job["backbone"], None, job["longest"])
    flags = AdapterArguments(backbone=job["backbone"], objective=job["objective"], adapter_name="ours")
    objective: Any = pretraining.load(job["objective"])(tokenizer, job["longest"], flags)
    corpus = CorpusArguments(corpus=job["corpus"], data_dir=job["data_dir"], max_length=job["longest"])
    corpus.max_train_samples, corpus.max_eval_samples = job["sentences"], job["held_out"]
    fields, examples = encode_splits(corpus, objective, True, True, False)
    with tempfile.TemporaryDirectory(prefix="benchmark_") as folder:
        trainer, clock = _trainer(job, objective, fields, examples, Path(folder))
        clock.measure(trainer, spent=0.0)  # which also keeps the states of what is held out
        marks.begin()
        trainer.train()
        marks.end()
    trained = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    epochs = trainer.state.global_step * job["batch"] / len(examples["train"])
    return {"points": clock.points[1:], "trained": trained, "epochs": epochs}


def _trainer(
    job: dict[str, Any], objective: Any, fields: dict[str, Any], examples: dict[str, Any], folder: Path
) -> tuple[KAdapterTrainer, Clock]:
    run = RunArguments(
        output_dir=str(folder / "out"),
        use_cpu=job["device"] == "cpu",
        bf16=False,
        per_device_train_batch_size=job["batch"],
        per_device_eval_batch_size=64,
        num_train_epochs=ENDLESS,
        learning_rate=job["rate"],
        lr_scheduler_type="constant",
        weight_decay=0.05,
        label_smoothing_factor=0.1 if job["objective"] == "factual" else 0.0,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job["seed"],
    )
    ours = job["contestant"].startswith("ours")
    model = (_ours if ours else _inside)(job, objective, fields)
    features = None
    if ours and not job["contestant"].endswith(UNCACHED):
        cache = CacheArguments(cache_features=str(folder / "features"))
        features, examples = open_features(cache, model, examples, run, False)
    clock = Clock(job)
    collate: Any = PadToBatch.of(objective, model)
    settings: dict[str, Any] = {
        "model": model,
        "args": run,
        "objective": objective,
        "processing_class": objective.tokenizer,
    }
    settings |= {"train_dataset": examples["train"], "callbacks": [clock]}
    if ours:
        settings |= {"features": features, "data_collator": CollateWithCacheIndex(collate)}
    trainer = FeatureTrainer(**settings) if ours else KAdapterTrainer(data_collator=collate, **settings)
    halves = [examples["eval"].select(range(first, len(examples["eval"]), 2)) for first in (0, 1)]
    clock.trainer, clock.halves = trainer, dict(zip(("validation", "test"), halves, strict=True))
    return trainer, clock


def _ours(job: dict[str, Any], objective: Any, fields: dict[str, Any]) -> Any:
    """Return an adapter outside a frozen encoder, under the objective's head."""
    model = objective.model_class.from_backbone(job["backbone"], **fields, fusion=_fusion(job["contestant"]))
    model.add_adapter("ours", shape_of(job["contestant"], model.config.hidden_size))
    model.train_adapter("ours")
    return model


def _fusion(contestant: str) -> str:
    return "delta" if contestant.startswith("ours-top") else "concat"


def _inside(job: dict[str, Any], objective: Any, fields: dict[str, Any]) -> Any:
    """Return the same head on an encoder with LoRA weights in all Linears of its blocks, or trained as a whole."""
    encoder = AutoModel.from_pretrained(job["backbone"], dtype=torch.float32)
    rank = int(job["contestant"].removeprefix("lora-") if job["contestant"] != "full" else 0)
    if rank:
        from peft import LoraConfig, inject_adapter_in_model

        linears = ["query", "key", "value", "dense"]
        excluded = [name for name, _ in encoder.named_modules() if "pooler" in name]
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linears, exclude_modules=excluded)
        encoder = inject_adapter_in_model(config, encoder)
    model = objective.model_class.from_backbone(encoder, **fields, fusion="add")
    for name, weight in model.base_model.backbone.named_parameters():
        weight.requires_grad_("lora_" in name if rank else "pooler" not in name)
    return model


class Clock(TrainerCallback):
    """A callback that ends a run when its budget of CPU time is spent, and measures at each fifth of it.

    The rate falls with what is left of the budget. What measuring takes does not count; what the encoder's reading
    takes does, except that of what is held out.
    """

    trainer: Any
    halves: dict[str, Any]

    def __init__(self, job: dict[str, Any]) -> None:
        self.budget, self.rate = float(job["budget"]), job["rate"]
        self.points: list[dict[str, float]] = []
        self.began = self.aside = 0.0

    def spent(self) -> float:
        """Return the CPU seconds of the training so far."""
        return time.process_time() - self.began - self.aside

    def measure(self, trainer: Any, spent: float) -> None:
        """Measure the model on both halves of what is held out."""
        scores = {"seconds": spent}
        for name, half in self.halves.items():
            results = trainer.evaluate(half, metric_key_prefix=name)
            scores[name] = results[f"{name}_{trainer.objective.metric}"]
        self.points.append(scores)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.began = time.process_time()

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Set the rate."""
        gone = self.spent() / self.budget
        for group in optimizer.param_groups:
            group["lr"] = self.rate * max(0.0, min(1.0 - gone, (gone + 0.001) / WARMUP))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure where another fifth is spent, and stop where all is."""
        spent, paused = self.spent(), time.process_time()
        if spent >= len(self.points) * self.budget / 5:
            self.measure(self.trainer, spent)
            self.aside += time.process_time() - paused
        control.should_training_stop = spent >= self.budget
