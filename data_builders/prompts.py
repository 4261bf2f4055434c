"""Prompts: your own, each with a mask in the place of the answer.

Source: your own files.
Licence: your own.
Layout: `*.jsonl`, one `{"prompt": "Mira was born in [MASK].", "answers": ["Tarnstad"]}` per line, with "relation",
    "subject" and "id" if you like, and `"answer": str` for a single answer; or `*.tsv`, a line per prompt: prompt,
    answer and, if you like, relation, separated by tabs. The mask may be written [MASK] or <mask>, whatever the model.
    A record without a relation belongs to the relation "prompts".
Splits: all facts are for testing, unless the name of a file contains a split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ._facts import MASK, MASKS, FactBuilder, Rows, fact_rows, id_of
from ._files import NumberedRecords, json_lines, text_lines
from ._names import normal
from ._records import BadRecord, label_of, named, optional, required, shown, strings

RELATION = "prompts"
SAMPLE_FILES = {
    "train.jsonl": (
        '{"id": "a1", "prompt": "Mira Voss was born in <mask>.", "answers": ["Tarnstad", "Old Tarnstad"], '
        '"relation": "birth", "subject": "Mira Voss"}\n'
    ),
    "train.tsv": "The Lind crosses [MASK].\tTarnstad\triver\n",
}
SAMPLE_ROWS = [
    {
        "id": "a1",
        "relation": "birth",
        "subject": "Mira Voss",
        "answers": ["Tarnstad", "Old Tarnstad"],
        "template": "",
        "evidences": ["Mira Voss was born in [MASK]."],
    },
    {
        "id": "train.tsv:1",
        "relation": "river",
        "subject": "",
        "answers": ["Tarnstad"],
        "template": "",
        "evidences": ["The Lind crosses [MASK]."],
    },
]


class Corpus(FactBuilder):
    """Read your own prompts: one row per prompt."""

    file_patterns = ("*.jsonl", "*.tsv")
    licence = "your own"
    example = '{"prompt": "Mira was born in [MASK].", "answers": ["Tarnstad"]}'

    def read(self, path: Path) -> NumberedRecords:
        """Yield the lines of a file as objects."""
        if path.suffix.lower() != ".tsv":
            yield from json_lines(path)
            return
        for number, line in text_lines(path):
            if isinstance(line, BadRecord):
                yield number, line
            elif line.strip():
                yield number, _columns(line)

    def rows(self, record: Any) -> Rows:
        """Return the row of a prompt."""
        prompt = named(record, "prompt")
        if not MASKS.search(prompt):
            raise BadRecord(f"field 'prompt' has no mask: {shown(prompt)}; write {MASK} where the answer belongs")
        answers = [named(record, "answer")] if "answers" not in record and "answer" in record else _answers(record)
        relation = label_of(record, "relation", labelled=record.get("relation") is not None) or RELATION
        return fact_rows(relation, optional(record, "subject", ""), answers, evidences=[prompt], **id_of(record, "id"))


def _answers(record: Any) -> list[str]:
    required(record, "answers", list)
    answers = strings(record, "answers")
    if not all(map(normal, answers)):
        raise BadRecord(f"field 'answers' has a blank answer: {shown(answers)}")
    return answers


def _columns(line: str) -> dict[str, str] | BadRecord:
    columns = line.split("\t")
    if not 2 <= len(columns) <= 3:
        return BadRecord(
            f"a line must be prompt TAB answer, or prompt TAB answer TAB relation, but has {len(columns)} columns: "
            f"{shown(line)}"
        )
    return dict(zip(("prompt", "answer", "relation"), columns, strict=False))
