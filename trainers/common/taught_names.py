"""Names of what is taught: kept out of all texts that hold an adapter back, and made into names of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from unicodedata import normalize

import datasets
import numpy as np

from ...data_builders import NameFinder, as_texts

__all__ = ["TaughtTexts", "asked", "share_of_long_answers"]

TRIES = 50  # names to make until one is nobody's


def asked(mentions: Sequence[Mapping[str, int]]) -> list[Mapping[str, int]]:
    """Return the mentions that a text is about: all but the last to stand, which is its answer."""
    return sorted(mentions, key=lambda span: span["start"])[:-1]


def share_of_long_answers(records: datasets.Dataset) -> float:
    """Return the share of records of the type "text" whose answer, their last mention, has several words; else 0."""
    columns = as_texts(records[:]) if "mentions" in records.column_names else {"text": [], "mentions": []}
    answers = [
        text[last["start"] : last["end"]]
        for text, mentions in zip(columns["text"], columns["mentions"], strict=True)
        for last in sorted(mentions, key=lambda span: span["start"])[-1:]
    ]
    return sum(len(answer.split()) > 1 for answer in answers) / max(1, len(answers))


@dataclass
class TaughtTexts:
    """Texts that teach facts, and the names of what they are about.

    Args:
        texts: each text with its first name's place in it.
        names: the names of what the texts are about, each once.
    """

    texts: list[tuple[str, int, int]]
    names: list[str]

    @classmethod
    def of(cls, records: datasets.Dataset) -> TaughtTexts:
        """Read the records of the type "text", of which each mention but the last is a name; others teach no names."""
        texts: list[tuple[str, int, int]] = []
        names: dict[str, None] = {}
        columns = as_texts(records[:]) if "mentions" in records.column_names else {"text": [], "mentions": []}
        for text, mentions in zip(columns["text"], columns["mentions"], strict=True):
            spans = [(span["start"], span["end"]) for span in asked(mentions)]
            names.update(dict.fromkeys(text[start:end] for start, end in spans))
            texts += [(text, *spans[0])] if spans else []
        return cls(texts, list(names))

    def without(self, texts: Sequence[str]) -> list[str]:
        """Return the texts in which none of the names stands as whole words.

        Capitals, the shape of apostrophes, and whether accents are characters of their own, make no difference.
        """
        finder = NameFinder(map(_folded, self.names))
        return [text for text in texts if finder.find(_folded(text)) == ([], 0)]

    def about_others(self, number: int) -> list[str]:
        """Return so many of the texts, drawn at random, about names that are made from these and are none of them.

        Every second name has its words from several names, and the others are new words, of the halves of theirs: so
        neither a part of a name nor a word that was never read says whether a name was taught.

        Raises:
            ValueError: there are no texts with a name and an answer, or too few names to make others of.
        """
        if not self.texts:
            raise ValueError(
                "--locality_other_names exchanges the names that texts are about, and none of those that are learned "
                "has a name and an answer; use it with facts, such as --corpus triples, or leave it out"
            )
        generator, made, known = np.random.default_rng(0), [], {name.casefold() for name in self.names}
        for count, index in enumerate(generator.choice(len(self.texts), number, replace=number > len(self.texts))):
            text, start, end = self.texts[index]
            made.append(text[:start] + self._other(text[start:end], known, bool(count % 2), generator) + text[end:])
        return made

    def _other(self, name: str, known: set[str], new_words: bool, generator: np.random.Generator) -> str:
        """Return a name with as many words that is none of the known ones."""
        for attempt in range(TRIES):
            spliced = new_words or attempt >= TRIES // 2 or len(name.split()) == 1
            made = " ".join(self._word(word, number, spliced, generator) for number, word in enumerate(name.split()))
            if made.casefold() not in known:
                return made
        raise ValueError(
            f"--locality_other_names makes names from those that are taught, and could make none from {name!r} and "
            f"{len(self.names) - 1} others; teach facts about more, or leave it out"
        )

    def _word(self, word: str, number: int, spliced: bool, generator: np.random.Generator) -> str:
        """Return a word at this place of another name, or one made of the halves of two."""
        others = [self._drawn(generator, number, word) for _ in range(2 if spliced else 1)]
        if not spliced:
            return others[0]
        first, second = others
        return first[: (len(first) + 1) // 2] + second[len(second) // 2 :].lower()

    def _drawn(self, generator: np.random.Generator, number: int, word: str) -> str:
        words = self.names[int(generator.integers(len(self.names)))].split()
        return words[number] if number < len(words) else word


def _folded(text: str) -> str:
    return normalize("NFC", text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").casefold())
