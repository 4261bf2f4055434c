"""Teach a decoder itself what an adapter is taught: every weight of it, or what PEFT puts into it or before it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import torch
from transformers import DynamicCache, set_seed

from kadapter import KAdapterForCausalLM
from kadapter.trainers import pretraining
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.common.encoding import encode_splits, open_tokenizer
from kadapter.trainers.common.trainer import KAdapterTrainer
from kadapter.trainers.many_adapters.variants import Settings

RANK = 16  # of LoRA weights
TOKENS = 64  # of a prefix
Chooser = Callable[[list[str]], None]
Decoder = tuple[Any, Chooser]  # and what lets those of these names act and train, where it holds several


def decoder(how: str, settings: Settings, names: Sequence[str]) -> Decoder:
    """Return a new decoder that is to be taught in one of the ways of `WAYS`; only LoRA weights have names."""
    set_seed(settings.run.seed)
    model: Any = KAdapterForCausalLM.from_backbone(settings.adapter.backbone)
    return WAYS[how](model.requires_grad_(False), settings, names)


def lora(model: Any, settings: Settings, names: Sequence[str]) -> Decoder:
    """Put LoRA weights of these names into all Linears of the blocks."""
    from peft import LoraConfig, LoraModel

    weights = {name: LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear") for name in names}
    injected: Any = LoraModel(model.base_model.backbone, weights, names[0])  # into the backbone itself
    for name in names[1:]:
        injected.inject_adapter(injected.model, name)
    return model, injected.set_adapter


def full(model: Any, settings: Settings, names: Sequence[str]) -> Decoder:
    """Let every weight train."""
    return model.requires_grad_(True), lambda chosen: None


def osf(model: Any, settings: Settings, names: Sequence[str]) -> Decoder:
    """Let all Linears of the blocks train by OSF, which keeps gradients out of the upper half of their directions."""
    from peft import OSFConfig, inject_adapter_in_model

    inject_adapter_in_model(OSFConfig(target_modules="all-linear"), model.base_model.backbone, "osf")
    return model, lambda chosen: None


def cartridge(model: Any, settings: Settings, names: Sequence[str]) -> Decoder:
    """Put keys and values that train before every text; they begin as those of the first texts that are taught."""
    from peft import CartridgeConfig, PeftModelForCausalLM
    from peft.tuners.cartridge.utils import prompt_embeddings_from_past_key_values

    config, (_, _, examples) = model.base_model.backbone.config, encoded(settings)
    ids = [token for row in examples["train"]["input_ids"] for token in row][:TOKENS]
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(torch.tensor([ids]), past_key_values=cache)
    heads, width = cache.layers[0].keys.shape[1::2]
    shape = {"num_layers": config.num_hidden_layers, "num_attention_heads": heads, "token_dim": heads * width}
    shape |= {"num_virtual_tokens": len(ids), "num_transformer_submodules": 1, "task_type": "CAUSAL_LM"}
    prefixed: Any = PeftModelForCausalLM(model, CartridgeConfig(**shape))
    held = prompt_embeddings_from_past_key_values(cache, num_virtual_tokens=len(ids))
    prefixed.prompt_encoder[prefixed.active_adapter].load_prompt_embeddings(held)
    return prefixed, lambda chosen: None


WAYS: dict[str, Callable[[Any, Settings, Sequence[str]], Decoder]]
WAYS = {"lora": lora, "full": full, "osf": osf, "cartridge": cartridge}


def encoded(settings: Settings) -> tuple[Any, Any, dict[str, Any]]:
    """Return the tokenizer, the objective and the examples by split of what an adapter is taught."""
    tokenizer = open_tokenizer(settings.adapter.backbone, None, settings.corpus.max_length)
    objective: Any = pretraining.load(settings.adapter.objective)(
        tokenizer, settings.corpus.max_length, settings.adapter
    )
    return tokenizer, objective, encode_splits(settings.corpus, objective, True, False, False)[1]


def teach(model: Any, settings: Settings, rate: float) -> float:
    """Teach a decoder a body of facts as its adapter is taught it, but for the rate, and return the CPU seconds."""
    began, (tokenizer, objective, examples) = process_time(), encoded(settings)
    beside = next(module for module in model.modules() if isinstance(module, KAdapterForCausalLM))
    with TemporaryDirectory() as scratch:  # a Trainer needs a directory, and nothing of it is kept
        run = copy.copy(settings.run)
        run.output_dir, run.learning_rate = scratch, rate
        shared: dict[str, Any] = {"processing_class": tokenizer, "objective": objective}
        KAdapterTrainer(
            model=model,
            args=run,
            data_collator=PadToBatch.of(objective, beside),
            train_dataset=examples["train"],
            **shared,
        ).train()
    return process_time() - began
