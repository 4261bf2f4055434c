"""Open-domain question answering: questions and the passages retrieved for each, in two files aligned by line.

A file of questions has the file of their passages beside it; a builder says how the one's name follows from the
other's. The n-th question belongs to the n-th list of passages. Passages of five tokens or fewer are skipped and
counted (``short_passages``), as OpenQA does, unless a question has no others; a question for which no passage at all
was retrieved is dropped and counted (``dropped_no_passages``), as there. A passage without a visible character is none
(``blank_passages``). Kept and counted: questions none of whose answers occurs in a passage (``answer_nowhere``), and
those without answers (``unlabelled``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any
from unicodedata import normalize

from ._builder import CorpusBuilder, Row
from ._counts import Dropped, Noted
from ._files import json_lines, or_empty
from ._mentions import WORD
from ._records import BadRecord, named, optional, required, typed
from ._splits import FilesBySplit, files_by_split

SHORT = 5  # tokens: a passage of so many or fewer is skipped
Pair = tuple[Any, Any, Path]  # a question, its passages, and the file in which these stand


class QuestionAnsweringBuilder(CorpusBuilder):
    """Reads OpenQA's layout, ``train.txt`` of questions and ``train.json`` of passages: one row for each question."""

    record_type = "question_answering"
    file_patterns = ("*.txt", "*.json")

    def passages_of(self, path: Path) -> Path | None:
        """Returns the file of passages that belongs to a file of questions; None for a file of passages."""
        return path.with_suffix(".json") if path.suffix.lower() == ".txt" else None

    def groups(self) -> FilesBySplit:
        """Returns the files of questions by split, and those of passages without any, which ``read`` complains of."""
        passages = {self.passages_of(path) for path in self.files}
        return files_by_split(path for path in self.files if path not in passages)

    def left_out(self) -> list[Path]:
        """Returns the files that are in no split, and do not hold the passages of one that is."""
        passages = {self.passages_of(path) for path in self.files}
        return [path for path in super().left_out() if path not in passages]

    def read(self, path: Path) -> Iterator[tuple[int, Pair | BadRecord]]:
        """Yields pairs of a question and its passages, numbered by line."""
        passages = self.passages_of(path)
        if passages is None:
            yield 1, BadRecord("the file of passages has no file of questions beside it; add it or rename this one")
        elif not passages.is_file():
            yield 1, BadRecord(f"the questions have no passages: the file {passages.name} is missing beside them")
        else:
            yield from _aligned(path, passages)

    def rows(self, record: Pair) -> Iterable[Row | Dropped | Noted]:
        """Returns the one row of a question and its notes."""
        question, passages, path = record
        try:
            texts = passage_texts(passages)
        except BadRecord as problem:
            raise BadRecord(str(problem), path) from None
        return question_row(named(question, "question"), texts, answers_of(question, "answers"))


def question_row(
    question: str, passages: Sequence[str], answers: Sequence[str], **more: str
) -> list[Row | Dropped | Noted]:
    """Builds the typed row of a question and the notes on it, or says that it has no passage.

    Letters are composed (NFC), so that an answer is found however a passage writes its accents.
    """
    answers, visible = (
        [normalize("NFC", text) for text in texts] for texts in (answers, filter(_is_visible, passages))
    )
    if not visible:
        return [Dropped("no_passages", question)]
    long = [passage for passage in visible if len(passage.split()) > SHORT]
    kept = long or visible
    notes = {"blank_passages": len(passages) - len(visible), "short_passages": len(visible) - len(kept)}
    notes["unlabelled"] = not answers
    notes["answer_nowhere"] = bool(answers) and not any(occurrences(passage, answers) for passage in kept)
    row = {**more, "question": question, "passages": kept, "answers": answers}
    return [row, *(Noted(what, question, int(number)) for what, number in notes.items() if number)]


def _is_visible(text: str) -> bool:
    return any(one.isprintable() and not one.isspace() for one in text)


def answers_of(record: Any, name: str) -> list[str]:
    """Returns the field ``name``, a list of strings, maybe empty; it is empty where the field is missing.

    Raises:
        BadRecord: it is no list, or an answer is no string or blank.
    """
    answers = [typed(answer, f"{name}[{index}]", str) for index, answer in enumerate(optional(record, name, []))]
    for index, answer in enumerate(answers):
        if not answer.strip():
            raise BadRecord(f"field '{name}[{index}]' is blank")
    return answers


def occurrences(text: str, answers: Iterable[str]) -> list[tuple[int, int]]:
    """Return the character spans, end exclusive, at which one of the answers occurs, in the order of the text.

    An answer occurs where its words follow each other as whole words, whatever their case: "STRASSE" is "Straße", but
    "stanbul" is no word of "İstanbul". `_mentions` defines what a word is.
    """
    words, indices = _folded_words(text), set()
    for answer in filter(str.strip, map(_folded_words, answers)):
        start = words.find(answer)
        while start >= 0:
            first = words.count(" ", 0, start)
            indices.add((first, first + answer.count(" ") - 2))
            start = words.find(answer, start + 1)
    spans = [word.span() for word in WORD.finditer(text)] if indices else []
    return sorted((spans[first][0], spans[last][1]) for first, last in indices)


def _folded_words(text: str) -> str:
    """Return the words of a text without their case, with a space before and after each."""
    return f" {' '.join(WORD.findall(text))} ".casefold()  # folded after the search, so that no word is divided


def passage_texts(passages: Any) -> list[str]:
    """Returns the texts of OpenQA's passages, ``[{"document": [token, ...]}, ...]``, tokens joined by spaces.

    Raises:
        BadRecord: it is no list of objects, or a token is no string.
    """
    return [_text(passage, f"[{index}].document") for index, passage in enumerate(typed(passages, "passages", list))]


def _text(passage: Any, name: str) -> str:
    tokens = required(passage, "document", list)
    return " ".join(typed(token, f"{name}[{index}]", str) for index, token in enumerate(tokens))


def _aligned(questions: Path, passages: Path) -> Iterator[tuple[int, Pair | BadRecord]]:
    """Yields the pairs of two files of JSON lines; a problem of the second file bears its name."""
    both = (or_empty(json_lines(path)) for path in (questions, passages))
    for question, found in zip_longest(*both):
        if found is None:
            yield question[0], BadRecord(f"the question has no passages: {passages.name} has fewer lines")
        elif question is None:
            yield found[0], BadRecord(f"the passages have no question: {questions.name} has fewer lines", passages)
        elif isinstance(question[1], BadRecord):
            yield question
        elif isinstance(found[1], BadRecord):
            yield found[0], BadRecord(str(found[1]), passages)
        else:
            yield question[0], (question[1], found[1], passages)
