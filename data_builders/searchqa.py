"""SearchQA: Jeopardy! questions with the snippets that a search engine returned for each.

Source: Dunn et al., 2017, https://github.com/nyu-dl/dl4ir-searchQA; OpenQA's files by Lin et al., ACL 2018,
    https://github.com/thunlp/OpenQA
Licence: not stated by its authors.
Layout: two variants. OpenQA's: `train.txt`, `dev.txt` and `test.txt`, one `{"question": str, "answers": [str]}` per
    line, and in the same folder `train.json`, `dev.json` and `test.json` with a list of passages on the line of each
    question, `[{"question": [str], "document": [str]}, ...]`. As processed by its authors:
    only `train.txt`, `val.txt` and `test.txt`, with lines `<s> snippet </s> <s> snippet </s> ||| question ||| answer`.
    See `_question_answering` for what is skipped and counted.
Splits: by file name; otherwise by a hash of the question.
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
    """Read SearchQA in OpenQA's layout or as processed by its authors: one row per question."""

    homepage = "https://github.com/nyu-dl/dl4ir-searchQA"
    licence = "not stated by its authors"

    def read(self, path: Path) -> Iterator[tuple[int, Any]]:
        """Yield pairs of a question and its passages, or the lines of a processed file."""
        passages = self.passages_of(path)
        if passages is None or passages.is_file():
            return super().read(path)
        return ((number, line) for number, line in text_lines(path) if isinstance(line, BadRecord) or line.strip())

    def rows(self, record: Any) -> Iterable[Row | Dropped | Noted]:
        """Return the row of a question and its notes."""
        return _processed_row(record) if isinstance(record, str) else super().rows(record)


def _processed_row(line: str) -> list[Row | Dropped | Noted]:
    fields = [field.strip() for field in line.split("|||")]
    if len(fields) != 3 or SNIPPET.sub("", fields[0]).strip() or not fields[1] or not fields[2]:
        raise BadRecord(
            "a line must be '<s> snippet </s> ... ||| question ||| answer', unless a file of passages (.json) is next "
            f"to the questions, but is {shown(line)}"
        )
    return question_row(fields[1], [snippet.strip() for snippet in SNIPPET.findall(fields[0])], [fields[2]])
