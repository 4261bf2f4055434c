"""Facts in several phrasings, and which of them a frozen model knows.

A question is a fact in one phrasing with its answer masked. It is answered rightly if no candidate but right answers
scores as high as the best right answer. A decoder reads the phrasing up to the answer, which may have several tokens:
it is right if each of them is the most probable token after those before it, as greedy decoding would say it, or, in a
closed list, if no wrong candidate is as probable as a whole. A fact is known if the frozen model answers it rightly in
every phrasing that would be taught, and unknown if it answers it rightly in no phrasing at all; between the two it is
left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ... import data_builders
from ..common.taught_names import TaughtTexts
from ..fact_probing.candidates import vocabulary
from ..fact_probing.language_model import LanguageModel
from ..fact_probing.prompts import MASK, MASKS, NOT_AT_THE_END, CausalPrompter, Masked, Prompter
from ..fact_probing.scoring import CUT_OFF, NO_TOKENS, SEVERAL

__all__ = [
    "AnyQuestion",
    "Plan",
    "Question",
    "SequenceQuestion",
    "ask",
    "phrasings_of",
    "plan_of",
    "questions_of",
    "taught_texts",
]

SUBJECT, ANSWER = "[X]", "[Y]"


class Reading(NamedTuple):
    """An input, and what makes of its log-probabilities (positions, vocabulary) the best right and wrong scores."""

    masked: Masked
    scores: Callable[[Tensor], tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Question:
    """A fact in a phrasing for a model that fills masks: its input, and the tokens that answer it.

    Args:
        fact: relation and subject.
        number: the number of the phrasing, from 1.
        prompt: the phrasing with the subject, and with a mask in the place of the answer.
        masked: the prompt as an input.
        right: the tokens that are right answers.
        candidates: the tokens that an answer competes with, (candidates,).
    """

    fact: tuple[str, str]
    number: int
    prompt: str
    masked: Masked
    right: tuple[int, ...]
    candidates: Tensor = field(repr=False)

    def readings(self) -> Iterator[Reading]:
        """Yield the input."""
        yield Reading(self.masked, self._scores)

    def _scores(self, logs: Tensor) -> tuple[float, float]:
        scores = logs[0, self.candidates]
        wrong = scores.masked_fill(torch.isin(self.candidates, torch.tensor(self.right)), -torch.inf)
        return float(logs[0, list(self.right)].max()), float(wrong.max())


@dataclass(frozen=True, eq=False)
class SequenceQuestion:
    """A fact in a phrasing for a decoder: the prompt before its answer, and the sequences of tokens that answer it.

    Args:
        fact: relation and subject.
        number: the number of the phrasing, from 1.
        prompt: the phrasing with the subject, and with a mask in the place of the answer.
        prompter: the tokenizer that makes the inputs.
        right: the right answers as they are written, by their tokens.
        candidates: the tokens of all answers of a closed list; None for the whole vocabulary at every token.
    """

    fact: tuple[str, str]
    number: int
    prompt: str
    prompter: CausalPrompter = field(repr=False)
    right: dict[tuple[int, ...], str]
    candidates: Sequence[tuple[int, ...]] | None = field(repr=False)

    def readings(self) -> Iterator[Reading]:
        """Yield the inputs, each of which begins to ask at the prompt's last token."""
        answers = [*(self.right if self.candidates is None else self.candidates)]
        for masked, own in self.prompter.in_turn(self.prompt, answers):
            chosen = [answers[number] for number in own]
            yield Reading(masked, partial(self._greedy if self.candidates is None else self._whole, chosen))

    def _whole(self, answers: list[tuple[int, ...]], logs: Tensor) -> tuple[float, float]:
        """Return the log-probabilities of the best right and wrong answer, which are sums over tokens."""
        tokens = torch.tensor(answers)  # (k, n)
        sums = logs[torch.arange(tokens.shape[1]), tokens].sum(dim=1)
        right = torch.tensor([answer in self.right for answer in answers])
        return float(sums.masked_fill(~right, -torch.inf).max()), float(sums.masked_fill(right, -torch.inf).max())

    def _greedy(self, answers: list[tuple[int, ...]], logs: Tensor) -> tuple[float, float]:
        """Return by how much the tokens of the best answer are more probable than all others, the least of them; 0."""
        tokens = torch.tensor(answers)  # (k, n)
        own = logs[torch.arange(tokens.shape[1]), tokens]
        (best, second), (most, _) = (each.T for each in logs.topk(2))  # (n,) each
        return float((own - torch.where(tokens == most, second, best)).amin(dim=1).max()), 0.0


AnyQuestion = Question | SequenceQuestion


@dataclass
class Plan:
    """The questions about the facts that are taught and about others, and what was left out for what reason."""

    taught: list[AnyQuestion]
    known: list[AnyQuestion]
    untaught: list[AnyQuestion]
    counts: dict[str, int]


class Asked(NamedTuple):
    """A prompt that can be asked for a fact: the number of its phrasing, and its right answers by their tokens."""

    number: int
    prompt: str
    right: dict[tuple[int, ...], str]


