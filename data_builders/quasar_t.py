"""Quasar-T: trivia questions with sentences retrieved for each from ClueWeb09.

Source: Dhingra et al., 2017, https://github.com/bdhingra/quasar; OpenQA's files by Lin et al., ACL 2018,
    https://github.com/thunlp/OpenQA
Licence: not stated by its authors.
Layout: two variants. OpenQA's: `train.txt`, `dev.txt` and `test.txt`, one `{"question": str, "answers": [str]}` per
    line, and in the same folder `train.json`, `dev.json` and `test.json` with a list of passages on the line of each
    question, `[{"question": [str], "document": [str]}, ...]`. As released, with either the short or the long contexts
    in the folder of the questions: `train_questions.json.gz`, one `{"uid", "question", "answer", "tags"}` per line,
    and `train_contexts.json.gz`, `{"uid", "contexts": [[score, text], ...]}` in the same order; gzipped or not.
    See `_question_answering` for what is skipped and counted.
Splits: by file name; otherwise by a hash of the question.
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
    """Read Quasar-T in OpenQA's layout or as released: one row per question."""

    file_patterns = ("*.txt", "*.json", "*.json.gz")
    homepage = "https://github.com/bdhingra/quasar"
    licence = "not stated by its authors"

    def passages_of(self, path: Path) -> Path | None:
        """Return the file of passages for a file of questions; None if the path is itself a file of passages."""
        if QUESTIONS in path.name:
            return path.with_name(path.name.replace(QUESTIONS, CONTEXTS))
        return super().passages_of(path)

    def rows(self, record: Pair) -> Iterable[Row | Dropped | Noted]:
        """Return the row of a question and its notes."""
        question, contexts, path = record
        if CONTEXTS not in path.name:
            return super().rows(record)
        name = named(question, "uid")
        answers = [named(question, "answer")] if question.get("answer") is not None else []
        return question_row(named(question, "question"), _texts(contexts, name, path), answers, id=name)


def _texts(contexts: Any, uid: str, path: Path) -> list[str]:
    """Return the passages of a question in the released layout."""
    try:
        if required(contexts, "uid", str) != uid:
            questions = path.name.replace(CONTEXTS, QUESTIONS)
            raise BadRecord(f"field 'uid' is {shown(contexts['uid'])} but on this line of {questions} {shown(uid)}")
        return [_text(pair, f"contexts[{index}]") for index, pair in enumerate(required(contexts, "contexts", list))]
    except BadRecord as problem:
        raise BadRecord(str(problem), path) from None


def _text(pair: Any, name: str) -> str:
    if len(typed(pair, name, list)) != 2:
        raise BadRecord(f"field '{name}' must be [score, text] but is {shown(pair)}")
    return typed(pair[1], f"{name}[1]", str)
