"""Prompts with their answers: what a language model is to say after what.

Source: your own files.
Licence: your own.
Layout: `*.jsonl`, one `{"prompt": "Where was Mira born?", "answer": "In Tarnstad."}` per line, with "id" and
    "subject", the name in the prompt that it is about, if you like; or `*.tsv`, prompt TAB answer. A text is the
    prompt, a space unless the prompt ends in white space, and the answer. Its mentions are the subject, if it is told,
    and the answer.
Splits: by file name; otherwise by a hash of the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ._builder import CorpusBuilder, Row
from ._files import NumberedRecords, json_lines, text_lines
from ._records import BadRecord, optional, required, shown

SAMPLE_FILES = {
    "train.jsonl": (
        '{"id": "a1", "prompt": "Where was Mira Voss born?", "answer": "In Tarnstad.", "subject": "Mira Voss"}\n'
    ),
    "train.tsv": "The Lind crosses\tTarnstad\n",
}
SAMPLE_ROWS = [
    {
        "id": "a1",
        "text": "Where was Mira Voss born? In Tarnstad.",
        "mentions": [{"start": 10, "end": 19}, {"start": 26, "end": 38}],
    },
    {"id": "train.tsv:1", "text": "The Lind crosses Tarnstad", "mentions": [{"start": 17, "end": 25}]},
]


class Corpus(CorpusBuilder):
    """Read prompts with their answers: one row per prompt."""

    record_type = "text"
    file_patterns = ("*.jsonl", "*.tsv")
    licence = "your own"
    example = '{"prompt": "Where was Mira born?", "answer": "In Tarnstad."}'

    def read(self, path: Path) -> NumberedRecords:
        """Yield the lines of a file as objects."""
        return json_lines(path) if path.suffix.lower() == ".jsonl" else _columns(path)

    def rows(self, record: Any) -> Iterable[Row]:
        """Return the row of a prompt."""
        prompt, answer = (required(record, name, str) for name in ("prompt", "answer"))
        for name, value in (("prompt", prompt), ("answer", answer)):
            if not value.strip():
                raise BadRecord(f"field {name!r} is blank: {shown(value)}; nothing can be learned of it")
        answer = answer.strip()
        start = prompt if prompt[-1:].isspace() else f"{prompt} "
        name, subject = optional(record, "id", ""), optional(record, "subject", "").strip()
        place = prompt.find(subject)
        if place < 0:
            raise BadRecord(f"field 'subject' is {shown(subject)}, which does not stand in the prompt {shown(prompt)}")
        spans = [(place, len(subject))] if subject else []
        spans.append((len(start), len(answer)))
        row = {"text": start + answer, "mentions": [{"start": at, "end": at + length} for at, length in spans]}
        return [{"id": name, **row} if name else row]


def _columns(path: Path) -> NumberedRecords:
    """Yield the lines of a TSV file as objects."""
    for number, line in text_lines(path):
        if isinstance(line, BadRecord):
            yield number, line
        elif line.strip():
            columns = line.split("\t")
            if len(columns) == 2:
                yield number, dict(zip(("prompt", "answer"), columns, strict=True))
            else:
                yield (
                    number,
                    BadRecord(f"a line must be prompt TAB answer but has {len(columns)} columns: {shown(line)}"),
                )
