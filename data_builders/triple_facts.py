"""Triples as facts, to ask a language model for the tail: the same files that `triples` puts into words.

Source: your own files.
Licence: your own.
Layout: as `triples`: `*.tsv`, `*.csv` or `*.jsonl` of head, relation and tail, and beside them files of phrasings
    whose names contain the word "templates". The template of a fact is the first phrasing of its relation.
Splits: all facts are for testing, unless the name of a file contains a split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ._builder import RowMaker
from ._facts import FactBuilder, Rows, fact_rows
from ._files import NumberedRecords
from ._names import normal
from ._records import BadRecord, named
from ._splits import FilesBySplit
from ._templates import Templates, holds_templates
from ._triples import TRIPLE_FILES, triple_records

SAMPLE_FILES = {
    "train.tsv": "Mira Voss\twork location\tTarnstad\nLind\tcrosses\tTarnstad\n",
    "templates.jsonl": (
        '{"relation": "work location", "phrasings": ["[X] works in [Y].", "In [Y] on the Lind works [X]."]}\n'
        '{"relation": "crosses", "template": "[X] crosses [Y]."}\n'
    ),
}
SAMPLE_ROWS = [
    {
        "id": "train.tsv:1",
        "relation": "work location",
        "subject": "Mira Voss",
        "answers": ["Tarnstad"],
        "template": "[X] works in [Y].",
        "evidences": [],
    },
    {
        "id": "train.tsv:2",
        "relation": "crosses",
        "subject": "Lind",
        "answers": ["Tarnstad"],
        "template": "[X] crosses [Y].",
        "evidences": [],
    },
]


class Corpus(FactBuilder):
    """Read triples: one row per triple."""

    file_patterns = TRIPLE_FILES
    licence = "your own"

    def read(self, path: Path) -> NumberedRecords:
        """Yield the triples of a file."""
        return triple_records(path)

    def groups(self) -> FilesBySplit:
        """Return the files of triples by split."""
        files = {split: [path for path in own if not holds_templates(path)] for split, own in super().groups().items()}
        return {split: own for split, own in files.items() if own}

    def left_out(self) -> list[Path]:
        """Return the files of no split, among which templates are not."""
        return [path for path in super().left_out() if not holds_templates(path)]

    def row_maker(self, **resources: Any) -> RowMaker:
        """Return the function that makes the row of a triple, with the first phrasing of its relation.

        A malformed template is an error of the first triple, since templates are no records.
        """
        problems: list[BadRecord] = []
        files = [path for path in sorted(Path(self.config.data_dir).iterdir()) if holds_templates(path)]
        known = Templates(
            files, lambda path, line, problem: problems.append(BadRecord(f"line {line}: {problem}", path))
        )

        def rows(record: Any) -> Rows:
            relation, head, tail = (named(record, name) for name in ("relation", "head", "tail"))
            if problems and (self.config.on_bad_record == "error" or normal(relation) not in known.phrasings):
                raise problems[0]
            return fact_rows(relation, head, [tail], known.of(normal(relation))[0])

        return rows
