"""What the rows train: an adapter, PEFT's LoRA weights, or every weight; all else is the same for all of them."""

from __future__ import annotations

import copy
import gc
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import datasets
import torch
from transformers import PreTrainedTokenizerBase, set_seed

from ...configuration_kadapter import DEFAULT_KIND, KnowledgeAdapterConfig
from ...language_modeling_kadapter import KAdapterForCausalLM, KAdapterForMaskedLM
from .. import pretraining
from ..common.arguments import AdapterArguments, RunArguments
from ..common.collator import PadToBatch
from ..common.kept_texts import keep_texts
from ..common.locality import Locality, LocalityArguments, check_silence
from ..common.memory import give_back
from ..common.trainer import KAdapterTrainer
from ..fact_probing.model import check_lm_head, is_causal
from ..fact_probing.prompts import MASKS, Prompter
from ..feature_cache.options import CacheArguments, open_features
from ..feature_cache.trainer import CollateWithCacheIndex, FeatureTrainer
from .arguments import InjectionArguments
from .questions import AnyQuestion, Question, SequenceQuestion

__all__ = ["Cloze", "Continuation", "Cost", "base_model", "check_rows", "lesson_of", "model_of", "teach"]

ADAPTER = "injected"
OBJECTIVE = "causal_lm"
IGNORED = -100


@dataclass
class Cost:
    """What a training took: its weights, seconds on the clock and of all processors, and its highest memory.

    The memory is that of the accelerator if there is one, else the resident memory of the whole process, libraries
    included; None where the system does not tell it.
    """

    trainable: int
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int | None = None


class Cloze:
    """What all rows learn on a model that fills masks: the answer's token at the mask of a question.

    Args:
        tokenizer: the backbone's tokenizer.
        max_length: the longest input in tokens.
        questions: the questions, of which each right answer makes an example.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, questions: Sequence[AnyQuestion]) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "positions": -1, "labels": IGNORED}
        pairs = [(each.masked, answer) for each in questions if isinstance(each, Question) for answer in each.right]
        columns: dict[str, list] = {
            "input_ids": [list(masked.ids) for masked, _ in pairs],
            "positions": [list(masked.positions) for masked, _ in pairs],
            "labels": [[answer] for _, answer in pairs],
            "length": [len(masked.ids) for masked, _ in pairs],
        }
        self.examples = datasets.Dataset.from_dict(columns)


class Continuation:
    """What all rows learn on a decoder: the answer of a question, and all that ends its text.

    The text is the phrasing with an answer in it, as the objective `causal_lm` encodes it.

    Args:
        tokenizer: the backbone's tokenizer.
        max_length: the longest input in tokens.
        questions: the questions, of which each right answer makes an example.

    Raises:
        ValueError: the tokenizer does not know where texts end, or a text does not fit.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, questions: Sequence[AnyQuestion]) -> None:
        arguments = AdapterArguments(objective=OBJECTIVE, backbone="", adapter_name=ADAPTER)
        objective: Any = pretraining.load(OBJECTIVE)(tokenizer, max_length, arguments)
        self.tokenizer, self.max_length, self.padding = tokenizer, max_length, objective.padding
        rows: dict[str, list] = {"id": [], "text": [], "mentions": []}
        for question in questions:
            for answer in question.right.values() if isinstance(question, SequenceQuestion) else ():
                before, behind = MASKS.split(question.prompt, maxsplit=1)
                rows["id"].append(f"{question.fact[1]!r} in {question.prompt!r}")
                rows["text"].append(f"{before}{answer}{behind}")
                rows["mentions"].append([{"start": len(before), "end": len(before) + len(answer)}])
        encoded = objective.encode(rows)
        if missing := sorted(set(range(len(rows["id"]))) - set(encoded["record"])):
            raise ValueError(
                f"with its answer {rows['id'][missing[0]]} has more than --max_length {max_length} tokens; raise it"
            )
        columns = {name: encoded[name] for name in self.padding}
        self.examples = datasets.Dataset.from_dict({**columns, "length": [len(ids) for ids in columns["input_ids"]]})


