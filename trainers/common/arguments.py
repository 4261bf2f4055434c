"""Flags common to all trainings: dataclasses whose fields are the flags, and recipes that set their defaults."""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from ...configuration_kadapter import DEFAULT_KIND, FUSIONS, KnowledgeAdapterConfig
from .optimizers import check_free_gradients, check_optimizer
from .precision import bfloat16_pays, precision_line
from .recipes import data_file, recipe_path
from .usable import check_at_least_one, check_usable

__all__ = [
    "AdapterArguments",
    "CorpusArguments",
    "HeadArguments",
    "RunArguments",
    "flags_of",
    "parse_arguments",
    "shape_of",
    "without_secrets",
]


@dataclass
class CorpusArguments:
    """Which records are trained and evaluated on."""

    corpus: str = field(metadata={"help": "Name of the corpus: a file of data_builders/."})
    data_dir: str = field(metadata={"help": "Directory with the corpus as released."})
    max_length: int = field(default=128, metadata={"help": "Longest input in tokens, special tokens included."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on a fixed random sample of this many records."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on a fixed random sample of this many records."}
    )
    on_bad_record: str = field(
        default="error",
        metadata={"choices": ["error", "skip"], "help": "Stop at a malformed record, or skip and count it."},
    )
    num_proc: int | None = field(default=None, metadata={"help": "Processes that build and tokenise the corpus."})

    def __post_init__(self) -> None:
        check_at_least_one(self, ("max_length", "max_train_samples", "max_eval_samples"))


@dataclass(kw_only=True)
class HeadArguments:
    """Which encoder, under which head of an objective."""

    backbone: str = field(metadata={"help": "Hub id or directory of the encoder."})
    backbone_revision: str | None = field(default=None, metadata={"help": "Revision of the backbone on the Hub."})
    classifier_dropout: float = field(default=0.1, metadata={"help": "Dropout in the pre-training head."})
    head: str = field(
        default="default",
        metadata={"choices": ["default", "official"], "help": "The objective's own head, or the published one."},
    )
    official_labels: str = field(
        default="aligned",
        metadata={
            "choices": ["aligned", "published"],
            "help": "With the official dependency head: labels on sub-tokens, or word i's label on token i.",
        },
    )


@dataclass(kw_only=True)
class AdapterArguments(HeadArguments):
    """Which adapter is trained, on which backbone, by which objective."""

    objective: str = field(metadata={"help": "Name of the objective: a file of trainers/pretraining/."})
    adapter_name: str = field(metadata={"help": "Name of the adapter, such as fac or lin."})
    quantize_backbone: bool = field(
        default=False, metadata={"help": "Store the frozen encoder and multiply in it in 8 bits (needs torchao)."}
    )
    compile_backbone: bool = field(
        default=False,
        metadata={"help": "Compile the blocks of the frozen encoder (on a CPU needs a C++ compiler)."},
    )
    attn_implementation: str | None = field(
        default=None,
        metadata={"help": "Attention of the frozen encoder: eager, sdpa, flash_attention_2, ...; by default its own."},
    )
    adapter_kind: str | None = field(
        default=None,
        metadata={
            "choices": [DEFAULT_KIND, "prenorm", "top_layers"],
            "help": "The published adapter, the leaner one with its norms in front, or copies of the encoder's last "
            "blocks; by default the first, and the second for causal_lm.",
        },
    )
    layers: list[int] | None = field(
        default=None, metadata={"help": "Tapped hidden states; by default 0, N/2 - 1, N - 2 of an N-block backbone."}
    )
    adapter_hidden_size: int | None = field(
        default=None,
        metadata={"help": "Inner width of the adapter; by default three quarters of the encoder's, in heads of 64."},
    )
    adapter_intermediate_size: int | None = field(
        default=None, metadata={"help": "Feed-forward width inside the adapter; by default four times its width."}
    )
    adapter_num_hidden_layers: int = field(default=2, metadata={"help": "Transformer blocks in an adapter layer."})
    adapter_num_attention_heads: int | None = field(
        default=None, metadata={"help": "Attention heads inside the adapter; by default of width 64."}
    )
    adapter_dropout: float | None = field(
        default=None, metadata={"help": "Dropout inside the adapter; by default that of its kind, 0.1 as published."}
    )
    skip_layers: int = field(default=0, metadata={"help": "The official adapter_skip_layers; 0 is off."})
    mask_padding: bool = field(
        default=True, metadata={"help": "Hide padding from the adapter (the official code does not)."}
    )
    fusion: str | None = field(
        default=None,
        metadata={
            "choices": list(FUSIONS),
            "help": "Fusion under the pre-training head; by default concat, and delta for language models.",
        },
    )
    lm_head: str | None = field(
        default=None,
        metadata={
            "help": "LM head of masked_lm: backbone, which is frozen and the default, transform or linear, which are "
            "new, or a trained one by its id or path, frozen."
        },
    )
    mask_unit: str = field(
        default="word", metadata={"choices": ["word", "token"], "help": "What masked_lm masks as a whole."}
    )
    mask_probability: float = field(default=0.15, metadata={"help": "Share of the words or tokens that are masked."})
    mask_mentions: float = field(
        default=0.0, metadata={"help": "Share of the texts with mentions of which mentions are masked, not words."}
    )
    loss_on: str = field(
        default="answers",
        metadata={
            "choices": ["answers", "all"],
            "help": "What causal_lm learns of a text with mentions: from the last mention on, or all of it.",
        },
    )
    entity_embeddings: str | None = field(
        default=None, metadata={"help": "Entity embeddings that mention_masked_lm maps, by id or directory."}
    )
    entity_position: str = field(
        default="before",
        metadata={"choices": ["before", "after"], "help": "Where an entity stands, seen from its mention."},
    )
    backbone_dropout: float | None = field(
        default=None,
        metadata={
            "help": "Dropout of the frozen backbone while a map before it is trained, 0.25 for maps that are plugged "
            "into fine-tuned models; by default it is in eval mode."
        },
    )
    frozen_adapters: list[str] | None = field(
        default=None, metadata={"help": "Trained adapters, by id or path, that stay frozen beside what is trained."}
    )
    without_adapter: bool = field(
        default=False, metadata={"help": "Train only the head, on the frozen backbone; no adapter is saved."}
    )


