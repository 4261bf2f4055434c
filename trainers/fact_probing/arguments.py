"""Flags of a probe: the facts, how they are asked, and the row of the results table."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...configuration_kadapter import FUSIONS
from .. import probes
from ..common.arguments import parse_arguments
from ..downstream.arguments import RowArguments
from ..downstream.model import check_adapters
from .candidates import CANDIDATES
from .scoring import MULTI_TOKEN
from .unhelpful_names import FILTERS

__all__ = ["ProbeArguments", "parse_probe_arguments"]


@dataclass(kw_only=True)
class ProbeArguments(RowArguments):
    """What is asked, how, and of which adapters on which backbone."""

    probe: str = field(metadata={"help": "Name of the probe: a file of trainers/probes/."})
    data_dir: str = field(metadata={"help": "Directory with the facts as released."})
    output_dir: str = field(metadata={"help": "Where the results are written."})
    lm_head: str | None = field(
        default=None,
        metadata={"help": "The LM head: backbone, or the artifact of a trained one; by default backbone."},
    )
    fusion: str = field(
        default="add", metadata={"choices": list(FUSIONS), "help": "How adapters are fused; one without weights."}
    )
    split: str | None = field(
        default=None,
        metadata={
            "choices": ["train", "validation", "test"],
            "help": "Split that is asked; by default all that are not for training.",
        },
    )
    prompts: str | None = field(
        default=None,
        metadata={"choices": ["template", "evidence"], "help": "What facts are asked by; by default the probe's own."},
    )
    candidates: str | None = field(
        default=None,
        metadata={
            "choices": list(CANDIDATES),
            "help": "What an answer competes with: the whole vocabulary, the words that are one token in all "
            "vocabularies of --common_with, or the answers of its relation; by default the probe's own.",
        },
    )
    common_with: list[str] = field(
        default_factory=list,
        metadata={"help": "Models whose vocabularies are intersected, or text files with a word a line (*.txt)."},
    )
    multi_token: str | None = field(
        default=None,
        metadata={
            "choices": list(MULTI_TOKEN),
            "help": "Answers of several tokens: skip and count them, or score them in a closed list, with all their "
            "tokens masked (closed) or each in turn (pll); by default the probe's own.",
        },
    )
    uhn: list[str] = field(
        default_factory=list,
        metadata={
            "choices": list(FILTERS),
            "help": "LAMA-UHN's filters: leave out facts whose answer the subject's name contains or suggests.",
        },
    )
    uhn_model: str = field(
        default="bert-base-cased",
        metadata={
            "help": "Masked language model that person_name asks; backbone is the probed backbone with its LM head."
        },
    )
    max_facts: int | None = field(
        default=None, metadata={"help": "Ask a fixed random sample of this many facts of each relation."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Longest input in tokens; by default what the backbone takes."}
    )
    batch_tokens: int = field(default=4096, metadata={"help": "Tokens that are read at once, padding included."})
    against: list[str] = field(
        default_factory=list,
        metadata={"help": "Earlier results of this probe, to compare with by relation."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of random adapters."})
    on_bad_record: str = field(
        default="error",
        metadata={"choices": ["error", "skip"], "help": "Stop at a malformed record, or skip and count it."},
    )
    num_proc: int | None = field(default=None, metadata={"help": "Processes that build the corpus."})
    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace earlier results."})


def parse_probe_arguments(argv: list[str] | None = None) -> tuple[ProbeArguments, type[probes.Probe]]:
    """Parse the flags of a probe, set the probe's own defaults, and check what can be checked at once.

    Raises:
        ValueError: a flag is unknown, or its value can't be used.
    """
    (flags,) = parse_arguments(argv, (ProbeArguments,))
    probe = probes.load(flags.probe)
    flags.prompts = flags.prompts or probe.prompts[0]
    if flags.candidates is None:
        flags.candidates = "common" if flags.common_with else probe.candidates
    flags.multi_token = flags.multi_token or (probe.multi_token if flags.candidates == "relation" else MULTI_TOKEN[0])
    check_adapters(flags)
    _check(flags, probe)
    return flags, probe


def _check(flags: ProbeArguments, probe: type[probes.Probe]) -> None:
    if flags.prompts not in probe.prompts:
        raise ValueError(
            f"--prompts {flags.prompts}: the probe {flags.probe} has only {' and '.join(probe.prompts)} prompts"
        )
    if flags.multi_token != MULTI_TOKEN[0] and flags.candidates != "relation":
        raise ValueError(
            f"--multi_token {flags.multi_token} with --candidates {flags.candidates}: answers of several tokens can "
            "only be compared with a closed list; give --candidates relation, or --multi_token skip"
        )
    if flags.common_with and flags.candidates != "common":
        raise ValueError(f"--common_with is for --candidates common, not {flags.candidates}; leave one of them out")
    for name in ("max_facts", "max_length", "batch_tokens"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} {value} must be at least 1")
    if flags.lm_head in ("transform", "linear"):
        raise ValueError(
            f"--lm_head {flags.lm_head} would be untrained and know nothing; give backbone or a trained LM head's path"
        )
