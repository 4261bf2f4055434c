"""SearchQA: Jeopardy! questions with the snippets that a search engine found for each.

Source: Dunn et al., 2017, https://github.com/nyu-dl/dl4ir-searchQA; OpenQA's files by Lin et al., ACL 2018,
    https://github.com/thunlp/OpenQA
Licence: not stated by its authors.
Layout: either kind. OpenQA's: ``train.txt``, ``dev.txt`` and ``test.txt``, one ``{"question": str, "answers": [str]}``
    a line, and beside them ``train.json``, ``dev.json`` and ``test.json``, on the line of each question a list of its
    passages, ``[{"question": [str], "document": [str]}, ...]``. As processed by its authors: ``train.txt``,
    ``val.txt`` and ``test.txt`` alone, a line ``<s> snippet </s> <s> snippet </s> ||| question ||| answer``.
    What is skipped and counted is told in ``_question_answering``.
Splits: by file name; without split words, by a hash of the question.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ._builder import Row
from ._counts import Dropped, Noted
from ._files import text_lines
from ._question_answering import QuestionAnsweringBuilder, question_row
from ._records import BadRecord, shown

SNIPPET = re.compile(r"<s>(.*?)</s>")

SAMPLE_FILES = {
    "train.txt": '{"question": "which river crosses tarnstad", "answers": ["Lind", "the lind"]}\n',
    "train.json": (
        '[{"question": ["which", "river"], "document": ["the", "Lind", "crosses", "tarnstad", "below", "the", "wall"]}'
        ', {"question": ["which", "river"], "document": ["tarnstad", "has", "two", "rivers", "and", "a", "wall"]}]\n'
    ),
    "train_processed.txt": (
        "<s> Mira Voss founded the Halden works </s> <s> the works were sold after the war </s>"
        " ||| who founded the halden works ||| mira voss\n"
    ),
}
SAMPLE_ROWS = [
    {
        "id": "train.txt:1",
        "question": "which river crosses tarnstad",
        "passages": ["the Lind crosses tarnstad below the wall", "tarnstad has two rivers and a wall"],
        "answers": ["Lind", "the lind"],
    },
    {
        "id": "train_processed.txt:1",
        "question": "who founded the halden works",
        "passages": ["Mira Voss founded the Halden works", "the works were sold after the war"],
        "answers": ["mira voss"],
    },
]


class Corpus(QuestionAnsweringBuilder):
    """Reads SearchQA in OpenQA's layout or as processed by its authors: one row for each question."""

    homepage = "https://github.com/nyu-dl/dl4ir-searchQA"
    licence = "not stated by its authors"

    def read(self, path: Path) -> Iterator[tuple[int, Any]]:
        """Yields pairs of a question and its passages, or the lines of a processed file."""
        passages = self.passages_of(path)
        if passages is None or passages.is_file():
            return super().read(path)
        return ((number, line) for number, line in text_lines(path) if isinstance(line, BadRecord) or line.strip())

    def rows(self, record: Any) -> Iterable[Row | Dropped | Noted]:
        """Returns the one row of a question and its notes."""
        return _processed_row(record) if isinstance(record, str) else super().rows(record)


def _processed_row(line: str) -> list[Row | Dropped | Noted]:
    parts = [part.strip() for part in line.split("|||")]
    if len(parts) != 3 or SNIPPET.sub("", parts[0]).strip() or not parts[1] or not parts[2]:
        raise BadRecord(
            "a line must be '<s> snippet </s> ... ||| question ||| answer', unless a file of passages (.json) stands "
            f"beside the questions, but is {shown(line)}"
        )
    return question_row(parts[1], [snippet.strip() for snippet in SNIPPET.findall(parts[0])], [parts[2]])
