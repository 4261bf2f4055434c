"""Quasar-T: trivia questions with sentences found for each in ClueWeb09.

Source: Dhingra et al., 2017, https://github.com/bdhingra/quasar; OpenQA's files by Lin et al., ACL 2018,
    https://github.com/thunlp/OpenQA
Licence: not stated by its authors.
Layout: either kind. OpenQA's: ``train.txt``, ``dev.txt`` and ``test.txt``, one ``{"question": str, "answers": [str]}``
    a line, and beside them ``train.json``, ``dev.json`` and ``test.json``, on the line of each question a list of its
    passages, ``[{"question": [str], "document": [str]}, ...]``. As released, with the contexts to be read, short or
    long, put beside the questions: ``train_questions.json.gz``, one ``{"uid", "question", "answer", "tags"}`` a line,
    and ``train_contexts.json.gz``, ``{"uid", "contexts": [[score, text], ...]}`` in the same order; gzipped or not.
    What is skipped and counted is told in ``_question_answering``.
Splits: by file name; without split words, by a hash of the question.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ._builder import Row
from ._counts import Dropped, Noted
from ._question_answering import Pair, QuestionAnsweringBuilder, question_row
from ._records import BadRecord, named, required, shown, typed

QUESTIONS, CONTEXTS = "_questions.json", "_contexts.json"

SAMPLE_FILES = {
    "train.txt": '{"question": "which river crosses tarnstad", "answers": ["Lind", "the lind"]}\n',
    "train.json": (
        '[{"question": ["which", "river"], "document": ["the", "Lind", "crosses", "tarnstad", "below", "the", "wall"]}'
        ', {"question": ["which", "river"], "document": ["tarnstad", "has", "two", "rivers", "and", "a", "wall"]}]\n'
    ),
    "train_questions.json": (
        '{"uid": "s3q1", "question": "Who founded the Halden works ?", "answer": "Mira Voss", "tags": ["person"]}\n'
    ),
    "train_contexts.json": '{"uid": "s3q1", "contexts": [[0.5, "The Halden works of Mira Voss were sold ."]]}\n',
}
SAMPLE_ROWS = [
    {
        "id": "train.txt:1",
        "question": "which river crosses tarnstad",
        "passages": ["the Lind crosses tarnstad below the wall", "tarnstad has two rivers and a wall"],
        "answers": ["Lind", "the lind"],
    },
    {
        "id": "s3q1",
        "question": "Who founded the Halden works ?",
        "passages": ["The Halden works of Mira Voss were sold ."],
        "answers": ["Mira Voss"],
    },
]


class Corpus(QuestionAnsweringBuilder):
    """Reads Quasar-T in OpenQA's layout or as released: one row for each question."""

    file_patterns = ("*.txt", "*.json", "*.json.gz")
    homepage = "https://github.com/bdhingra/quasar"
    licence = "not stated by its authors"

    def passages_of(self, path: Path) -> Path | None:
        """Returns the file of passages that belongs to a file of questions; None for a file of passages."""
        if QUESTIONS in path.name:
            return path.with_name(path.name.replace(QUESTIONS, CONTEXTS))
        return super().passages_of(path)

    def rows(self, record: Pair) -> Iterable[Row | Dropped | Noted]:
        """Returns the one row of a question and its notes."""
        question, contexts, path = record
        if CONTEXTS not in path.name:
            return super().rows(record)
        name = named(question, "uid")
        answers = [named(question, "answer")] if question.get("answer") is not None else []
        return question_row(named(question, "question"), _texts(contexts, name, path), answers, id=name)


def _texts(contexts: Any, uid: str, path: Path) -> list[str]:
    """The passages of a question as released."""
    try:
        if required(contexts, "uid", str) != uid:
            there = path.name.replace(CONTEXTS, QUESTIONS)
            raise BadRecord(f"field 'uid' is {shown(contexts['uid'])} but on this line of {there} {shown(uid)}")
        return [_text(pair, f"contexts[{index}]") for index, pair in enumerate(required(contexts, "contexts", list))]
    except BadRecord as problem:
        raise BadRecord(str(problem), path) from None


def _text(pair: Any, name: str) -> str:
    if len(typed(pair, name, list)) != 2:
        raise BadRecord(f"field '{name}' must be [score, text] but is {shown(pair)}")
    return typed(pair[1], f"{name}[1]", str)
