"""Split passages into sentences, in every script that marks the end of sentences.

Sentences end where Unicode (UAX 29) says so, as implemented by ICU: after a danda, an Urdu or Ethiopic full stop, "。"
or "។" as well as after ".", "!" and "?"; in Greek text ";" is a question mark. The rules that the standard leaves to
implementations are added here. A full stop after an initial ("J. Voss") or a common abbreviation ("Dr. Voss") does not
end a sentence. Nor does any mark before a lower-case letter ("Did she?" he asked), or an ASCII mark without a space
after it ("Yahoo!Japan"). A mark before a number does ("He left. 1910 came"), and so do an ellipsis and the Tibetan
shad before white space. In scripts that do not mark the end of sentences, such as Thai, a line is a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from icu4py.breakers import SentenceBreaker

from ._names import MARKS

CLOSING = "[\"')\\]\u201d\u2019\u00bb]*"  # quotation marks, straight or not, and brackets
FIRST_LETTER = re.compile("[\"'(\\[\u201c\u2018\u00ab]*(\\S)")
MARKED_END = re.compile(rf"[.!?\u2026]{CLOSING}(\s*)$")  # a space must follow
FURTHER_END = re.compile(rf"(?<=[.!?\u2026\u0f0d\u0f0e]){CLOSING}\s+")
ABBREVIATED = re.compile(rf"(?<![\w{MARKS}])([\w{MARKS}]+)\.\s*$")
INITIAL = re.compile(rf"[^\W\d_][{MARKS}]*")
GREEK, LATIN = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]"), re.compile(r"[A-Za-z]")
TITLES = ("Mr", "Mrs", "Ms", "Dr", "Prof", "Sr", "Jr", "Gen", "Col", "Lt", "Capt", "Rev", "Hon", "Sen", "Gov")
ABBREVIATIONS = frozenset((*TITLES, "St", "Mt", "Ft", "No", "vs", "cf", "ca", "approx"))


def sentences(passage: str) -> Iterator[str]:
    """Yield the sentences of a passage, stripped."""
    sentence = ""
    for piece in _pieces(passage):
        if sentence.strip() and _ends(sentence, piece):
            yield sentence.strip()
            sentence = ""
        sentence += piece
    if sentence.strip():
        yield sentence.strip()


def _pieces(passage: str) -> Iterator[str]:
    """Yield the pieces of a passage between all positions where a sentence might end."""
    greek = ";" in passage and len(GREEK.findall(passage)) > len(LATIN.findall(passage))
    # Use the strings of ICU, not its positions, which count characters beyond U+FFFF twice.
    for piece in SentenceBreaker(passage, "el" if greek else "en"):
        start = 0
        for end in FURTHER_END.finditer(piece):
            yield piece[start : end.end()]
            start = end.end()
        yield piece[start:]


def _ends(sentence: str, following: str) -> bool:
    """Return whether a sentence ends before the text that follows it."""
    first, marked, word = FIRST_LETTER.match(following), MARKED_END.search(sentence), ABBREVIATED.search(sentence)
    if first is None or first.group(1).islower() or (marked and not marked.group(1)):
        return False
    return word is None or not (word.group(1) in ABBREVIATIONS or INITIAL.fullmatch(word.group(1)))
