"""Facts with their prompts, and which facts are left out for what reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

__all__ = ["Asked", "Fact", "draw", "facts_of", "without_repeated", "without_unaskable"]

SUBJECT, ANSWER, MASK = "[X]", "[Y]", "[MASK]"


@dataclass(frozen=True)
class Fact:
    """A fact: its relation, subject and right answers, and the prompts that ask for it, at least one."""

    id: str
    relation: str
    subject: str
    answers: tuple[str, ...]
    prompts: tuple[str, ...]


@dataclass
class Asked:
    """The facts of a probe, and how many of each relation were left out for what reason.

    Args:
        facts: the facts that are left, in their order.
        read: how many facts of each relation were read.
        dropped: how many facts of a relation were left out for a reason, by (relation, reason).
    """

    facts: list[Fact]
    read: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)

    def keep(self, facts: Sequence[Fact], reason: str) -> None:
        """Keep these facts alone, and count the others under a reason."""
        kept = {fact.id for fact in facts}
        self.dropped.update((fact.relation, reason) for fact in self.facts if fact.id not in kept)
        self.facts = list(facts)

    def drop(self, fact: Fact, reason: str) -> None:
        """Count a fact that could not be asked under a reason."""
        self.dropped[fact.relation, reason] += 1

    def reasons(self) -> dict[str, int]:
        """Return how many facts were left out for each reason."""
        total: Counter[str] = Counter()
        for (_, reason), number in self.dropped.items():
            total[reason] += number
        return dict(sorted(total.items()))

    def by_relation(self) -> dict[str, list[Fact]]:
        """Return the facts that are left by relation, in the order of names."""
        groups: dict[str, list[Fact]] = {name: [] for name in sorted({fact.relation for fact in self.facts})}
        for fact in self.facts:
            groups[fact.relation].append(fact)
        return groups


def facts_of(rows: Iterable[dict[str, Any]], prompts: str) -> Asked:
    """Return the facts of a corpus, asked by "template" or by "evidence".

    A fact without a prompt of this sort is left out and counted, as `no_template` or `no_evidence`. An id that several
    facts have is made unique by a number.
    """
    asked = Asked([])
    seen: Counter[str] = Counter()
    for row in rows:
        asked.read[row["relation"]] += 1
        seen[row["id"]] += 1
        own = _prompts(row, prompts)
        name = row["id"] if seen[row["id"]] == 1 else f"{row['id']}#{seen[row['id']]}"
        if own:
            asked.facts.append(Fact(name, row["relation"], row["subject"], tuple(row["answers"]), own))
        else:
            asked.dropped[row["relation"], f"no_{prompts}"] += 1
    return asked


def _prompts(row: dict[str, Any], prompts: str) -> tuple[str, ...]:
    if prompts == "evidence":
        return tuple(row["evidences"])
    template = row["template"]
    if SUBJECT in template and not row["subject"]:
        return ()
    # The answer's slot first: a subject may be called anything.
    return (template.replace(ANSWER, MASK).replace(SUBJECT, row["subject"]),) if template else ()


def without_unaskable(asked: Asked, unaskable: Callable[[str], str | None]) -> None:
    """Leave out prompts that a model of this sort can't be asked, and count facts that have no other by the reason.

    Args:
        asked: the facts.
        unaskable: returns the reason why a prompt can't be asked, None if it can.
    """
    kept = []
    for fact in asked.facts:
        reasons = {prompt: unaskable(prompt) for prompt in fact.prompts}
        usable = tuple(prompt for prompt, reason in reasons.items() if reason is None)
        if usable:
            kept.append(replace(fact, prompts=usable))
        else:
            asked.drop(fact, str(next(iter(reasons.values()))))
    asked.facts = kept


def without_repeated(asked: Asked) -> None:
    """Leave out facts that ask the same and expect the same as an earlier fact, and count them as `repeated`."""
    first = {(fact.relation, fact.answers, fact.prompts): fact for fact in reversed(asked.facts)}
    kept = {fact.id for fact in first.values()}
    asked.keep([fact for fact in asked.facts if fact.id in kept], "repeated")


def draw(asked: Asked, number: int | None) -> None:
    """Keep a fixed random sample of the facts of each relation, and count the others as `not_drawn`."""
    if number is None:
        return
    kept: set[str] = set()
    for facts in asked.by_relation().values():
        order = np.random.default_rng(0).permutation(len(facts))
        kept |= {facts[index].id for index in order[:number]}
    asked.keep([fact for fact in asked.facts if fact.id in kept], "not_drawn")
