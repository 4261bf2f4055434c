"""Facts, which a language model is asked by a cloze: a prompt in which the answer is masked.

A template is a phrasing of a relation with the slots [X] for the subject and [Y] for the answer; an evidence is a
sentence in which the answer is replaced by [MASK]. Facts are for measuring: files whose names contain no split are
"test". Evidences without a mask are left out and counted (`evidence_without_mask`), and so are repeated ones
(`evidence_repeated`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ._builder import CorpusBuilder, Row
from ._counts import Dropped, Noted
from ._features import sentence_of
from ._names import normal
from ._records import BadRecord, optional, typed
from ._splits import TEST, FilesBySplit

MASK, SUBJECT, ANSWER = "[MASK]", "[X]", "[Y]"
MASKS = re.compile(r"\[mask\]|<mask>", re.IGNORECASE)  # the masks of BERT and of RoBERTa


class FactBuilder(CorpusBuilder):
    """Read facts: those of files whose names contain no split are for testing."""

    record_type = "fact"

    def groups(self) -> FilesBySplit:
        """Return the files by split, without any to be split by hash."""
        groups = super().groups()
        unnamed = groups.pop(None, [])
        return {**groups, TEST: [*groups.get(TEST, []), *unnamed]} if unnamed else groups


def fact_rows(
    relation: str,
    subject: str,
    answers: Sequence[str],
    template: str = "",
    evidences: Sequence[str] = (),
    counts: Mapping[str, int] | None = None,
    **more: str,
) -> list[Row | Noted]:
    """Return the typed row of a fact, and notes on its evidences, those that were left out, and further counts."""
    masked = [MASKS.sub(MASK, evidence) for evidence in evidences if MASKS.search(evidence)]
    kept = list(dict.fromkeys(masked))
    row = {"relation": relation, "subject": normal(subject), "answers": list(dict.fromkeys(map(normal, answers)))}
    row |= {"template": template, "evidences": kept, **more}
    noted = {
        "evidences": len(kept),
        "evidence_without_mask": len(evidences) - len(masked),
        "evidence_repeated": len(masked) - len(kept),
        **(counts or {}),
    }
    sentence = sentence_of(row)
    return [row, *(Noted(what, sentence, number) for what, number in noted.items() if number)]


def id_of(record: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the id of a fact as a column of its row; none if the field is missing or blank."""
    value = optional(record, name, "")
    return {"id": value} if value.strip() else {}


def sentences_of(record: dict[str, Any], name: str) -> list[str]:
    """Return the field `name`, a list of sentences of which at least one has a mask.

    Raises:
        BadRecord: the field is missing or malformed, or no sentence has a mask.
    """
    if name not in record:
        raise BadRecord(f"field '{name}' is missing")
    sentences = [typed(text, f"{name}[{n}]", str) for n, text in enumerate(typed(record[name], name, list))]
    if not any(map(MASKS.search, sentences)):
        raise BadRecord(f"field '{name}' has no sentence with {MASK} in the place of the answer")
    return sentences


def checked_template(template: str, has_subject: bool = True) -> str:
    """Return a template, stripped, after checking that it has its slots, the slot of the answer once.

    Raises:
        BadRecord: a slot is missing, or the slot of the answer is repeated.
    """
    template = " ".join(template.split())
    for slot in (SUBJECT, ANSWER) if has_subject else (ANSWER,):
        if slot not in template:
            raise BadRecord(
                f"template {template!r} has no slot {slot}; write {SUBJECT} for the subject, {ANSWER} for the answer"
            )
    if template.count(ANSWER) > 1:
        raise BadRecord(f"template {template!r} has the slot {ANSWER} more than once; a fact is asked for one answer")
    return template


Rows = Iterable[Row | Dropped | Noted]
