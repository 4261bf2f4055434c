"""Find known names in sentences.

A name is found where all its words follow each other. A word is a run of letters, digits, underscores and combining
marks; any other character except white space is a word by itself. In scripts without spaces between words (Chinese,
Japanese except the kana of loan words, Thai, Lao, Khmer, Burmese), or before particles (Korean), each letter with its
marks is a word, so that names are found inside running text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from ._names import INVISIBLE, MARKS, normal

UNSPACED = (
    "\u3005-\u3007\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han, hiragana
    "\u1100-\u11ff\uac00-\ud7ff"  # Hangul
    "\u0e01-\u0e4e\u0e80-\u0ece\u0edc-\u0edf\u1780-\u17d3\u1000-\u103f\u1050-\u109f\uaa60-\uaa7f"  # Thai to Burmese
    "\u1950-\u19df\u1a20-\u1aad\ua980-\ua9c0\u1b00-\u1b4b"  # Tai, Javanese, Balinese
)
WORD = re.compile(
    rf"(?![{MARKS}])[{UNSPACED}][{MARKS}]*|[^\W{UNSPACED}]+(?:[{MARKS}]+[^\W{UNSPACED}]*)*|[^\w\s{INVISIBLE}]"
)

Mention = tuple[int, int, str]


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return the (start, end) of each word and each punctuation mark of a text, in order."""
    return [match.span() for match in WORD.finditer(text)]


class NameFinder:
    """Find known names in a sentence, case-sensitively, preferring the longest name at each position.

    The names are indexed once, by first word and number of words, so that the time for a sentence does not grow with
    the number of names.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = {normal(name) for name in names}
        lengths: dict[str, set[int]] = {}
        for name in self.names:
            words = WORD.findall(name)
            if words:
                lengths.setdefault(words[0], set()).add(len(words))
        self.lengths = {word: sorted(numbers, reverse=True) for word, numbers in lengths.items()}

    def find(self, sentence: str) -> tuple[list[Mention], int]:
        """Return the (start, end, name) of each mention in order, and the number of mentions left out as overlapping.

        A name inside a longer name is not a mention ("York" in "New York"). If two names overlap and neither is inside
        the other, it is unclear which is meant, and both are left out.
        """
        longest = list(self._longest(sentence))
        crossing = set()
        for index, (before, after) in enumerate(pairwise(longest)):
            if after[0] < before[1]:
                crossing |= {index, index + 1}
        return [mention for index, mention in enumerate(longest) if index not in crossing], len(crossing)

    def _longest(self, sentence: str) -> Iterator[Mention]:
        """Yield the mentions that are not inside another mention."""
        spans = [word.span() for word in WORD.finditer(sentence)]
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
