"""What is asked of a head: texts, with mentions in double square brackets where it reads mentions, or with masks.

Here too mistakes are found before torch and transformers are imported.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ._preflight import MASKS

__all__ = ["ASKED", "MENTIONS", "Asked", "calibration_of", "examples_of", "lines_of", "mentions_of", "texts_of"]

MENTIONS = {"KAdapterForEntityPairClassification": 2, "KAdapterForEntityClassification": 1}
ASKED = (*MENTIONS, *(f"KAdapterFor{head}" for head in ("SequenceClassification", "TokenClassification")))
ASKED += ("KAdapterForDependencyParsing", "KAdapterForMaskedLM")
MENTION = re.compile(r"\[\[(.+?)(?:\|(head|tail))?\]\]")
RECORDS = ".jsonl"  # the end of the names of files that hold a JSON record in each line


class Asked(NamedTuple):
    """A text, the place that errors name, and the adapters that its record names, None where it names none."""

    text: str
    where: str
    adapter_names: Any = None


def texts_of(texts: Sequence[str], file: Path | None = None) -> list[Asked]:
    """Return texts, and after them those of a file: a text in each line or, in *.jsonl, a record in each.

    A record has "text" and may have "adapter_names".

    Raises:
        OSError: there is no such file.
        ValueError: it is no text in UTF-8, or a line is no such record.
    """
    lines = [] if file is None else lines_of(file)
    if file is not None and file.suffix == RECORDS:
        records = [_record(f"{file}, record {number}", line) for number, line in enumerate(lines, start=1)]
        return [*texts_of(texts), *records]
    return [Asked(text, f"text {number}") for number, text in enumerate([*texts, *lines], start=1)]


def _record(where: str, line: str) -> Asked:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{where}, {line[:80]!r}, is no JSON ({error}); write {{"text": "..."}}') from error
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        raise ValueError(f'{where}, {line[:80]!r}, has no text; write {{"text": "...", "adapter_names": ["fac"]}}')
    if unknown := sorted(set(record) - {"text", "adapter_names"}):
        raise ValueError(f"{where} has the unknown field {unknown[0]!r}; a record has 'text' and 'adapter_names'")
    return Asked(record["text"], where, record.get("adapter_names"))


def examples_of(artifact: str, head: str, texts: Sequence[Asked]) -> list[dict[str, Any]]:
    """Return for each text its words without brackets and, where the head reads mentions, its spans.

    Raises:
        ValueError: there are no texts or the head can't be asked, or a text is empty or lacks mentions or masks.
    """
    if head == "KAdapterModel":
        raise ValueError(
            f"{artifact} has no head, so it predicts nothing: train one by kadapter task, or ask what its adapters "
            "know by kadapter probe-text"
        )
    if head not in ASKED:
        raise ValueError(
            f"the head of {artifact}, a {head}, is asked about more than a text; its card shows how in Python. "
            f"Asked by this command are {', '.join(ASKED)}"
        )
    if not texts:
        raise ValueError("there are no texts; give them after the artifact, or a --file with one in each line")
    return [{**_example(asked.where, asked.text, head), "where": asked.where} for asked in texts]


def _example(where: str, text: str, head: str) -> dict[str, Any]:
    if not text.strip():
        raise ValueError(f"{where} is empty; leave it out")
    if head == "KAdapterForMaskedLM" and not any(mask in text.lower() for mask in MASKS):
        raise ValueError(f"{where}, {text!r}, has no mask; write <mask> or [MASK] where the answer belongs")
    if head not in MENTIONS:
        return {"text": text}
    plain, spans = mentions_of(text)
    if len(spans) != MENTIONS[head] or "[[" in plain or "]]" in plain:
        example = "[[Marie Curie]] was born in [[Warsaw]]." if MENTIONS[head] == 2 else "[[Warsaw]] is old."
        raise ValueError(
            f"{where}, {text!r}, has {len(spans)} mentions in double square brackets, and the head reads "
            f"{MENTIONS[head]}: {example}"
        )
    return {"text": plain, "entity_spans": spans}


def mentions_of(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a text without the brackets of its mentions, and their characters, the head before the tail.

    Raises:
        ValueError: two mentions are both called head, or both tail.
    """
    plain, last, spans, roles = "", 0, [], []
    for found in MENTION.finditer(text):
        plain += text[last : found.start()]
        spans.append((len(plain), len(plain) + len(found[1])))
        roles.append(found[2])
        plain, last = plain + found[1], found.end()
    if len(roles) == 2 and roles[0] is not None and roles[0] == roles[1]:
        raise ValueError(f"both mentions of {text!r} are called {roles[0]}; call one head and the other tail")
    turned = len(roles) == 2 and (roles[0] == "tail" or roles[1] == "head")
    return plain + text[last:], spans[::-1] if turned else spans


def lines_of(file: Path) -> list[str]:
    """Return the lines of a text file that are not empty; of "-" those of the standard input.

    Raises:
        OSError: there is no such file.
        ValueError: it is no text in UTF-8.
    """
    return [line for _, line in numbered_lines_of(file)]


def numbered_lines_of(file: Path) -> list[tuple[int, str]]:
    """Return what `lines_of` returns, and raise what it raises, with the number of each line in the file."""
    if str(file) != "-" and not file.is_file():
        raise OSError(f"there is no file {str(file)!r}; name a file of texts, one in each line")
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8 ({error}); save it so") from error
    lines = text.split("\n")  # splitlines ends lines at rarer characters, too
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def calibration_of(file: Path, labelled: Path | None) -> dict[str, Any]:
    """Return the sentences that int8 learns from, and the fields of labelled texts, if there are any.

    Raises:
        OSError: there is no such file.
        ValueError: a line is no labelled text.
    """
    sentences = {"sentences": lines_of(file), "where": str(file)}
    return {**sentences, "labelled": None if labelled is None else _labelled(labelled)}


def _labelled(file: Path) -> dict[str, Any]:
    """Return texts, labels, lines and, where mentions stand in double square brackets, their spans."""
    texts, labels, spans, places = [], [], [], []
    for number, line in numbered_lines_of(file):
        where = f"{file}, line {number}"
        try:
            record = json.loads(line)
            text, label = record["text"], record["label"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f'{where}: {line[:80]!r} is no labelled text; write {{"text": ..., "label": ...}}'
            ) from error
        try:
            plain, own = mentions_of(str(text))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        texts.append(plain)
        labels.append(str(label))
        spans.append(own)
        places.append(where)
    if not texts:
        raise ValueError(f'{file} has no labelled texts; write {{"text": ..., "label": ...}} in each line')
    return {"texts": texts, "labels": labels, "entity_spans": spans if any(spans) else None, "where": places}
