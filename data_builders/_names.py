"""The one spelling of a name: of relations, labels, types, entities and their aliases, in every corpus."""

from __future__ import annotations

from functools import lru_cache
from unicodedata import category, normalize

INVISIBLE = "\u200b\u2060\ufeff"  # spaces without width, which Python takes for no space
# Combining marks belong to the character before them; for a class of characters in a regular expression.
MARKS = "".join(chr(code) for code in range(0x300, 0x10000) if category(chr(code)).startswith("M"))

_REMOVED = dict.fromkeys(map(ord, INVISIBLE))


@lru_cache(maxsize=65536)
def normal(name: str) -> str:
    """The name as Unicode composes it (NFC), stripped, with each run of white space, of any width, made one space.

    Case stays: two names that differ in it are two names.
    """
    if name.isascii():
        return " ".join(name.split())
    return " ".join(normalize("NFC", name).translate(_REMOVED).split())
