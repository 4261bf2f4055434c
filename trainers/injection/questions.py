"""Facts in several phrasings, and which of them a frozen model knows.

A question is a fact in one phrasing with its answer masked. It is answered rightly if no candidate but right answers
scores as high as the best right answer. A fact is known if the frozen model answers it rightly in every phrasing that
would be taught, and unknown if it answers it rightly in no phrasing at all; between the two it is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ... import data_builders
from ..fact_probing.candidates import vocabulary
from ..fact_probing.language_model import LanguageModel
from ..fact_probing.prompts import MASK, Masked, Prompter

__all__ = ["Plan", "Question", "ask", "plan_of", "questions_of", "right"]

SUBJECT, ANSWER = "[X]", "[Y]"


@dataclass(frozen=True, eq=False)
class Question:
    """A fact in a phrasing: its input, and the tokens that answer it.

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


@dataclass
class Plan:
    """The questions about the facts that are taught and about others, and what was left out for what reason."""

    taught: list[Question]
    known: list[Question]
    untaught: list[Question]
    counts: dict[str, int]


def questions_of(
    rows: Sequence[dict[str, Any]], phrasings: dict[str, list[str]], prompter: Prompter, closed: bool
) -> tuple[list[list[Question]], Counter[str]]:
    """Return the questions of each fact, in all phrasings of its relation, and how many facts were left out and why.

    Facts of the same subject and relation are one, with all their answers.

    Args:
        rows: records of the type "fact".
        phrasings: of each relation; facts of others are left out.
        prompter: the tokenizer that masks prompts.
        closed: whether candidates are the answers of the relation, not the vocabulary.
    """
    dropped: Counter[str] = Counter()
    answers: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        reason = "relation_without_phrasings" if row["relation"] not in phrasings else "no_subject"
        if row["relation"] in phrasings and row["subject"]:
            answers.setdefault((row["relation"], row["subject"]), {}).update(dict.fromkeys(row["answers"]))
        else:
            dropped[reason] += 1
    whole, lists = vocabulary(prompter), dict[str, set[int]]()
    asked: list[list[tuple[tuple[str, str], int, str, Masked, tuple[int, ...]]]] = []
    for fact, names in answers.items():
        prompts = [each.replace(ANSWER, MASK).replace(SUBJECT, fact[1]) for each in phrasings[fact[0]]]
        inputs = [prompter.masked(prompt) for prompt in prompts]
        tokens = [_single(prompter, prompt, list(names)) for prompt in prompts]
        if None in inputs or not all(tokens):
            dropped["mask_cut_off" if None in inputs else "answer_of_several_tokens"] += 1
            continue
        lists.setdefault(fact[0], set()).update(token for own in tokens for token in own)
        pairs = zip(prompts, inputs, tokens, strict=True)
        asked.append([(fact, n, prompt, masked, own) for n, (prompt, masked, own) in enumerate(pairs, 1) if masked])
    chosen = {relation: torch.tensor(sorted(own)) for relation, own in lists.items()}
    return [[Question(*each, chosen[each[0][0]] if closed else whole) for each in own] for own in asked], dropped


def _single(prompter: Prompter, prompt: str, answers: Sequence[str]) -> tuple[int, ...]:
    """Return the tokens of those answers that are a single token at the mask of a prompt."""
    known = (prompter.answer_in(prompt, answer) for answer in answers)
    return tuple(sorted({tokens[0] for tokens in known if tokens is not None and len(tokens) == 1}))


def ask(model: LanguageModel, questions: Sequence[Question]) -> Iterator[tuple[int, Tensor]]:
    """Yield for each question its index and the log-probabilities (vocabulary,) at its mask, by length."""
    return ((index, logs[0]) for index, logs in model.log_probabilities(each.masked for each in questions))


def right(question: Question, logs: Tensor) -> bool:
    """Return whether log-probabilities (vocabulary,) answer a question rightly; a tie with a wrong answer does not."""
    wrong = logs[question.candidates].masked_fill(
        torch.isin(question.candidates, torch.tensor(question.right)), -np.inf
    )
    return bool(logs[list(question.right)].max() > wrong.max())


def plan_of(
    facts: Sequence[list[Question]], frozen: LanguageModel, taught: Sequence[int], most: int, others: int
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
    answered = {id(flat[index]): right(flat[index], logs) for index, logs in ask(frozen, flat)}
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


def _flat(facts: Sequence[list[Question]], chosen: np.ndarray) -> list[Question]:
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