def lesson_of(prompter: Prompter, max_length: int, questions: Sequence[AnyQuestion]) -> Cloze | Continuation:
    """Return what all rows learn from questions, with its examples."""
    return (Continuation if prompter.causal else Cloze)(prompter.tokenizer, max_length, questions)


def check_rows(flags: InjectionArguments) -> None:
    """Refuse rows that can't be trained here.

    Raises:
        OSError: there is no such backbone.
        ValueError: PEFT is missing, or a decoder is to have another LM head.
    """
    if "lora" in flags.rows and importlib.util.find_spec("peft") is None:
        raise ValueError("--rows lora needs PEFT; pip install peft, or leave the row out")
    check_lm_head(flags.lm_head, flags.backbone, flags.backbone_revision)


def base_model(flags: InjectionArguments, run: RunArguments) -> KAdapterForMaskedLM | KAdapterForCausalLM:
    """Return the frozen model: the backbone with its LM head and without adapters.

    Raises:
        OSError: the backbone or the LM head can't be read.
        ValueError: they don't fit together.
    """
    options = {"revision": flags.backbone_revision, "fusion": flags.fusion}
    model: Any
    if is_causal(flags.backbone, flags.backbone_revision):
        model = KAdapterForCausalLM.from_backbone(flags.backbone, **options)
    else:
        model = KAdapterForMaskedLM.from_backbone(flags.backbone, lm_head=flags.lm_head, **options)
    model.requires_grad_(False)
    return model.eval().to(run.device)


def model_of(
    row: str, settings: tuple[InjectionArguments, LocalityArguments, RunArguments], seed: int
) -> KAdapterForMaskedLM | KAdapterForCausalLM:
    """Return the model of a row, of which only what the row trains has gradients.

    Raises:
        ValueError: LoRA weights do not fit the backbone, or flags make no adapter.
    """
    flags, locality, run = settings
    model: Any = base_model(flags, run)
    set_seed(seed)
    if row == "full":
        for weight in model.parameters():
            weight.requires_grad_(True)
    elif row == "lora":
        _add_lora(model, flags)
    else:
        shape = {name: getattr(flags, f"adapter_{name}") for name in ("hidden_size", "num_attention_heads")}
        shape |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), flags.adapter_dropout)
        shape |= {"layers": flags.layers, "kind": flags.adapter_kind or _kind_beside(model)}
        if row == "adapter_local" and locality.silent_below:
            objective = OBJECTIVE if isinstance(model, KAdapterForCausalLM) else "masked_lm"
            check_silence(locality.silent_below, locality.heard_above, shape["kind"], objective)
            shape["silent_below"] = locality.silent_below
        chosen = {name: value for name, value in shape.items() if value is not None}
        model.add_adapter(ADAPTER, KnowledgeAdapterConfig.from_dict(chosen))
        model.train_adapter(ADAPTER)
        model.head.requires_grad_(False)
    return model.to(run.device)


def _kind_beside(model: KAdapterForMaskedLM | KAdapterForCausalLM) -> str:
    return "prenorm" if isinstance(model, KAdapterForCausalLM) else DEFAULT_KIND


def _add_lora(model: KAdapterForMaskedLM | KAdapterForCausalLM, flags: InjectionArguments) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    try:
        settings = LoraConfig(r=flags.lora_rank, target_modules=flags.lora_modules)
        inject_adapter_in_model(settings, model.base_model.backbone)
    except ValueError as error:
        raise ValueError(f"--rows lora: {error}; name the modules by --lora_modules") from error


