"""Open-domain question answering: questions and the passages retrieved for them, in two files aligned by line.

A file of questions needs a file of passages in the same folder; a builder derives the name of the second from that of
the first. The n-th question belongs to the n-th list of passages. As in OpenQA, passages of five tokens or fewer are
skipped and counted (`short_passages`), unless a question has no others, and questions without any passage are dropped
and counted (`dropped_no_passages`). Passages without a visible character are skipped and counted (`blank_passages`).
Questions whose answers occur in no passage (`answer_nowhere`) and questions without answers (`unlabelled`) are kept
and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, ClassVar
from unicodedata import normalize

from ._builder import CorpusBuilder, Row
from ._counts import Dropped, Noted
from ._files import json_lines, or_empty
from ._mentions import WORD
from ._records import BadRecord, named, optional, required, typed
from ._splits import FilesBySplit, files_by_split

SHORT = 5  # a passage of this many tokens or fewer is skipped
Pair = tuple[Any, Any, Path]  # a question, its passages, and the file of the passages


class QuestionAnsweringBuilder(CorpusBuilder):
    """Read OpenQA's layout, `train.txt` of questions and `train.json` of passages: one row per question."""

    record_type = "question_answering"
    file_patterns: ClassVar[tuple[str, ...]] = ("*.txt", "*.json")

    def passages_of(self, path: Path) -> Path | None:
        """Return the file of passages for a file of questions; None if the path is itself a file of passages."""
        return path.with_suffix(".json") if path.suffix.lower() == ".txt" else None

    def groups(self) -> FilesBySplit:
        """Return the files of questions by split, and files of passages without questions, which `read` reports."""
        passages = {self.passages_of(path) for path in self.files}
        return files_by_split(path for path in self.files if path not in passages)

    def left_out(self) -> list[Path]:
        """Return the files that are not in any split, without the passages of files that are."""
        passages = {self.passages_of(path) for path in self.files}
        return [path for path in super().left_out() if path not in passages]

    def read(self, path: Path) -> Iterator[tuple[int, Pair | BadRecord]]:
        """Yield pairs of a question and its passages, numbered by line."""
        passages = self.passages_of(path)
        if passages is None:
            yield 1, BadRecord("the file of passages has no file of questions next to it; add it or rename this file")
        elif not passages.is_file():
            yield 1, BadRecord(f"the questions have no passages: the file {passages.name} is missing next to them")
        else:
            yield from _aligned(path, passages)

    def rows(self, record: Pair) -> Iterable[Row | Dropped | Noted]:
        """Return the row of a question and its notes."""
        question, passages, path = record
        try:
            texts = passage_texts(passages)
        except BadRecord as problem:
            raise BadRecord(str(problem), path) from None
        return question_row(named(question, "question"), texts, answers_of(question, "answers"))


def question_row(
    question: str, passages: Sequence[str], answers: Sequence[str], **more: str
) -> list[Row | Dropped | Noted]:
    """Return the typed row of a question and the notes on it, or a `Dropped` if it has no passage.

    Letters are composed (NFC), so that an answer is found whichever way a passage encodes its accents.
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
    return any(character.isprintable() and not character.isspace() for character in text)


def answers_of(record: Any, name: str) -> list[str]:
    """Return the field `name`, a list of strings, or an empty list if the field is missing.

    Raises:
        BadRecord: the field is not a list, or an answer is blank or not a string.
    """
    answers = [typed(answer, f"{name}[{index}]", str) for index, answer in enumerate(optional(record, name, []))]
    for index, answer in enumerate(answers):
        if not answer.strip():
            raise BadRecord(f"field '{name}[{index}]' is blank")
    return answers


def occurrences(text: str, answers: Iterable[str]) -> list[tuple[int, int]]:
    """Return the character spans, end exclusive, at which one of the answers occurs, in the order of the text.

    An answer occurs where its words follow each other as whole words, whatever their case: "STRASSE" is "Straße", but
    "stanbul" is not a word of "İstanbul". `_mentions` defines what a word is.
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
    """Return the texts of OpenQA's passages, `[{"document": [token, ...]}, ...]`, tokens joined by spaces.

    Raises:
        BadRecord: the passages are not a list of objects, or a token is not a string.
    """
    return [_text(passage, f"[{index}].document") for index, passage in enumerate(typed(passages, "passages", list))]


def _text(passage: Any, name: str) -> str:
    tokens = required(passage, "document", list)
    return " ".join(typed(token, f"{name}[{index}]", str) for index, token in enumerate(tokens))


def _aligned(questions: Path, passages: Path) -> Iterator[tuple[int, Pair | BadRecord]]:
    """Yield the pairs of two files of JSON lines; a `BadRecord` of the second file has its path."""
    both = (or_empty(json_lines(path)) for path in (questions, passages))
    for question, retrieved in zip_longest(*both):
        if retrieved is None:
            yield question[0], BadRecord(f"the question has no passages: {passages.name} has fewer lines")
        elif question is None:
            yield retrieved[0], BadRecord(f"the passages have no question: {questions.name} has fewer lines", passages)
        elif isinstance(question[1], BadRecord):
            yield question
        elif isinstance(retrieved[1], BadRecord):
            yield retrieved[0], BadRecord(str(retrieved[1]), passages)
        else:
            yield question[0], (question[1], retrieved[1], passages)
