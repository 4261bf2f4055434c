"""Find the entities that texts mention: by a table of names, or as spaCy has linked them already.

Names are searched all at once (Aho and Corasick, 1975), as whole words: what a word is, also in scripts without spaces
between words, the corpora say. Like the names of corpora they are compared in composed Unicode (NFC), with a single
space for each run of white space, while the spans that are returned are those of the text as it was given.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unicodedata import normalize

from ..data_builders import INVISIBLE, MARKS, WORD, normal
from .formats import numbered_lines

__all__ = ["EntityLinker", "LinkCounts", "read_aliases", "spacy_entities"]

logger = logging.getLogger(__name__)

NO_ENTITY = ("", "NIL")  # what spaCy's kb_id_ is where nothing is linked
FOLLOWING = f"{MARKS}\u1161-\u1175\u11a8-\u11c2"  # what may compose with the character before it: marks, Hangul vowels
PIECE = re.compile(
    rf"(?P<space>[\s{INVISIBLE}]*\s[\s{INVISIBLE}]*)|(?P<invisible>[{INVISIBLE}])|[^\s{INVISIBLE}][{FOLLOWING}]*"
)

Entity = dict[str, Any]


@dataclass
class LinkCounts:
    """What a linker has come across so far."""

    texts: int = 0
    linked: int = 0  # mentions
    ambiguous: int = 0  # mentions whose name is of several entities, none of them the likeliest; left out
    without_id: int = 0  # entities of documents of spaCy that are linked to nothing; left out


class EntityLinker:
    """Link texts by a table of names, preferring the leftmost name and of those that begin there the longest.

    Args:
        aliases: (name, id) or (name, id, prior); a prior is a count or a probability, and those of a pair that repeats
            are added up. Without it is 0.
        case_sensitive: whether "paris" is no mention of "Paris". If not, letters are compared in lower case, where it
            is a single letter.
        ambiguous: "prior" takes of a name's entities the one with the highest prior, if there is one; "skip" takes
            names of a single entity only. What is not taken is left out and counted, and so are names inside it.

    Attributes:
        counts: what was linked and left out so far.

    Raises:
        ValueError: a name or id is empty, a prior is no number from 0 on, there are no names, or the library
            ahocorasick_rs is not installed.
    """

    def __init__(
        self,
        aliases: Iterable[Sequence[Any]],
        *,
        case_sensitive: bool = True,
        ambiguous: str = "prior",
    ) -> None:
        if ambiguous not in ("prior", "skip"):
            raise ValueError(f"ambiguous={ambiguous!r} must be 'prior' or 'skip'")
        self.case_sensitive, self.counts = case_sensitive, LinkCounts()
        priors: dict[str, dict[str, float]] = {}
        for number, alias in enumerate(aliases):
            name, entity, prior = _checked(alias, f"alias {number}")
            of_name = priors.setdefault(self._folded(normal(name)), {})
            of_name[entity] = of_name.get(entity, 0.0) + prior
        if not priors:
            raise ValueError("there are no names to link by; give (name, id) for each name of an entity")
        self.names = list(priors)
        self.entities = [_likeliest(of_name, ambiguous) for of_name in priors.values()]
        self._automaton = _automaton_of(self.names)

    @classmethod
    def from_file(cls, path: str | os.PathLike, **options: Any) -> EntityLinker:
        """Read a table of lines "name TAB id" or "name TAB id TAB prior" in UTF-8, plain or gzipped.

        Options are those of the class.

        Raises:
            OSError: there is no such file.
            ValueError: a line is malformed; the sentence names it. Or an error of the class.
        """
        return cls(_aliases_in(Path(path).expanduser()), **options)

    def link(self, texts: Any) -> list[list[Entity]]:
        """Return for each text its entities in order, {"start", "end", "id"} with characters of the text as given.

        A document of spaCy, instead of a string, is taken as it was linked. A single text is a list of one.

        Raises:
            TypeError: a text is neither a string nor a document.
            ValueError: a text holds half a surrogate pair.
        """
        single = isinstance(texts, str) or hasattr(texts, "ents")  # a document is a sequence too, of its tokens
        return [self._linked(text, number) for number, text in enumerate([texts] if single else texts)]

    def _linked(self, text: Any, number: int) -> list[Entity]:
        self.counts.texts += 1
        if not isinstance(text, str):
            entities = spacy_entities(text)
            self.counts.linked += len(entities)
            self.counts.without_id += len(text.ents) - len(entities)
            return entities
        composed, starts, ends = _composed(text)
        try:
            matches = self._whole_words(self._folded(composed))
        except UnicodeEncodeError as error:
            raise ValueError(f"text {number} holds half a surrogate pair ({error}); repair it") from error
        entities = []
        for start, end, entity in matches:
            if entity is not None:
                entities.append({"start": starts[start], "end": ends[end - 1], "id": entity})
        self.counts.linked += len(entities)
        self.counts.ambiguous += len(matches) - len(entities)
        return entities

    def _whole_words(self, text: str) -> list[tuple[int, int, str | None]]:
        """Return start, end and entity of the names in a text, none of which overlap."""
        matches = self._automaton.find_matches_as_indexes(text, overlapping=True)
        words = [word.span() for word in WORD.finditer(text)] if matches else []
        begins, ends = {begin for begin, _ in words}, {end for _, end in words}
        whole = [(start, -end, number) for number, start, end in matches if start in begins and end in ends]
        taken: list[tuple[int, int, str | None]] = []
        for start, minus_end, number in sorted(whole):
            if not taken or start >= taken[-1][1]:
                taken.append((start, -minus_end, self.entities[number]))
        return taken

    def _folded(self, text: str) -> str:
        return text if self.case_sensitive else "".join(map(_lower, text))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_automaton"}  # which can't be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._automaton = _automaton_of(self.names)


def spacy_entities(document: Any) -> list[Entity]:
    """Return the entities of a spaCy document that have an id, {"start", "end", "id"} in characters of its text.

    They are those that spaCy linked: `kb_id_` is neither empty nor "NIL". No table of names is needed. That a document
    has entities and none of them an id is said in a warning, once.

    Raises:
        TypeError: it is no document.
    """
    try:
        spans = [(span.start_char, span.end_char, span.kb_id_) for span in document.ents]
    except AttributeError as error:
        raise TypeError(f"a text is a string or a document of spaCy, not {type(document).__name__}") from error
    entities = [{"start": start, "end": end, "id": entity} for start, end, entity in spans if entity not in NO_ENTITY]
    if spans and not entities:
        _say_nothing_is_linked()
    return entities


@lru_cache(maxsize=1)
def _say_nothing_is_linked() -> None:
    logger.warning(
        "a document of spaCy has entities, and none of them a kb_id_, so nothing is linked in it: link it before, "
        "keep it by DocBin (JSON drops the ids), or give its text to a linker with a table of names"
    )


def read_aliases(path: str | os.PathLike) -> dict[str, str]:
    """Return the id of each name in a table of names, as `EntityLinker.from_file` reads it; of several ids the last.

    Lines without a name, or whose prior is no number, are left out and counted in a warning: the official
    `entity_map.txt` has some.

    Raises:
        OSError: there is no such file.
        ValueError: a line is malformed, or there is no name; the sentence names it.
    """
    aliases, left_out = {}, []
    for number, fields in _fields_in(Path(path).expanduser()):
        where = f"{path}, line {number}"
        if len(fields) in (2, 3) and not (normal(fields[0].strip()) and _prior(fields) >= 0):
            left_out.append(number)
            continue
        name, entity, _ = _checked(fields, where)
        aliases[normal(name)] = entity
    if left_out:
        reason = "they have no name, or a third column that is no number"
        logger.warning("%s: left out %d lines, line %d first: %s", path, len(left_out), left_out[0], reason)
    if not aliases:
        raise ValueError(f"{path} has no name; give a file of lines name TAB id, one for each name of an entity")
    return aliases


def _fields_in(path: Path) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split("\t")) for number, line in numbered_lines(path) if line.strip())


def _aliases_in(path: Path) -> Iterator[tuple[str, str, float]]:
    return (_checked(fields, f"{path}, line {number}") for number, fields in _fields_in(path))


def _prior(alias: Sequence[Any]) -> float:
    """Return the prior of an alias, NaN where it is no number from 0 on."""
    try:
        prior = float(alias[2]) if len(alias) == 3 else 0.0
    except (TypeError, ValueError):
        return math.nan
    return prior if 0 <= prior < math.inf else math.nan


def _checked(alias: Sequence[Any], where: str) -> tuple[str, str, float]:
    """Return the name, id and prior of an alias."""
    if isinstance(alias, str) or len(alias) not in (2, 3) or not all(isinstance(text, str) for text in alias[:2]):
        raise ValueError(f"{where}: {alias!r} is not a name and an id, perhaps with a prior, separated by tabs")
    name, entity = alias[0].strip(), alias[1].strip()
    if not normal(name) or not entity:
        raise ValueError(f"{where}: {alias!r} has an empty {'id' if normal(name) else 'name'}; leave it out")
    if math.isnan(prior := _prior(alias)):
        raise ValueError(f"{where}: prior {alias[2]!r} of {name!r} must be a number from 0 on")
    return name, entity, prior


def _likeliest(priors: dict[str, float], ambiguous: str) -> str | None:
    """Return the entity that a name stands for, or None where that is not clear."""
    best = max(priors, key=lambda entity: priors[entity])
    if len(priors) == 1:
        return best
    clear = sum(prior == priors[best] for prior in priors.values()) == 1
    return best if clear and ambiguous == "prior" else None


def _automaton_of(names: list[str]) -> Any:
    if importlib.util.find_spec("ahocorasick_rs") is None:
        raise ValueError("linking needs ahocorasick_rs, which is not installed; pip install 'kadapter[graphs]'")
    from ahocorasick_rs import AhoCorasick, MatchKind

    # All matches, not the longest alone: where that ends inside a word, a shorter one may be a mention.
    return AhoCorasick(names, matchkind=MatchKind.Standard, store_patterns=False)


@lru_cache(maxsize=65536)
def _lower(character: str) -> str:
    forms = (character.casefold(), character.lower(), character)
    return next(form for form in forms if len(form) == 1)  # of another length, it would move what follows


def _composed(text: str) -> tuple[str, Sequence[int], Sequence[int]]:
    """Return a text in the form of `normal`, and of each of its characters where that begins and ends in the text."""
    if normal(text) == text:
        return text, range(len(text)), range(1, len(text) + 1)
    pieces: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for piece in PIECE.finditer(text):
        form = {"space": " ", "invisible": ""}.get(piece.lastgroup or "")
        form = normalize("NFC", piece.group()) if form is None else form
        pieces.append(form)
        starts += [piece.start()] * len(form)
        ends += [piece.end()] * len(form)
    return "".join(pieces), starts, ends
