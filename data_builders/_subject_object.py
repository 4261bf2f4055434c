"""Base class for relation corpora with TACRED's keys: token, relation, subj_start, subj_end, obj_start, obj_end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ._builder import CorpusBuilder, Row
from ._records import label_of, optional, subject_object_row


class SubjectObjectBuilder(CorpusBuilder):
    """Read files in TACRED's layout, a JSON array or an object per line: one row per record."""

    record_type = "relation"

    def rows(self, record: Any) -> Iterable[Row]:
        """Return the row of a record."""
        row = subject_object_row(record, label_of(record, "relation", self.config.labelled))
        name = optional(record, "id", "")
        return [{"id": name, **row} if name else row]
