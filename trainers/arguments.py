"""What a run is told: dataclasses whose fields are the flags, and recipes that give them defaults."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

__all__ = ["AdapterArguments", "CorpusArguments", "RunArguments", "parse_arguments"]


@dataclass
class CorpusArguments:
    """Which records are trained and evaluated on."""

    corpus: str = field(metadata={"help": "Name of the corpus: a file of data_builders/."})
    data_dir: str = field(metadata={"help": "Directory with the corpus as released."})
    max_length: int = field(default=128, metadata={"help": "Longest input in tokens, special tokens included."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on so many records at most."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on so many records at most."})
    on_bad_record: str = field(
        default="error",
        metadata={"choices": ["error", "skip"], "help": "Stop at a malformed record, or count and skip it."},
    )
    num_proc: int | None = field(default=None, metadata={"help": "Processes that build and tokenise the corpus."})


@dataclass
class AdapterArguments:
    """Which adapter is trained, on which backbone, by which objective."""

    objective: str = field(metadata={"help": "Name of the objective: a file of trainers/pretraining/."})
    backbone: str = field(metadata={"help": "Hub id or directory of the frozen encoder."})
    adapter_name: str = field(metadata={"help": "Name of the adapter, such as fac or lin."})
    backbone_revision: str | None = field(default=None, metadata={"help": "Revision of the backbone on the Hub."})
    layers: list[int] | None = field(
        default=None, metadata={"help": "Tapped hidden states; by default 0, N/2 - 1, N - 2 of an N-block backbone."}
    )
    adapter_hidden_size: int = field(default=768, metadata={"help": "Inner width of the adapter."})
    adapter_intermediate_size: int = field(default=3072, metadata={"help": "Feed-forward width inside the adapter."})
    adapter_num_hidden_layers: int = field(default=2, metadata={"help": "Transformer blocks in an adapter layer."})
    adapter_num_attention_heads: int = field(default=12, metadata={"help": "Attention heads inside the adapter."})
    adapter_dropout: float = field(default=0.1, metadata={"help": "Dropout inside the adapter."})
    skip_layers: int = field(default=0, metadata={"help": "The official adapter_skip_layers; 0 is off."})
    mask_padding: bool = field(
        default=True, metadata={"help": "Hide padding from the adapter (the official code: no)."}
    )
    fusion: str = field(
        default="concat", metadata={"choices": ["concat", "add"], "help": "Fusion under the pre-training head."}
    )
    classifier_dropout: float = field(default=0.1, metadata={"help": "Dropout in the pre-training head."})
    head: str = field(
        default="default",
        metadata={"choices": ["default", "official"], "help": "The objective's own head, or the published one."},
    )
    official_labels: str = field(
        default="aligned",
        metadata={
            "choices": ["aligned", "published"],
            "help": "Under the official dependency head: labels on sub-tokens, or a word's label on the i-th token.",
        },
    )
    without_adapter: bool = field(
        default=False, metadata={"help": "Baseline: train the head alone on the frozen backbone; saves no adapter."}
    )


@dataclass
class RunArguments(TrainingArguments):
    """transformers' TrainingArguments with our defaults and an explicit right to overwrite."""

    output_dir: str | None = field(default=None, metadata={"help": "Where the adapter's artifact is written."})
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start anew in a used output directory: its checkpoints are removed."}
    )
    report_to: None | str | list[str] = field(default="tensorboard", metadata={"help": "Where to log."})
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"choices": ["group_by_length", "random"], "help": "Group examples of like length, or not."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator chooses its columns."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "All that trains is used."})
    ddp_broadcast_buffers: bool | None = field(default=False, metadata={"help": "The backbone never changes."})

    def __post_init__(self) -> None:
        if not self.output_dir:
            raise ValueError("--output_dir is missing; say where the adapter's artifact goes")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # so that --bf16 means the same on every machine
        super().__post_init__()


def parse_arguments(argv: list[str] | None = None) -> tuple[CorpusArguments, AdapterArguments, RunArguments]:
    """Parse flags, after those that `--recipe FILE.yaml` gives; a flag overrides the recipe.

    Raises:
        ValueError: the recipe can't be read or has a key that is no flag.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    kinds = (CorpusArguments, AdapterArguments, RunArguments)
    if "--recipe" in argv:
        at = argv.index("--recipe")
        if at + 1 == len(argv):
            raise ValueError("--recipe needs a file name")
        argv = _recipe_flags(Path(argv[at + 1]), kinds) + argv[:at] + argv[at + 2 :]
    parser = HfArgumentParser(kinds, description=__doc__)
    parser.add_argument("--recipe", help="YAML file of flags and values; flags on the command line override it.")
    *parsed, _ = parser.parse_args_into_dataclasses(argv)
    return tuple(parsed)


def _recipe_flags(path: Path, kinds: tuple[type, ...]) -> list[str]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"recipe {str(path)!r} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"recipe {str(path)!r} must be a mapping of flags to values, not {type(values).__name__}")
    known = [one.name for kind in kinds for one in fields(kind)]
    flags = []
    for key, value in values.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise ValueError(
                f"recipe {str(path)!r}: {key!r} is no flag" + (f"; did you mean {close[0]!r}?" * bool(close))
            )
        flags += [f"--{key}", *_flag_values(value)]
    return flags


def _flag_values(value: Any) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]