@dataclass
class RunArguments(TrainingArguments):
    """How the run trains: transformers' TrainingArguments with our defaults and an explicit right to overwrite.

    With `bf16`, the backbone is held in bfloat16, and adapters and head, kept in float32, run under autocast. If the
    flag is not set, this is done where it is faster on this machine. Measured on a CPU with avx512_bf16 (2 threads,
    MiniLM, 32 x 24 tokens): 1288 tokens/s in float32, 1366 with only the backbone in bfloat16, 2169 with `bf16`, and
    2238 with everything in bfloat16, where small updates are lost to rounding. `fp16` does the same in float16, on a
    GPU.
    """

    output_dir: str = field(  # type: ignore[assignment]  # `__post_init__` refuses None
        default=None, metadata={"help": "Where the adapter's artifact is written."}
    )
    bf16: bool | None = field(  # type: ignore[assignment]  # None until `__post_init__` chooses
        default=None,
        metadata={
            "nargs": "?",
            "const": True,
            "help": "Multiply in bfloat16; by default if a matrix product, timed once, is faster in it here.",
        },
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start again in a used output directory: its checkpoints are removed."}
    )
    logging_steps: float = field(
        default=0.05,
        metadata={"help": "Steps between logged losses; a value below 1 is a share of all steps."},
    )
    logging_first_step: bool = field(default=True, metadata={"help": "Also log the loss of the first step."})
    report_to: None | str | list[str] = field(  # noqa: RUF036 (HfArgumentParser takes it in this order only)
        default="tensorboard", metadata={"help": "Where to log."}
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "choices": ["group_by_length", "random", "sequential"],
            "help": "Draw examples at random, those of similar length together or not, or take them in their order.",
        },
    )
    remove_unused_columns: bool = field(
        default=False,
        metadata={"help": "The collator chooses its columns."},
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave NaN losses out of the log; this waits for the device at each step."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "All trainable parameters are used."}
    )
    free_gradients: bool = field(
        default=False,
        metadata={
            "help": "Update each weight as soon as its gradient is there and free that, for less memory; needs "
            "--max_grad_norm 0."
        },
    )
    flags: ClassVar[Sequence[str]] = ()  # those that the run was started with, as a card shows them

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("--output_dir is missing; say where the adapter's artifact goes")
        for name, value in vars(self).items():
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"--{name} {value} is no number; give one, or leave the flag out")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # so that --bf16 means the same on every machine
        self.precision_was_asked = self.bf16 is not None or self.fp16
        self.bf16 = bool(self.bf16)
        if self.fp16 and self.use_cpu:
            raise ValueError("--fp16 needs a GPU, and this run is on a CPU; give --bf16, or neither of the two")
        self.dataloader_drop_last = False  # it would leave examples out of evaluations; epochs have whole steps anyway
        super().__post_init__()
        check_usable(self)
        if not self.precision_was_asked and bfloat16_pays(self.device):
            self.bf16, self.mixed_precision = True, "bf16"  # `super().__post_init__` derived the second from the first
        check_optimizer(self)
        if self.free_gradients:
            check_free_gradients(self)

    @property
    def precision(self) -> str:
        """Describe in one line the precision of the run and the reason for it, with a warning where it costs time."""
        return precision_line(bool(self.bf16), self.fp16, self.precision_was_asked, self.device)

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields that are pickled into every checkpoint: all but the tokens, which are secrets."""
        return {name: None if name.endswith("_token") else value for name, value in vars(self).items()}

    def __copy__(self) -> RunArguments:
        """Return a copy for the same process, which keeps its tokens."""
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied


def parse_arguments(
    argv: list[str] | None = None, classes: tuple[Any, ...] = (CorpusArguments, AdapterArguments, RunArguments)
) -> tuple[Any, ...]:
    """Parse flags into dataclasses, after those that `--recipe FILE_OR_NAME` sets; a flag overrides the recipe.

    Raises:
        ValueError: a flag is unknown, or the recipe can't be read or has an unknown key.
    """
    recipe_parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    recipe_parser.add_argument(
        "--recipe", help="YAML file of flags and values, or the name of one of kadapter's; other flags override it."
    )
    parser = HfArgumentParser(classes, description=__doc__, parents=[recipe_parser], allow_abbrev=False)
    argv = sys.argv[1:] if argv is None else argv
    shown = without_secrets(argv)
    known, argv = recipe_parser.parse_known_args(argv)
    if known.recipe is not None:
        argv = _recipe_flags(recipe_path(known.recipe), classes) + argv
    parsed: list[Any]
    *parsed, _, unknown = parser.parse_args_into_dataclasses(
        argv, return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no flag" + closest(unknown[0].removeprefix("--"), classes, "--"))
    for arguments in parsed:
        arguments.__dict__.update({name: _expanded(value) for name, value in vars(arguments).items()})
        if isinstance(arguments, RunArguments):
            arguments.flags = shown
    return tuple(parsed)


SECRETS = ("token", "password", "secret", "api_key")  # ends of names of flags that are never shown


def without_secrets(argv: Sequence[str]) -> list[str]:
    """Return flags as anybody may see them: without tokens, and files and folders by their names alone."""
    shown, secret = [], False
    for word in argv:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            secret = name.endswith(SECRETS) or value.startswith("hf_")
            shown += [] if secret else [f"{name}={_name_of(value)}" if equals else word]
        elif not secret and not word.startswith("hf_"):
            shown.append(_name_of(word))
    return shown


def _name_of(value: str) -> str:
    return Path(value).name if Path(value).expanduser().is_absolute() else value


def _expanded(value: Any) -> Any:
    """Expand a leading "~" in a flag's value, which shells leave alone after "="."""
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


