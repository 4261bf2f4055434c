"""The record types: the columns of a corpus, whichever release it comes from.

relation: a sentence with two marked mentions. `head` is the subject and `tail` the object, both character offsets in
    `text`, end exclusive; for a tokenised corpus, `text` is the tokens joined by spaces. `head_id` and `tail_id` are
    Wikidata ids, or "".
dependency: a sentence with the head of each token, 1-based, 0 for the root; unknown `deprels` are "_".
entity_typing: a sentence with a marked mention, as above, and the names of all its types, possibly none. `entity_id`
    is the id of the mention's entity, or "".
multiple_choice: a question about a context, the answers to choose from, and the number of the right answer from 0, or
    -1 if it is unknown.
question_answering: a question, the passages in which its answer may occur, and the strings accepted as the answer,
    none if it is unknown. The positions of the answer are not annotated: supervision is distant.
text: a passage, with the mentions of entities in it as far as they are known, as above.
conversation: messages, each with the role of who says it and its content; the last is the assistant's.
fact: what a language model is asked: a relation, its subject ("" if there is none apart from the sentences), and the
    answers accepted. `template` has the slots [X] for the subject and [Y] for the answer, or is "" if the release has
    none; `evidences` are sentences with [MASK] in the place of the answer, possibly none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets

TEXT = datasets.Value("string")
TEXTS = datasets.List(TEXT)
NUMBER = datasets.Value("int32")
SPAN = {"start": NUMBER, "end": NUMBER}

FEATURES = {
    "relation": datasets.Features(
        {"id": TEXT, "text": TEXT, "head": SPAN, "tail": SPAN, "relation": TEXT, "head_id": TEXT, "tail_id": TEXT}
    ),
    "dependency": datasets.Features({"id": TEXT, "tokens": TEXTS, "heads": datasets.List(NUMBER), "deprels": TEXTS}),
    "entity_typing": datasets.Features(
        {"id": TEXT, "text": TEXT, "mention": SPAN, "labels": TEXTS, "entity_id": TEXT}
    ),
    "multiple_choice": datasets.Features(
        {"id": TEXT, "context": TEXT, "question": TEXT, "choices": TEXTS, "label": NUMBER}
    ),
    "question_answering": datasets.Features({"id": TEXT, "question": TEXT, "passages": TEXTS, "answers": TEXTS}),
    "text": datasets.Features({"id": TEXT, "text": TEXT, "mentions": datasets.List(SPAN)}),
    "conversation": datasets.Features({"id": TEXT, "messages": datasets.List({"role": TEXT, "content": TEXT})}),
    "fact": datasets.Features(
        {"id": TEXT, "relation": TEXT, "subject": TEXT, "answers": TEXTS, "template": TEXT, "evidences": TEXTS}
    ),
}

# The columns that hold names of classes, and whether they hold a list of names.
LABELS = {"relation": False, "labels": True}


def sentence_of(row: Mapping[str, Any]) -> str:
    """Return the text of a typed row by which corpora are split and compared.

    For multiple choice it is the context, or else the question: questions that share a context belong together. For a
    fact it is the subject, or else the first sentence, and for a conversation all that is said.
    """
    if "tokens" in row:
        return " ".join(row["tokens"])
    if "evidences" in row:
        return row["subject"] or next(iter(row["evidences"]), row["template"])
    if "messages" in row:
        return "\n".join(message["content"] for message in row["messages"])
    return row.get("text") or row.get("context") or row["question"]


def label_names(row: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes of a typed row; none if its record type has no classes."""
    return [label for name in LABELS.keys() & row.keys() for label in (row[name] if LABELS[name] else [row[name]])]