def questions_of(
    rows: Sequence[dict[str, Any]],
    phrasings: dict[str, list[str]],
    prompter: Prompter,
    closed: bool,
    taught: Sequence[int] = (),
) -> tuple[list[list[AnyQuestion]], Counter[str]]:
    """Return the questions of each fact, in all phrasings that can be asked, and how many facts were left out and why.

    Facts of the same subject and relation are one, with all their answers. Phrasings that a decoder can't be asked,
    since their answer does not end them, are counted too.

    Args:
        rows: records of the type "fact".
        phrasings: of each relation; facts of others are left out.
        prompter: the tokenizer that makes prompts inputs.
        closed: whether candidates are the answers of the relation, not the vocabulary.
        taught: the numbers of the phrasings that are taught: one of them, and one of the others, must be usable.
    """
    answers, dropped = _answers_of(rows, phrasings)
    asked: dict[tuple[str, str], list[Asked]] = {}
    unusable: set[tuple[str, int]] = set()
    for fact, names in answers.items():
        prompts = {n: _prompt(each, fact[1]) for n, each in enumerate(phrasings[fact[0]], 1)}
        usable = {n: prompt for n, prompt in prompts.items() if prompter.unaskable(prompt) is None}
        unusable |= {(fact[0], n) for n in prompts.keys() - usable.keys()}
        own = [Asked(n, prompt, _right(prompter, prompt, names)) for n, prompt in usable.items()]
        if reason := _reason(prompter, own, taught):
            dropped[reason] += 1
        else:
            asked[fact] = own
    if unusable:
        dropped[f"phrasings_{NOT_AT_THE_END}"] = len(unusable)
    if isinstance(prompter, CausalPrompter):
        return list(_sequences(asked, prompter, closed)), dropped
    return list(_single_tokens(asked, prompter, closed)), dropped


def _answers_of(
    rows: Sequence[dict[str, Any]], phrasings: dict[str, list[str]]
) -> tuple[dict[tuple[str, str], list[str]], Counter[str]]:
    """Return the different answers of each fact, by relation and subject, and why other records have none."""
    dropped: Counter[str] = Counter()
    answers: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        reason = "relation_without_phrasings" if row["relation"] not in phrasings else "no_subject"
        if row["relation"] in phrasings and row["subject"]:
            answers.setdefault((row["relation"], row["subject"]), {}).update(dict.fromkeys(row["answers"]))
        else:
            dropped[reason] += 1
    return {fact: list(names) for fact, names in answers.items()}, dropped


def _prompt(phrasing: str, subject: str) -> str:
    return phrasing.replace(ANSWER, MASK).replace(SUBJECT, subject)


def _right(prompter: Prompter, prompt: str, answers: Sequence[str]) -> dict[tuple[int, ...], str]:
    """Return the answers by their tokens in a prompt: those of a single token for a mask, all for a decoder."""
    known = {tokens: name for name in answers if (tokens := prompter.answer_in(prompt, name))}
    return {tokens: name for tokens, name in known.items() if prompter.causal or len(tokens) == 1}


def _reason(prompter: Prompter, asked: Sequence[Asked], taught: Sequence[int]) -> str | None:
    """Return why a fact can't be asked, None if it can."""
    usable = {each.number for each in asked}
    if not usable or (taught and not (usable & set(taught) and usable - set(taught))):
        return NOT_AT_THE_END
    if not all(prompter.fits(each.prompt, max(map(len, each.right), default=1)) for each in asked):
        return CUT_OFF
    if not all(each.right for each in asked):
        return NO_TOKENS if prompter.causal else SEVERAL
    return None


def _single_tokens(
    asked: dict[tuple[str, str], list[Asked]], prompter: Prompter, closed: bool
) -> Iterator[list[AnyQuestion]]:
    """Yield the questions of each fact for a model that fills masks."""
    whole, lists = vocabulary(prompter), dict[str, set[int]]()
    for (relation, _), own in asked.items():
        lists.setdefault(relation, set()).update(token for each in own for (token,) in each.right)
    chosen = {relation: torch.tensor(sorted(own)) for relation, own in lists.items()}
    for fact, own in asked.items():
        candidates = chosen[fact[0]] if closed else whole
        inputs = [
            (each, prompter.masked(each.prompt), tuple(sorted(token for (token,) in each.right))) for each in own
        ]
        yield [Question(fact, each.number, each.prompt, masked, r, candidates) for each, masked, r in inputs if masked]


def _sequences(
    asked: dict[tuple[str, str], list[Asked]], prompter: CausalPrompter, closed: bool
) -> Iterator[list[AnyQuestion]]:
    """Yield the questions of each fact for a decoder."""
    names: dict[str, dict[str, None]] = {}
    for (relation, _), own in asked.items():
        names.setdefault(relation, {}).update((name, None) for each in own for name in each.right.values())
    tables: dict[tuple[str, str], Sequence[tuple[int, ...]]] = {}  # of a relation's candidates after a text
    for fact, own in asked.items():
        questions: list[AnyQuestion] = []
        for number, prompt, right in own:
            place = fact[0], prompter.before(prompt)
            if closed and place not in tables:
                known = (prompter.answer_in(prompt, name) for name in names[fact[0]])
                tables[place] = list(dict.fromkeys(tokens for tokens in known if tokens is not None))
            candidates = tables[place] if closed else None
            questions.append(SequenceQuestion(fact, number, prompt, prompter, right, candidates))
        yield questions