def closest(name: str, classes: tuple[type, ...], prefix: str = "") -> str:
    """Return the end of an error about an unknown flag: the closest flag, or where all are listed."""
    close = difflib.get_close_matches(name.replace("-", "_"), _known(classes), n=1)
    return f"; did you mean {prefix + close[0]!r}?" if close else "; --help lists all"


def flags_of(values: dict[str, Any], classes: tuple[type, ...], where: str) -> list[str]:
    """Turn a mapping of flags to values into command-line arguments; null leaves the default.

    Raises:
        ValueError: a key is no flag; the message begins with `where`.
    """
    flags = []
    for key, value in values.items():
        if key not in _known(classes):
            raise ValueError(f"{where}: {key!r} is no flag" + closest(str(key), classes))
        if value is not None:
            value = json.dumps(value) if isinstance(value, dict) else value
            flags += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def _known(classes: tuple[type, ...]) -> list[str]:
    return [flag.name for arguments in classes for flag in fields(arguments) if flag.init]


def _recipe_flags(path: Path, classes: tuple[type, ...]) -> list[str]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"recipe {str(path)!r} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe {str(path)!r} must be a mapping of flags to values, not {type(values).__name__}")
    values = {key: data_file(value, path) for key, value in values.items()}
    return flags_of(values, classes, f"recipe {str(path)!r}")


def shape_of(adapter: AdapterArguments, silent_below: float = 0.0) -> KnowledgeAdapterConfig:
    """Return the shape of an adapter as the flags say; what they leave open is its kind's own.

    Raises:
        TypeError, ValueError: they make no adapter of its kind.
    """
    shape = {
        "kind": adapter.adapter_kind,
        "layers": adapter.layers,
        "hidden_size": adapter.adapter_hidden_size,
        "intermediate_size": adapter.adapter_intermediate_size,
        "num_hidden_layers": adapter.adapter_num_hidden_layers,
        "num_attention_heads": adapter.adapter_num_attention_heads,
        "hidden_dropout_prob": adapter.adapter_dropout,
        "attention_probs_dropout_prob": adapter.adapter_dropout,
        "skip_layers": adapter.skip_layers,
        "mask_padding": adapter.mask_padding,
        "silent_below": silent_below or None,
    }
    return KnowledgeAdapterConfig.from_dict({name: value for name, value in shape.items() if value is not None})
