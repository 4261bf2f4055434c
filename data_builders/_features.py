"""The record types: what the rows of a corpus hold, whichever release they come from.

relation: one sentence with two marked mentions. ``head`` is the subject and ``tail`` the object, both character
    offsets in ``text``, end exclusive; for a tokenised corpus ``text`` is the tokens joined by spaces.
    ``head_id`` and ``tail_id`` are Wikidata ids, or "".
dependency: one sentence with the head of each token, 1-based, 0 = root; ``deprels`` are "_" where unknown.
entity_typing: one sentence with one marked mention, as above, and the names of all its types, maybe none.
multiple_choice: a question on a context, answers to choose from, and the number of the right one from 0, or -1
    where it is not given.
question_answering: a question, the passages in which its answer may stand, and the strings that are accepted as
    the answer, none where it is not given. Where an answer stands is not told: supervision is distant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets

TEXT = datasets.Value("string")
TEXTS = datasets.List(TEXT)
NUMBER = datasets.Value("int32")
SPAN = {"start": NUMBER, "end": NUMBER}

RELATION_FEATURES = datasets.Features(
    {"id": TEXT, "text": TEXT, "head": SPAN, "tail": SPAN, "relation": TEXT, "head_id": TEXT, "tail_id": TEXT}
)
DEPENDENCY_FEATURES = datasets.Features(
    {"id": TEXT, "tokens": TEXTS, "heads": datasets.List(NUMBER), "deprels": TEXTS}
)
ENTITY_TYPING_FEATURES = datasets.Features({"id": TEXT, "text": TEXT, "mention": SPAN, "labels": TEXTS})
MULTIPLE_CHOICE_FEATURES = datasets.Features(
    {"id": TEXT, "context": TEXT, "question": TEXT, "choices": TEXTS, "label": NUMBER}
)
QUESTION_ANSWERING_FEATURES = datasets.Features({"id": TEXT, "question": TEXT, "passages": TEXTS, "answers": TEXTS})

FEATURES = {
    "relation": RELATION_FEATURES,
    "dependency": DEPENDENCY_FEATURES,
    "entity_typing": ENTITY_TYPING_FEATURES,
    "multiple_choice": MULTIPLE_CHOICE_FEATURES,
    "question_answering": QUESTION_ANSWERING_FEATURES,
}

# The columns that hold names of classes, and whether a row has several of them.
LABELS = {"relation": False, "labels": True}


def sentence_of(row: Mapping[str, Any]) -> str:
    """The sentence of a typed row, by which corpora are split and compared.

    Of a choice it is the context, or else the question, since several questions share a context and belong together.
    """
    if "tokens" in row:
        return " ".join(row["tokens"])
    return row.get("text") or row.get("context") or row["question"]


def label_names(row: Mapping[str, Any]) -> list[str]:
    """The names of the classes of a typed row; none where its type has no classes."""
    return [label for name in LABELS.keys() & row.keys() for label in (row[name] if LABELS[name] else [row[name]])]
