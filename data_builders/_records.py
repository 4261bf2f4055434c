"""What a good record is: typed fields, spans inside their sentence, trees with one root.

Every check raises :class:`BadRecord` with the field, its value and what it must be; the reader of the corpus adds
the file and the record number (see ``_counts.Tally.bad``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from ._names import normal

KINDS = {str: "a string", int: "an integer", list: "a list", dict: "an object"}
WITHHELD = "the text is withheld"
MERGE = "merge the text into the treebank first, by the script that its README names"
WIKIDATA_ID = re.compile(r"Q[0-9]+")


class BadRecord(ValueError):
    """Says what is wrong with one record of a corpus.

    Args:
        reason: field, value, and what it must be.
        path: the file it stands in, where that is not the one being read but a second one read along with it.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        super().__init__(reason)
        self.path = path


def shown(value: Any) -> str:
    """The value as a message shows it: its JSON-like form, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def typed(value: Any, name: str, kind: type) -> Any:
    """Returns the value if it is of this kind; a whole number where a string is due, as of an id, becomes one.

    Raises:
        BadRecord: it is of another kind (a boolean is no integer), or a string that UTF-8 cannot hold.
    """
    if kind is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadRecord(f"field '{name}' must be {KINDS[kind]} but is {shown(value)}")
    if kind is str and not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise BadRecord(f"field '{name}' holds half a surrogate pair, which no UTF-8 text may: {shown(value)}")
    return value


def required(record: Any, name: str, kind: type) -> Any:
    """Returns the field ``name`` of a record, which must be there and of this kind.

    Raises:
        BadRecord: the record is no object, lacks the field or holds another kind of value there.
    """
    if not isinstance(record, Mapping):
        raise BadRecord(f"a record must be a JSON object but is {shown(record)}")
    if name not in record:
        raise BadRecord(f"field '{name}' is missing")
    return typed(record[name], name, kind)


def optional(record: Mapping[str, Any], name: str, default: Any) -> Any:
    """Returns the field ``name``, which must be of the default's kind, or the default if it is missing or null."""
    return default if record.get(name) is None else typed(record[name], name, type(default))


def strings(record: Any, name: str) -> list[str]:
    """Returns the field ``name``, a list of at least one string.

    Raises:
        BadRecord: it is missing, no list, empty, or an entry is no string.
    """
    values = required(record, name, list)
    if not values:
        raise BadRecord(f"field '{name}' is an empty list")
    return [typed(value, f"{name}[{index}]", str) for index, value in enumerate(values)]


def named(record: Any, name: str) -> str:
    """Returns the field ``name``, a string that is not blank.

    Raises:
        BadRecord: it is missing, no string or blank.
    """
    value = required(record, name, str)
    if not normal(value):
        raise BadRecord(f"field '{name}' is blank")
    return value


def label_of(record: Any, name: str, labelled: bool) -> str:
    """Returns the field ``name``, a label that is not blank; without ``labelled`` it may be missing, and is then "".

    Raises:
        BadRecord: it is missing where it must not, no string or blank.
    """
    if not labelled and isinstance(record, Mapping) and record.get(name) is None:
        return ""
    return named(record, name)


def wikidata_id(value: str) -> str:
    """The Wikidata item id at the end of an id or address, or "" where there is none."""
    last = value.rsplit("/", 1)[-1]
    return last if WIKIDATA_ID.fullmatch(last) else ""


def inclusive_span(record: Any, start_name: str, end_name: str, length: int) -> tuple[int, int]:
    """Reads a token span whose end is inclusive and returns it with an exclusive end.

    Raises:
        BadRecord: it is reversed (start after end) or leaves the ``length`` tokens.
    """
    start, end = required(record, start_name, int), required(record, end_name, int)
    if not 0 <= start <= end < length:
        raise BadRecord(
            f"fields '{start_name}' and '{end_name}' are {start} and {end} (inclusive) "
            f"but must not be reversed and must lie in 0..{length - 1}"
        )
    return start, end + 1


