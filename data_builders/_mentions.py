"""Finds sentences in passages, and known names in sentences.

For languages that put spaces between words. A word is a run of letters, digits, underscores and combining marks; any
other character that is no space is a word of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from unicodedata import category

# Combining marks belong to the word before them: without them "Andre" would be found in a decomposed "André".
_MARKS = "".join(chr(code) for code in range(0x10000) if category(chr(code)).startswith("M"))
WORD = re.compile(rf"[\w{re.escape(_MARKS)}]+|[^\w\s]")
CLOSING, OPENING = "\"')\\]\u201d\u2019", "\"'(\\[\u201c\u2018"  # straight and typographic quotes, brackets
SENTENCE_END = re.compile(rf"[.!?…]+[{CLOSING}]*\s+(?=[{OPENING}]*(\S))")
TITLES = ("Mr", "Mrs", "Ms", "Dr", "Prof", "Sr", "Jr", "Gen", "Col", "Lt", "Capt", "Rev", "Hon", "Sen", "Gov")
ABBREVIATIONS = frozenset((*TITLES, "St", "Mt", "Ft", "No", "vs", "cf", "ca", "approx"))

Mention = tuple[int, int, str]


def sentences(passage: str) -> Iterator[str]:
    """Splits a passage after ".", "!", "?" or "…" with a space after it and no small letter next.

    A full stop after a single letter ("J. Voss") or a common abbreviation ("Dr. Voss") ends no sentence.
    """
    begin = 0
    for end in SENTENCE_END.finditer(passage):
        if end.group(1).islower() or _abbreviated(passage[begin : end.start()], end.group()):
            continue
        yield passage[begin : end.end()].strip()
        begin = end.end()
    if passage[begin:].strip():
        yield passage[begin:].strip()


def _abbreviated(before: str, mark: str) -> bool:
    words = re.findall(r"\w+$", before)
    return (
        mark.rstrip() == "."
        and bool(words)
        and (words[0] in ABBREVIATIONS or re.fullmatch(r"[^\W\d_]", words[0]) is not None)
    )


def normal(name: str) -> str:
    """The name with each run of spaces made one space."""
    return " ".join(name.split())


class NameFinder:
    """Finds known names in a sentence: case-sensitive, whole words only, the longest at each place.

    The names are compiled once, by first word and number of words, so that the cost of a sentence does not grow with
    the number of names.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = {normal(name) for name in names}
        lengths: dict[str, set[int]] = {}
        for name in self.names:
            words = WORD.findall(name)
            if words:
                lengths.setdefault(words[0], set()).add(len(words))
        self.lengths = {word: sorted(found, reverse=True) for word, found in lengths.items()}

    def find(self, sentence: str) -> tuple[list[Mention], int]:
        """Returns the (start, end, name) of each mention in order, and the number of mentions left out as overlapping.

        A name inside a longer one is no mention ("York" in "New York"). Where two names cross, neither inside the
        other, there is no telling which is meant, and both are left out.
        """
        longest = list(self._longest(sentence))
        crossing = set()
        for index, (before, after) in enumerate(pairwise(longest)):
            if after[0] < before[1]:
                crossing |= {index, index + 1}
        return [mention for index, mention in enumerate(longest) if index not in crossing], len(crossing)

    def _longest(self, sentence: str) -> Iterator[Mention]:
        """The mentions that lie inside no other one."""
        spans = [found.span() for found in WORD.finditer(sentence)]
        covered = 0
        for index, (start, end) in enumerate(spans):
            for length in self.lengths.get(sentence[start:end], ()):
                if index + length > len(spans):
                    continue
                last = spans[index + length - 1][1]
                name = normal(sentence[start:last])
                if name in self.names:
                    if last > covered:
                        yield start, last, name
                        covered = last
                    break
