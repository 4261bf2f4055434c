"""Check records: typed fields, spans inside their sentence, trees with one root.

Every check raises `BadRecord` with the field, its value and what it must be; `_counts.Tally.bad` adds the file and the
record number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from ._names import normal

TYPE_NAMES = {str: "a string", int: "an integer", list: "a list", dict: "an object"}
WITHHELD = "the text is withheld"
MERGE = "merge the text into the treebank first, by the script that its README names"
WIKIDATA_ID = re.compile(r"Q[0-9]+")


class BadRecord(ValueError):
    """An error in a record of a corpus.

    Args:
        reason: the field, its value, and what it must be.
        path: the file with the error, if it is not the file being read but a second file read along with it.
    """

    def __init__(self, reason: str, path: Path | None = None) -> None:
        super().__init__(reason)
        self.path = path


def shown(value: Any) -> str:
    """Return the text of a value for a message, cut to a readable length."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def typed(value: Any, name: str, expected: type) -> Any:
    """Return the value if it has the expected type; an integer is turned into a string if a string is expected.

    Raises:
        BadRecord: the value has another type (a boolean is not an integer), or is a string that is not valid in UTF-8.
    """
    if expected is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, expected) or isinstance(value, bool):
        raise BadRecord(f"field '{name}' must be {TYPE_NAMES[expected]} but is {shown(value)}")
    text = value if isinstance(value, str) and expected is str else ""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise BadRecord(f"field '{name}' holds half a surrogate pair, which no UTF-8 text may: {shown(value)}")
    return value


def required(record: Any, name: str, expected: type) -> Any:
    """Return the field `name` of a record, which must exist and have the expected type.

    Raises:
        BadRecord: the record is not an object, or the field is missing or has another type.
    """
    if not isinstance(record, Mapping):
        raise BadRecord(f"a record must be a JSON object but is {shown(record)}")
    if name not in record:
        raise BadRecord(f"field '{name}' is missing")
    return typed(record[name], name, expected)


def optional(record: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return the field `name`, which must have the type of the default, or the default if it is missing or null."""
    return default if record.get(name) is None else typed(record[name], name, type(default))


def strings(record: Any, name: str) -> list[str]:
    """Return the field `name`, a list of at least one string.

    Raises:
        BadRecord: the field is missing, not a list or empty, or an entry is not a string.
    """
    values = required(record, name, list)
    if not values:
        raise BadRecord(f"field '{name}' is an empty list")
    return [typed(value, f"{name}[{index}]", str) for index, value in enumerate(values)]


def named(record: Any, name: str) -> str:
    """Return the field `name`, a string that is not blank.

    Raises:
        BadRecord: the field is missing, blank or not a string.
    """
    value = required(record, name, str)
    if not normal(value):
        raise BadRecord(f"field '{name}' is blank")
    return value


def label_of(record: Any, name: str, labelled: bool) -> str:
    """Return the field `name`, a label that is not blank; unless `labelled`, it is optional and "" if missing.

    Raises:
        BadRecord: the field is blank, not a string, or missing although `labelled`.
    """
    if not labelled and isinstance(record, Mapping) and record.get(name) is None:
        return ""
    return named(record, name)


def wikidata_id(value: str) -> str:
    """Return the Wikidata item id at the end of an id or URL, or "" if there is none."""
    last = value.rsplit("/", 1)[-1]
    return last if WIKIDATA_ID.fullmatch(last) else ""


def inclusive_span(record: Any, start_name: str, end_name: str, length: int) -> tuple[int, int]:
    """Read a token span whose end is inclusive, and return it with an exclusive end.

    Raises:
        BadRecord: the span is reversed (start after end) or not within the `length` tokens.
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
    """Return the typed relation row of tokens and token spans (end exclusive).

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
    """Return the relation row of a record with TACRED's keys: token, subj_start, subj_end, obj_start, obj_end.

    Raises:
        BadRecord: a field is missing or has the wrong type, or a span is invalid.
    """
    tokens = strings(record, "token")
    head = inclusive_span(record, "subj_start", "subj_end", len(tokens))
    tail = inclusive_span(record, "obj_start", "obj_end", len(tokens))
    return relation_row(tokens, head, tail, relation, head_id, tail_id)


def dependency_row(tokens: list[str], heads: list[int], deprels: list[str]) -> dict[str, Any]:
    """Return a typed dependency row after checking that the heads form a tree.

    Raises:
        BadRecord: a token is blank, the text is withheld, a head is out of range, there is not exactly one root, or
            there is a cycle.
    """
    blank = next((word for word, token in enumerate(tokens, 1) if not token.strip()), None)
    if blank is not None:
        raise BadRecord(f"word {blank} is blank")
    if len(tokens) > 1 and is_withheld(tokens):
        raise BadRecord(f"{WITHHELD}: of {len(tokens)} words {sum(map(is_masked, tokens))} are '_'; {MERGE}")
    check_tree(heads)
    return {"tokens": tokens, "heads": heads, "deprels": deprels}


def is_masked(token: str) -> bool:
    """Return whether a token is replaced by underscores, as in treebanks that may not publish their text."""
    return not token.strip("_")


def is_withheld(tokens: Sequence[str]) -> bool:
    """Return whether the words of a sentence are replaced by underscores; its punctuation may be left.

    An underscore among words is part of the text. A sentence that is a single underscore may be either.
    """
    if all(map(is_masked, tokens)):
        return True
    return sum(map(is_masked, tokens)) > 1 and not any(map(str.isalnum, "".join(tokens)))


def check_tree(heads: Sequence[int]) -> None:
    """Check that the heads (1-based, 0 for the root) form a single tree.

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