def relation_row(
    tokens: Sequence[str],
    head: tuple[int, int],
    tail: tuple[int, int],
    relation: str,
    head_id: str = "",
    tail_id: str = "",
) -> dict[str, Any]:
    """Builds one typed relation row from tokens and token spans (end exclusive).

    The text is the tokens joined by single spaces; head and tail become character offsets in it, end exclusive.

    Raises:
        BadRecord: a span is out of range, reversed, empty or covers only blank tokens.
    """
    ends = list(accumulate(len(token) + 1 for token in tokens))
    text = " ".join(tokens)

    def characters(name: str, start: int, end: int) -> dict[str, int]:
        if not 0 <= start < end <= len(tokens):
            raise BadRecord(
                f"the span of the {name} is [{start}, {end}) "
                f"but must not be empty or reversed and must lie in 0..{len(tokens)}"
            )
        if not "".join(tokens[start:end]).strip():
            raise BadRecord(f"the span of the {name}, tokens {start} to {end - 1}, covers no text")
        return {"start": ends[start] - len(tokens[start]) - 1, "end": ends[end - 1] - 1}

    spans = {"head": characters("head", *head), "tail": characters("tail", *tail)}
    return {"text": text, **spans, "relation": relation, "head_id": head_id, "tail_id": tail_id}


def subject_object_row(record: Any, relation: str, head_id: str = "", tail_id: str = "") -> dict[str, Any]:
    """Builds a relation row from the keys that TACRED made common: token, subj_start, subj_end, obj_start, obj_end.

    Raises:
        BadRecord: a key is missing or of a wrong type, or a span is no span.
    """
    tokens = strings(record, "token")
    head = inclusive_span(record, "subj_start", "subj_end", len(tokens))
    tail = inclusive_span(record, "obj_start", "obj_end", len(tokens))
    return relation_row(tokens, head, tail, relation, head_id, tail_id)


def dependency_row(tokens: list[str], heads: list[int], deprels: list[str]) -> dict[str, Any]:
    """Builds one typed dependency row after checking that the heads form a tree.

    Raises:
        BadRecord: a token is blank, the text is withheld, a head is out of range, or there is not exactly one root,
            or a cycle.
    """
    blank = next((word for word, token in enumerate(tokens, 1) if not token.strip()), None)
    if blank is not None:
        raise BadRecord(f"word {blank} is blank")
    if len(tokens) > 1 and is_withheld(tokens):
        raise BadRecord(f"{WITHHELD}: of {len(tokens)} words {sum(map(is_masked, tokens))} are '_'; {MERGE}")
    check_tree(heads)
    return {"tokens": tokens, "heads": heads, "deprels": deprels}


def is_masked(token: str) -> bool:
    """Whether underscores stand in the place of a token, as treebanks publish words that are not theirs to give."""
    return not token.strip("_")


def is_withheld(tokens: Sequence[str]) -> bool:
    """Whether underscores stand in the place of a sentence's words; its punctuation may have been left.

    An underscore beside words is one that was written. A sentence of one underscore may be either.
    """
    if all(map(is_masked, tokens)):
        return True
    return sum(map(is_masked, tokens)) > 1 and not any(map(str.isalnum, "".join(tokens)))


def check_tree(heads: Sequence[int]) -> None:
    """Checks that the heads (1-based, 0 = root) form one tree.

    Raises:
        BadRecord: a head is out of range, there is not exactly one root, or some words form a cycle.
    """
    for word, head in enumerate(heads, 1):
        if not 0 <= head <= len(heads):
            raise BadRecord(f"the head of word {word} is {head} but must lie in 0..{len(heads)}")
    roots = [word for word, head in enumerate(heads, 1) if head == 0]
    if len(roots) != 1:
        raise BadRecord(f"the tree has {len(roots)} roots {shown(roots)} but must have exactly one word with head 0")
    rooted = {0}
    for word in range(1, len(heads) + 1):
        path: dict[int, None] = {}
        while word not in rooted:
            if word in path:
                raise BadRecord(f"the heads form a cycle through word {word}")
            path[word] = None
            word = heads[word - 1]
        rooted.update(path)
