"""What an injection gained and what it cost, question by question and text by text, and intervals over both.

reliability: taught facts that are answered rightly in a taught phrasing.
generality: taught facts that are answered rightly in a phrasing that was never taught.
known: known facts, in taught phrasings, that are still answered rightly.
agreement: questions about facts that were not taught, known and unknown, whose most probable token is the frozen
    model's, of a decoder the token after the prompt; kl: the mean Kullback-Leibler divergence of the frozen model's
    probabilities from the new ones there, in nats.
loss: the mean cross-entropy at the masks of text that nothing was trained on, of a decoder that of each next token, in
    nats, before minus after; below zero something was forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...reports.comparison import Resampling
from ..fact_probing.language_model import LanguageModel
from ..fact_probing.prompts import Masked
from .questions import AnyQuestion, ask

__all__ = ["MEASURES", "Outcome", "Values", "compare", "interval", "losses", "perplexity", "values_of"]

MEASURES = ("reliability", "generality", "known", "agreement", "kl", "loss")


@dataclass(frozen=True)
class Outcome:
    """What became of a question: whether it was and is answered rightly, and how far the probabilities moved."""

    question: AnyQuestion
    before: bool
    after: bool
    agrees: bool
    kl: float


@dataclass(frozen=True)
class Values:
    """A measure: for each seed the sum of values of each unit, (seeds, units), and how many values that is, (units,).

    A unit is a fact with all its questions, or a text with all its masks.
    """

    sums: np.ndarray
    numbers: np.ndarray

    def mean(self) -> float:
        """Return the mean over all values of all seeds; NaN if there are none."""
        return float(self.sums.sum() / (self.numbers.sum() * len(self.sums))) if self.numbers.sum() else float("nan")


def compare(model: LanguageModel, frozen: LanguageModel, questions: Sequence[AnyQuestion]) -> list[Outcome]:
    """Ask two models the same questions, and return the outcomes in their order."""
    outcomes: dict[int, Outcome] = {}
    both = zip(ask(model, questions), ask(frozen, questions), strict=True)
    for (index, right_after, after), (_, right_before, before) in both:
        kl = float((before.exp() * (before - after)).sum())
        agrees = int(before.argmax()) == int(after.argmax())
        outcomes[index] = Outcome(questions[index], right_before, right_after, agrees, kl)
    return [outcomes[index] for index in range(len(questions))]


def losses(model: LanguageModel, texts: Sequence[dict[str, Any]]) -> np.ndarray:
    """Return the summed cross-entropy at the positions of each text, (texts,).

    Args:
        model: the model that is asked.
        texts: examples with `input_ids`, the `positions` that are asked, and in `labels` the tokens that are right.
    """
    inputs = [Masked(tuple(text["input_ids"]), tuple(text["positions"])) for text in texts]
    sums = np.zeros(len(texts))
    for index, logs in model.log_probabilities(inputs):
        labels = texts[index]["labels"]
        sums[index] = -float(logs[range(len(labels)), labels].sum())
    return sums


def perplexity(sums: np.ndarray, numbers: np.ndarray) -> float:
    """Return the perplexity of texts from their summed cross-entropy and their numbers of tokens, (texts,) each."""
    return math.exp(min(float(sums.sum() / numbers.sum()), 700.0))  # e**709 is the largest float


def values_of(
    taught: Sequence[int],
    outcomes: Sequence[dict[str, list[Outcome]]],
    moved: np.ndarray,
    masks: np.ndarray,
) -> dict[str, Values]:
    """Return all measures of a row.

    Args:
        taught: the numbers of the phrasings that were taught.
        outcomes: for each seed the outcomes of "taught" facts, of "known" and of "untaught".
        moved: for each seed and text the summed loss before minus that after, (seeds, texts).
        masks: the number of masks of each text, (texts,).
    """
    others = [[*own["known"], *own["untaught"]] for own in outcomes]
    chosen: dict[str, list[list[tuple[Outcome, float]]]] = {
        "reliability": [_answers(own["taught"], lambda number: number in taught) for own in outcomes],
        "generality": [_answers(own["taught"], lambda number: number not in taught) for own in outcomes],
        "known": [_answers(own["known"], lambda number: number in taught) for own in outcomes],
        "agreement": [[(each, each.agrees) for each in own] for own in others],
        "kl": [[(each, each.kl) for each in own] for own in others],
    }
    return {**{name: _by_fact(seeds) for name, seeds in chosen.items()}, "loss": Values(moved, masks)}


def _answers(outcomes: Sequence[Outcome], asked: Callable[[int], bool]) -> list[tuple[Outcome, float]]:
    """Return which questions are answered rightly, of those in phrasings that are asked."""
    return [(each, each.after) for each in outcomes if asked(each.question.number)]


def _by_fact(seeds: Sequence[Sequence[tuple[Outcome, float]]]) -> Values:
    """Sum values by fact; every seed has the same questions."""
    facts = list(dict.fromkeys(each.question.fact for each, _ in seeds[0]))
    places = {fact: number for number, fact in enumerate(facts)}
    sums, numbers = np.zeros((len(seeds), len(facts))), np.zeros(len(facts))
    for seed, own in enumerate(seeds):
        for each, value in own:
            sums[seed, places[each.question.fact]] += value
    for each, _ in seeds[0]:
        numbers[places[each.question.fact]] += 1
    return Values(sums, numbers)


def interval(own: Values, resampling: Resampling, reference: Values | None = None) -> tuple[float, float]:
    """Return the bootstrap interval of the mean over units and seeds, or of its difference from a reference's.

    Each resample draws units, and seeds, with replacement, the same for both; so runs are compared on the same facts.
    """
    seeds, units = own.sums.shape
    if not own.numbers.sum():
        return float("nan"), float("nan")
    random = np.random.default_rng(resampling.seed)
    sums = own.sums if reference is None else own.sums - reference.sums
    means = np.empty(resampling.resamples)
    for resample in range(resampling.resamples):
        drawn, of_seeds = random.integers(units, size=units), random.integers(seeds, size=seeds)
        means[resample] = sums[of_seeds][:, drawn].sum() / (own.numbers[drawn].sum() * seeds)
    tail = (1 - resampling.confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
