"""Probes of what a language model knows: one file each, found by name.

A file holds one class `Probe`, most derived from `_facts.FactProbe`, that names a corpus of facts and how they are
asked unless the flags say otherwise. Its docstring names the command, the published result and ours.
"""

from __future__ import annotations

from typing import Protocol

from ... import discovery

__all__ = ["Probe", "available", "load"]


class Probe(Protocol):
    """The interface of every probe.

    Attributes:
        corpus: name of the corpus, whose records are facts.
        prompts: how its facts can be asked, "template" or "evidence" or both, the default first.
        candidates: what an answer competes with by default, one of `fact_probing.candidates.CANDIDATES`.
        multi_token: what is done with answers of several tokens by default, one of `fact_probing.scoring.MULTI_TOKEN`.
    """

    corpus: str
    prompts: tuple[str, ...]
    candidates: str
    multi_token: str


def available() -> list[str]:
    """Return the names of all probes."""
    return discovery.available(__name__)


def load(name: str) -> type[Probe]:
    """Return the probe of that name.

    Raises:
        ValueError: there is no such file.
    """
    return discovery.find(__name__, "probe", name).Probe
