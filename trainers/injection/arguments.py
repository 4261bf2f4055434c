"""Flags of run_injection.py: the facts, how they are taught and asked, the rows, and what else is asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...configuration_kadapter import DEFAULT_KIND, FUSIONS
from .. import pretraining
from ..common.arguments import RunArguments, parse_arguments
from ..common.locality import LocalityArguments, check_locality
from ..common.usable import check_at_least_one, check_lesson

__all__ = ["ROWS", "InjectionArguments", "parse_injection_arguments"]

ROWS = ("adapter", "adapter_local", "lora", "full")
CANDIDATES = ("vocabulary", "relation")
COUNTS = ("max_facts", "max_taught", "max_others", "max_texts", "max_length", "lora_rank", "resamples")


@dataclass
class InjectionArguments:
    """Which facts are taught to which model, by what, and what is asked afterwards."""

    corpus: str = field(metadata={"help": "Name of a corpus of facts: a file of data_builders/."})
    data_dir: str = field(metadata={"help": "Directory with the facts as released."})
    templates: str = field(metadata={"help": "File with several phrasings of each relation (docs/injection.md)."})
    backbone: str = field(metadata={"help": "Hub id or directory of the encoder or decoder."})
    backbone_revision: str | None = field(default=None, metadata={"help": "Revision of the backbone on the Hub."})
    lm_head: str = field(
        default="backbone",
        metadata={"help": "The LM head: backbone, or, beside an encoder, a trained one's artifact."},
    )
    split: str | None = field(
        default=None,
        metadata={"choices": ["train", "validation", "test"], "help": "Split of the facts; by default all."},
    )
    taught_phrasings: list[int] = field(
        default_factory=lambda: [1],
        metadata={"help": "Numbers of the phrasings that are taught, from 1; the others measure generality."},
    )
    rows: list[str] = field(
        default_factory=lambda: ["adapter", "lora", "full"],
        metadata={
            "choices": list(ROWS),
            "help": "What trains: an adapter, an adapter with the locality term, LoRA weights, or every weight.",
        },
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the weights and of the order of examples."}
    )
    candidates: str = field(
        default="vocabulary",
        metadata={"choices": list(CANDIDATES), "help": "What an answer competes with: all words, or its relation's."},
    )
    max_facts: int | None = field(
        default=None, metadata={"help": "Read a fixed random sample of this many facts of each relation."}
    )
    max_taught: int = field(default=200, metadata={"help": "Teach a fixed random sample of this many unknown facts."})
    max_others: int = field(
        default=500,
        metadata={"help": "Ask samples of so many known facts, and of unknown facts not taught."},
    )
    text_corpus: str | None = field(
        default=None, metadata={"help": "Name of a corpus of text that nothing trains on, to measure the loss on."}
    )
    text_data_dir: str | None = field(default=None, metadata={"help": "Directory with that corpus as released."})
    text_split: str = field(default="validation", metadata={"help": "The split of it that is read."})
    max_texts: int = field(default=500, metadata={"help": "Read a fixed random sample of this many of these texts."})
    max_length: int = field(default=128, metadata={"help": "Longest input in tokens, special tokens included."})
    fusion: str = field(
        default="delta", metadata={"choices": list(FUSIONS), "help": "How the adapter is fused with the encoder."}
    )
    adapter_kind: str | None = field(
        default=None,
        metadata={
            "choices": [DEFAULT_KIND, "prenorm", "top_layers"],
            "help": "The published adapter, the leaner one with its norms in front, or copies of the encoder's last "
            "blocks; by default the first beside an encoder, and the second beside a decoder.",
        },
    )
    layers: list[int] | None = field(
        default=None, metadata={"help": "Tapped hidden states; by default 0, N/2 - 1, N - 2 of an N-block backbone."}
    )
    adapter_hidden_size: int | None = field(
        default=None, metadata={"help": "Inner width of the adapter; by default three quarters of the encoder's."}
    )
    adapter_num_attention_heads: int | None = field(
        default=None, metadata={"help": "Attention heads inside the adapter; by default of width 64."}
    )
    adapter_dropout: float | None = field(
        default=None, metadata={"help": "Dropout inside the adapter; by default that of its kind."}
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of the LoRA weights; their scale is that of PEFT."})
    lora_modules: list[str] | None = field(
        default=None, metadata={"help": "Names of the modules that get LoRA weights; by default PEFT's own choice."}
    )
    lora_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the row lora."})
    full_learning_rate: float = field(default=5e-5, metadata={"help": "Learning rate of the row full."})
    resamples: int = field(default=2000, metadata={"help": "Resamples of the bootstrap over facts and seeds."})


def parse_injection_arguments(
    argv: list[str] | None = None,
) -> tuple[InjectionArguments, LocalityArguments, RunArguments]:
    """Parse the flags, and check what can be checked at once.

    Raises:
        ValueError: a flag is unknown, or its value can't be used.
    """
    flags, locality, run = parse_arguments(argv, (InjectionArguments, LocalityArguments, RunArguments))
    check_at_least_one(flags, COUNTS)
    for name in ("rows", "seeds", "taught_phrasings"):
        values = getattr(flags, name)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"--{name} {' '.join(map(str, values))} must name at least one, and none twice")
    if (flags.text_corpus is None) != (flags.text_data_dir is None):
        raise ValueError("--text_corpus and --text_data_dir belong together; give both, or neither")
    _check_locality(flags, locality)
    check_lesson(run, [pretraining.load("causal_lm")], frozen=True)
    if run.world_size > 1:
        raise ValueError(f"an injection is one process, and there are {run.world_size}; start it without torchrun")
    return flags, locality, run


def _check_locality(flags: InjectionArguments, locality: LocalityArguments) -> None:
    check_locality([locality])
    local = "adapter_local" in flags.rows
    if local and not locality.locality_weight:
        raise ValueError("--rows adapter_local needs a --locality_weight above 0 and the texts of --locality_corpus")
    if locality.locality_weight and not local:
        raise ValueError(f"--locality_weight {locality.locality_weight} has no effect without --rows adapter_local")