def ask(model: LanguageModel, questions: Sequence[AnyQuestion]) -> Iterator[tuple[int, bool, Tensor]]:
    """Yield for each question its index, whether it is answered rightly, and what the model says in its place.

    A tie with a wrong answer is not right. What the model says are the log-probabilities (vocabulary,) at the mask or,
    of a decoder, of the token after the prompt. Questions come in the order of lengths.
    """
    waiting: dict[int, tuple[int, Reading]] = {}
    left: dict[int, int] = {}
    scores: dict[int, list[tuple[float, float]]] = {}

    def inputs() -> Iterator[Masked]:
        position = 0
        for index, question in enumerate(questions):
            readings = list(question.readings())
            left[index], scores[index] = len(readings), []
            for reading in readings:
                waiting[position] = index, reading
                position += 1
                yield reading.masked

    for position, logs in model.log_probabilities(inputs()):
        index, reading = waiting.pop(position)
        scores[index].append(reading.scores(logs))
        left[index] -= 1
        if not left[index]:
            right, wrong = (max(values) for values in zip(*scores.pop(index), strict=True))
            yield index, right > wrong, logs[0]


def plan_of(
    facts: Sequence[list[AnyQuestion]], frozen: LanguageModel, taught: Sequence[int], most: int, others: int
) -> Plan:
    """Ask a frozen model, and return the questions about facts that are taught and about others.

    Args:
        facts: the questions of each fact.
        frozen: the model before anything is taught.
        taught: the numbers of the phrasings that are taught.
        most: how many of the unknown facts are taught, a fixed random sample.
        others: how many known facts, and how many unknown facts that are not taught, are asked.

    Raises:
        ValueError: there is nothing to teach.
    """
    flat = [question for own in facts for question in own]
    answered = {id(flat[index]): right for index, right, _ in ask(frozen, flat)}
    known = [own for own in facts if all(answered[id(each)] for each in own if each.number in taught)]
    unknown = [own for own in facts if not any(answered[id(each)] for each in own)]
    if not unknown:
        raise ValueError(
            f"of {len(facts)} facts that can be asked, the model knows all or some phrasing of each; add facts"
        )
    order = np.random.default_rng(0).permutation(len(unknown))
    counts = {"asked": len(facts), "known": len(known), "unknown": len(unknown)}
    counts |= {"partly_known": len(facts) - len(known) - len(unknown), "taught": min(most, len(unknown))}
    return Plan(
        _flat(unknown, order[:most]),
        _flat(known, np.random.default_rng(0).permutation(len(known))[:others]),
        _flat(unknown, order[most:][:others]),
        counts,
    )


def _flat(facts: Sequence[list[AnyQuestion]], chosen: np.ndarray) -> list[AnyQuestion]:
    return [question for index in np.sort(chosen) for question in facts[index]]


def phrasings_of(path: str, relations: Sequence[str], taught: Sequence[int]) -> dict[str, list[str]]:
    """Read the phrasings of relations, as far as the file has them, and check which are taught.

    Raises:
        OSError: the file can't be read.
        ValueError: the file is malformed or has none of the relations, or all phrasings of one would be taught.
    """
    every = data_builders.read_templates(Path(path))
    phrasings = {relation: every[relation] for relation in sorted(set(relations) & every.keys())}
    if not phrasings:
        raise ValueError(
            f"--templates {path} has phrasings of {sorted(every)[:5]} and none of the relations of the facts, "
            f"{sorted(set(relations))[:5]}; write one line for each relation"
        )
    for relation, own in phrasings.items():
        if not (set(taught) <= set(range(1, len(own) + 1)) and len(taught) < len(own)):
            raise ValueError(
                f"--taught_phrasings {' '.join(map(str, taught))}: relation {relation!r} has {len(own)} phrasings in "
                f"{path}; teach some of them by their numbers from 1, and leave at least one to measure generality"
            )
    return phrasings


def taught_texts(plan: Plan, taught: Sequence[int], mask: str | None) -> TaughtTexts:
    """Return the taught phrasings of the taught facts with the names of their subjects.

    Of a decoder they end before the answer; an encoder reads them as a whole, with its `mask` in the answer's place.
    """
    texts = []
    for question in plan.taught:
        subject, before = question.fact[1], MASKS.split(question.prompt)[0].rstrip()
        text = before if mask is None else MASKS.sub(lambda _: mask, question.prompt)
        if question.number in taught and subject in text:
            texts.append((text, text.index(subject), text.index(subject) + len(subject)))
    return TaughtTexts(texts, list(dict.fromkeys(question.fact[1] for question in plan.taught)))
