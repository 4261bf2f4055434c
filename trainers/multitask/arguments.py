"""Flags of run_multitask.py: the objectives, their corpora, and the encoder that learns them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from ..common.arguments import CorpusArguments, HeadArguments

__all__ = ["CorporaArguments", "MultitaskArguments"]


@dataclass(kw_only=True)
class CorporaArguments(CorpusArguments):
    """Which records are trained and evaluated on: a corpus for each objective."""

    corpus: str = field(init=False, default="")
    data_dir: str = field(init=False, default="")
    corpora: list[str] = field(metadata={"help": "Name of each objective's corpus: files of data_builders/."})
    data_dirs: list[str] = field(metadata={"help": "Directory of each corpus as released."})

    def each(self) -> list[CorpusArguments]:
        """Return separate arguments for each corpus."""
        arguments: list[CorpusArguments] = []
        for name, folder in zip(self.corpora, self.data_dirs, strict=True):
            corpus = copy.copy(self)
            corpus.corpus, corpus.data_dir = name, folder
            arguments.append(corpus)
        return arguments


@dataclass(kw_only=True)
class MultitaskArguments(HeadArguments):
    """Which encoder is trained, by which objectives, under which heads."""

    objectives: list[str] = field(metadata={"help": "Names of the objectives: files of trainers/pretraining/."})
