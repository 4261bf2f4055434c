"""Base class for relation corpora with TACRED's keys: token, relation, subj_start, subj_end, obj_start, obj_end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from ._builder import CorpusBuilder, Row
from ._files import NumberedRecords, json_records
from ._records import label_of, optional, subject_object_row


class SubjectObjectBuilder(CorpusBuilder):
    """Read files in TACRED's layout, a JSON array or an object per line: one row per record."""

    record_type = "relation"
    file_patterns: ClassVar[tuple[str, ...]] = ("*.json", "*.jsonl")

    def read(self, path: Path) -> NumberedRecords:
        """Yield the records of a file."""
        return json_records(path)

    def rows(self, record: Any) -> Iterable[Row]:
        """Return the row of a record."""
        row = subject_object_row(record, label_of(record, "relation", self.config.labelled))
        name = optional(record, "id", "")
        return [{"id": name, **row} if name else row]