def teach(
    row: str,
    model: KAdapterForMaskedLM | KAdapterForCausalLM,
    lesson: Cloze | Continuation,
    settings: tuple[InjectionArguments, LocalityArguments, RunArguments],
    seed: int,
    texts: Sequence[str],
) -> tuple[Cost, KAdapterForMaskedLM | KAdapterForCausalLM]:
    """Train a row's model on questions, and return what that took, and the model that has learned them.

    Beside an adapter a decoder reads each question once: its hidden states are kept. The LM head of an encoder may
    need the backbone's embeddings, so that it has to stay.

    Args:
        row: the name of the row.
        model: its model.
        lesson: what it learns.
        settings: the flags.
        seed: of dropout and of the order of examples.
        texts: on which an adapter with the locality term is held back.

    Raises:
        FloatingPointError: the loss became NaN.
    """
    flags, _, run = settings
    collate, tokenizer = PadToBatch.of(lesson, model), lesson.tokenizer
    shared: dict[str, Any] = {"model": model, "processing_class": tokenizer, "objective": lesson}
    with TemporaryDirectory() as scratch:  # a Trainer needs a directory, and nothing of it is kept
        own = _arguments(row, flags, run, seed, scratch)
        with measured(model, run.device) as cost:
            if row in ("lora", "full"):
                KAdapterTrainer(args=own, data_collator=collate, train_dataset=lesson.examples, **shared).train()
                return cost, model
            term = _held_back(model, tokenizer, texts, settings, own) if row == "adapter_local" else None
            features, examples = None, {"train": lesson.examples}
            if isinstance(lesson, Continuation):
                cache = CacheArguments(cache_features=str(Path(scratch, "features")))
                features, examples = open_features(cache, model, examples, own, verbose=False)
            shared |= {"train_dataset": examples["train"], "features": features, "locality": term}
            FeatureTrainer(args=own, data_collator=CollateWithCacheIndex(collate), **shared).train()
        return cost, model if features is None else _with_backbone(model, flags, run, Path(scratch, ADAPTER))


def _with_backbone(
    model: KAdapterForMaskedLM | KAdapterForCausalLM, flags: InjectionArguments, run: RunArguments, folder: Path
) -> KAdapterForMaskedLM | KAdapterForCausalLM:
    """Return a model with the adapter of another, whose backbone left memory, through a folder."""
    model.save_adapter(folder, ADAPTER)
    whole: Any = base_model(flags, run)
    whole.load_adapter(str(folder), ADAPTER)
    whole.set_adapter(ADAPTER)
    return whole.eval().to(run.device)


def _arguments(row: str, flags: InjectionArguments, run: RunArguments, seed: int, scratch: str) -> RunArguments:
    """Return the arguments of a row's training, which nothing but its learning rate and seed distinguish."""
    rates, own = {"lora": flags.lora_learning_rate, "full": flags.full_learning_rate}, copy.copy(run)
    own.output_dir, own.save_strategy, own.report_to = scratch, "no", []
    own.learning_rate, own.seed = rates.get(row, run.learning_rate), seed
    return own


def _held_back(
    model: KAdapterForMaskedLM | KAdapterForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    settings: tuple[InjectionArguments, LocalityArguments, RunArguments],
    run: RunArguments,
) -> Locality:
    """Return the locality term on texts, whose states are read here."""
    flags, locality, _ = settings
    masked = isinstance(model, KAdapterForMaskedLM)
    kept = keep_texts(model, tokenizer, texts, flags.max_length, run, masked)
    return Locality(kept, locality.locality_weight, locality.locality_batch_size, run.seed, locality.heard_above)


@contextmanager
def measured(model: torch.nn.Module, device: torch.device) -> Iterator[Cost]:
    """Measure the training of a model; the memory that was freed before it is given back first."""
    gc.collect()
    give_back()
    _reset_peak(device)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    cost, wall, cpu = Cost(trainable), perf_counter(), process_time()
    yield cost
    cost.wall_seconds, cost.cpu_seconds = perf_counter() - wall, process_time() - cpu
    cost.peak_bytes = _peak(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError):  # some containers forbid it, and the peak is then that of the process so far
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak of the resident memory


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform != "linux":
        return None
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
