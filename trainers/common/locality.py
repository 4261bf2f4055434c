"""Locality: hold an adapter back on text that it is not about, whose hidden states are read once and kept.

The term is a weight times the mean square of the adapter's contribution, which the fusion "delta" adds to the
backbone's last hidden state R, relative to the mean square of R over all these texts. So a weight means the same
beside any backbone, and whatever the fusion under the pre-training head. What an adapter leaves out after training,
below its `silent_below`, is not counted: then other texts need not be driven to nothing, and phrasings that were not
taught with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from ... import data_builders
from .arguments import CorpusArguments
from .encoding import load_splits, sample
from .kept_texts import KeptTexts, keep_texts
from .measured import IGNORED
from .taught_names import TaughtTexts, share_of_long_answers

__all__ = [
    "Locality",
    "LocalityArguments",
    "check_held_back",
    "check_locality",
    "check_silence",
    "open_texts",
    "other_texts",
    "read_sources",
    "read_texts",
]


@dataclass
class LocalityArguments:
    """Whether the adapter is held back on text that it is not about, and on which."""

    locality_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the adapter's mean squared contribution on other text, relative to the encoder."},
    )
    locality_corpus: list[str] | None = field(
        default=None, metadata={"help": "Names of the corpora whose sentences are that text."}
    )
    locality_data_dir: list[str] | None = field(
        default=None, metadata={"help": "Directories with these corpora as released, in the same order."}
    )
    locality_other_names: int = field(
        default=0,
        metadata={"help": "Add so many of the texts that are learned, about other names, made from theirs."},
    )
    silent_below: float = field(
        default=0.0,
        metadata={
            "help": "After training an adapter of kind prenorm adds nothing where its contribution is smaller, in "
            "root mean square relative to the encoder's last hidden states, and other text is held below that alone; "
            "0 for never."
        },
    )
    heard_above: float = field(
        default=0.0,
        metadata={
            "help": "Beside --silent_below: raise what the adapter contributes at each word of an answer above this "
            "larger size, the more the more probable that word has become; 0 for never."
        },
    )
    locality_split: str = field(default="train", metadata={"help": "The split that they are taken from."})
    max_locality_samples: int = field(
        default=1000, metadata={"help": "Read a fixed random sample of this many of each corpus."}
    )
    locality_batch_size: int = field(
        default=8, metadata={"help": "How many of them each step takes, over all processes."}
    )

    @property
    def described(self) -> dict[str, Any]:
        """Return what is stored with an adapter of how it was held back."""
        return {
            "weight": self.locality_weight,
            "corpora": list(self.locality_corpus or ()),
            "texts": self.max_locality_samples,
            "other_names": self.locality_other_names,
            **{name: own for name in ("silent_below", "heard_above") if (own := getattr(self, name))},
        }

    @property
    def sources(self) -> list[tuple[str, str]]:
        """Return the corpora with their directories."""
        return list(zip(self.locality_corpus or (), self.locality_data_dir or (), strict=True))


def check_locality(several: Sequence[LocalityArguments]) -> None:
    """Check the flags of all adapters of a run; what they share is the same in each.

    Raises:
        ValueError: a number is out of range, or there is a weight without texts or texts without a weight.
    """
    for flags in several:
        if not (math.isfinite(flags.locality_weight) and flags.locality_weight >= 0):
            raise ValueError(f"--locality_weight {flags.locality_weight} must be a number of at least 0")
        if not (math.isfinite(flags.silent_below) and flags.silent_below >= 0):
            raise ValueError(f"--silent_below {flags.silent_below} must be a number of at least 0, which is for never")
        if flags.silent_below and not flags.locality_weight:
            raise ValueError(
                f"--silent_below {flags.silent_below} is measured on the texts that hold an adapter back; give a "
                "--locality_weight, such as 400, and such texts too, or leave it out"
            )
        if flags.heard_above and not (math.isfinite(flags.heard_above) and flags.heard_above > flags.silent_below > 0):
            raise ValueError(
                f"--heard_above {flags.heard_above} raises answers above what is left out, --silent_below "
                f"{flags.silent_below}; give both, the first the larger, such as 0.3 and 0.2, or leave it out"
            )
    flags = several[0]
    for name, least in (("max_locality_samples", 1), ("locality_batch_size", 1), ("locality_other_names", 0)):
        if getattr(flags, name) < least:
            raise ValueError(f"--{name} {getattr(flags, name)} must be at least {least}")
    corpora, folders = flags.locality_corpus or [], flags.locality_data_dir or []
    if len(corpora) != len(folders):
        raise ValueError(
            f"--locality_corpus names {len(corpora)} corpora and --locality_data_dir {len(folders)} directories; each "
            "corpus needs its directory, in the same order"
        )
    weighted = any(own.locality_weight for own in several)
    if weighted and not (corpora or flags.locality_other_names):
        raise ValueError(
            "--locality_weight needs texts; give --locality_corpus and --locality_data_dir or --locality_other_names "
            "too, or leave it out"
        )
    if not weighted and (corpora or flags.locality_other_names):
        useless = f"corpus {' '.join(corpora)}" if corpora else f"other_names {flags.locality_other_names}"
        raise ValueError(f"--locality_{useless} has no effect without --locality_weight; give a weight, such as 0.1")
    for corpus in corpora:
        data_builders.get_builder(corpus)


def check_held_back(flags: LocalityArguments, adapter: Any) -> None:
    """Refuse a locality term for what has no adapter, or for one that reads the padding of the texts.

    Raises:
        ValueError: the flags contradict each other.
    """
    if not flags.locality_weight:
        return
    if adapter.without_adapter:
        raise ValueError("--without_adapter trains no adapter that --locality_weight could hold back; leave one out")
    if not adapter.mask_padding:
        raise ValueError(
            "--locality_weight pads its texts, and with --mask_padding False the adapter reads padding; leave one out"
        )


def check_silence(silent_below: float, heard_above: float, kind: str | None, objective: str) -> None:
    """Refuse adapters that would be silent below a size where their kind has no such field.

    Raises:
        ValueError: that is so, or the objective has no answers that could be raised above a size.
    """
    if heard_above and objective != "causal_lm":
        raise ValueError(
            f"--heard_above {heard_above} is for answers of language models, --objective causal_lm, and not for "
            f"{objective}; leave it out"
        )
    if silent_below and kind != "prenorm":
        raise ValueError(
            f"--silent_below {silent_below} is for adapters of kind prenorm, not {kind}; give --adapter_kind prenorm, "
            "or leave it out"
        )


def open_texts(
    several: Sequence[LocalityArguments],
    corpus: CorpusArguments,
    tapped: Any,
    tokenizer: Any,
    run: Any,
    verbose: bool,
    masked: bool,
) -> KeptTexts | None:
    """Read and keep the texts on which adapters are held back, which all of a run share; None if none is held back.

    None of them names what the training records of `corpus` are about; `masked` as for `keep_texts`.
    """
    if not any(flags.locality_weight for flags in several):
        return None
    with run.main_process_first(desc="locality"):
        taught = load_splits(corpus, train=True, evaluate=False, verbose=False)["train"]
        about = TaughtTexts.of(sample(taught, corpus.max_train_samples))
        unheard = any(own.silent_below and not own.heard_above for own in several)
        long = share_of_long_answers(taught) if unheard else 0.0
        if long and verbose:
            print(
                f"locality: {long:.0%} of the answers have several words, of which --silent_below may leave out those "
                "after the first; give --heard_above 0.3 too, and ask the adapter what it was taught"
            )
        texts = other_texts(several[0], read_sources(several[0], tokenizer), about, verbose)
    kept = keep_texts(tapped, tokenizer, texts, corpus.max_length, run, masked)
    if verbose:
        size = sum(tensor.nbytes for tensor in kept.states.values()) / 10**6
        print(f"locality: {len(texts)} texts, {int(kept.lengths.sum())} tokens, {size:.3g} MB of states")
    return kept


def read_sources(flags: LocalityArguments, tokenizer: Any = None) -> list[list[str]]:
    """Return the texts of each corpus that the flags name; see `read_texts`.

    Raises:
        ValueError: a corpus can't be used.
    """
    split, number = flags.locality_split, flags.max_locality_samples
    return [read_texts(*source, split, number, tokenizer) for source in flags.sources]


def other_texts(
    flags: LocalityArguments, sources: Sequence[list[str]], taught: TaughtTexts, verbose: bool
) -> list[str]:
    """Return the texts of `read_sources` without those that name what is taught, and taught ones about others.

    Raises:
        ValueError: all texts of a corpus name what is taught, or no other names can be made.
    """
    texts: list[str] = []
    if verbose and flags.sources and not taught.names:
        print(
            "locality: the records that are learned tell no names, so texts that name what is taught are not left "
            "out; learn triples, or prompts with their subjects, to have them left out"
        )
    for (corpus, data_dir), read in zip(flags.sources, sources, strict=True):
        kept = taught.without(read)
        if not kept:
            raise ValueError(
                f"all {len(read)} texts of corpus {corpus!r} in {data_dir!r} name what is taught, so none can hold an "
                "adapter back; give another --locality_corpus"
            )
        if verbose:
            left_out = f", {len(read) - len(kept)} that name what is taught left out" if len(read) > len(kept) else ""
            print(f"locality: {len(kept)} texts of {corpus}{left_out}")
        texts += kept
    if flags.locality_other_names:
        made = taught.about_others(flags.locality_other_names)
        if verbose:
            print(f"locality: {len(made)} texts that are learned, about others, such as {made[0]!r}")
        texts += made
    return texts


def read_texts(corpus: str, data_dir: str, split: str, number: int | None, tokenizer: Any = None) -> list[str]:
    """Return a fixed random sample of a corpus' sentences, whatever the type of its records.

    Conversations are in the words of the tokenizer's chat template, where it has one, since that is how models read
    them.

    Raises:
        ValueError: there is no such corpus or split, or the corpus is malformed.
    """
    splits: Any = data_builders.load(corpus, data_dir)
    if split not in splits:
        raise ValueError(f"corpus {corpus!r} in {data_dir!r} has no split {split!r}, only {sorted(splits)}")
    chosen: datasets.Dataset = sample(splits[split], number)
    if "messages" not in chosen.column_names or getattr(tokenizer, "chat_template", None) is None:
        return [data_builders.sentence_of(row) for row in chosen]
    begun = tokenizer.bos_token or ""  # which is put before each text that is read
    worded = (tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in chosen)
    return [text.removeprefix(begun) for text in worded]


@dataclass
class Locality:
    """The locality term of a training.

    Args:
        texts: the kept texts.
        weight: what the term is multiplied by in the loss.
        batch_size: how many texts a step takes, over all processes.
        seed: determines their order, a new one for each pass.
        heard_above: the size relative to R above which contributions to answers are raised; 0 for none.
    """

    texts: KeptTexts
    weight: float
    batch_size: int
    seed: int
    heard_above: float = 0.0

    @classmethod
    def of(cls, texts: KeptTexts | None, flags: LocalityArguments, run: Any) -> Locality | None:
        """Return the term as the flags say, None without a weight."""
        if texts is None or not flags.locality_weight:
            return None
        seed = run.seed if run.data_seed is None else run.data_seed
        return cls(texts, flags.locality_weight, flags.locality_batch_size, seed, flags.heard_above)

    def tell(self, model: Any) -> None:
        """Tell adapters that are silent below a share of R how large R is on these texts."""
        for adapter in _held_back(model).values():
            if getattr(adapter.config, "silent_below", 0):
                adapter.backbone_rms.fill_(math.sqrt(self.texts.mean_square))

    def indices(self, step: int) -> np.ndarray:
        """Return the texts of a step, which depend on nothing else, so that a resumed run continues with them."""
        number = len(self.texts.lengths)
        size = min(self.batch_size, number)
        steps_in_pass = number // size
        order = np.random.default_rng([self.seed, step // steps_in_pass]).permutation(number)
        return order[step % steps_in_pass * size :][:size]

    def share(self, model: Any, step: int, share: int, shares: int) -> Tensor:
        """Return the mean squared contribution relative to R on a step's texts, as far as it is of one of its shares.

        It is that of what trains, whatever is frozen beside it, and of each token counts by how much its root mean
        square exceeds the adapter's `silent_below`. The sum over all shares is that of the step, however many there
        are; an empty share is 0.
        """
        chosen = self.indices(step)
        parameter = next(model.parameters())
        own = chosen[share::shares]
        if not len(own):
            return parameter.new_zeros(())
        states, mask = self.texts.batch(own)
        states = {layer: tensor.to(parameter.device) for layer, tensor in states.items()}
        sizes = self._sizes(model, model.adapters(states, mask.to(parameter.device), contributions=True))  # (B, S)
        allowed = sum(getattr(adapter.config, "silent_below", 0) for adapter in _held_back(model).values())
        squares = (sizes - allowed).clamp(min=0).square() * mask.to(sizes)
        return squares.sum() / int(self.texts.lengths[chosen].sum())

    def unheard(self, model: Any, contributions: dict[str, Tensor], logits: Tensor, labels: Tensor) -> Tensor:
        """Return the squares by which contributions to answers, each (batch, n, hidden), stay below `heard_above`.

        They are summed over the tokens that have labels (batch, n), -100 for none, each weighted with the probability
        that the logits (batch, n, vocabulary) give its label: what isn't learned yet would be raised in no direction.
        """
        counted = labels != IGNORED
        right = logits.detach().float().log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0].exp()
        return ((self.heard_above - self._sizes(model, contributions)).clamp(min=0).square() * right * counted).sum()

    def _sizes(self, model: Any, contributions: dict[str, Tensor]) -> Tensor:
        """Return the root mean square of what the trained adapters contribute to each token, relative to R."""
        delta = torch.stack([contributions[name].float() for name in _held_back(model)]).sum(0)  # (B, S or n, H)
        return torch.linalg.vector_norm(delta, dim=-1) / math.sqrt(delta.shape[-1] * self.texts.mean_square)


def _held_back(model: Any) -> dict[str, Any]:
    """Return by name the adapters that train, or all in use where none does."""
    used = {name: model.adapters[name] for name in model.adapters.fused_in(None)}
    trained = {name: own for name, own in used.items() if any(each.requires_grad for each in own.parameters())}
    return trained or used
