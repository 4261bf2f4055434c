"""Normalise the spelling of names (relations, labels, types, entities and their aliases) in every corpus."""

from __future__ import annotations

from functools import lru_cache
from unicodedata import category, normalize

INVISIBLE = "\u200b\u2060\ufeff"  # zero-width spaces, which Python does not count as white space
# Combining marks, which belong to the character before them, for character classes of regular expressions.
MARKS = "".join(chr(code) for code in range(0x300, 0x10000) if category(chr(code)).startswith("M"))

_REMOVED = dict.fromkeys(map(ord, INVISIBLE))


@lru_cache(maxsize=65536)
def normal(name: str) -> str:
    """Return a name in composed Unicode (NFC), stripped, with a single space for each run of white space of any width.

    Case is kept: names that differ only in case are different names.
    """
    if name.isascii():
        return " ".join(name.split())
    return " ".join(normalize("NFC", name).translate(_REMOVED).split())
