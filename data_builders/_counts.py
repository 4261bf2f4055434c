"""Counts what became of the records of a corpus: rows kept, bad records skipped, rows dropped and why.

Each process that builds a part of a corpus writes its own small file beside the Arrow files; when the build is
complete they are merged into one, ``counts.json``, which stays in the cache with it.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from ._records import BadRecord
from ._splits import TEST, TRAIN, VALIDATION, part_of

COUNTS_FILE = "counts.json"
PARTIAL = "partial-counts"
REMEDY = "correct it, or set on_bad_record to 'skip' to leave such records out"
SHOWN = 3  # bad records that one process shows in full when it skips them

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dropped:
    """Stands in the place of a row that a builder leaves out by rule: the reason, and the row's sentence."""

    reason: str
    sentence: str


@dataclass
class Tally:
    """Keeps and counts the rows of one split, or of one part of a release that has no splits.

    A release without splits is read once for each part, so a bad record, whose sentence is unknown, is counted with
    the part "train" only.
    """

    on_bad_record: str
    part: str | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def keeps(self, item: dict[str, Any] | Dropped) -> bool:
        """Counts a row, or a dropped one, of this part and tells whether to keep it."""
        dropped = isinstance(item, Dropped)
        if self.part is not None and part_of(item.sentence if dropped else sentence_of(item)) != self.part:
            return False
        self.counts[f"dropped_{item.reason}" if dropped else "rows"] += 1
        return not dropped

    def bad(self, path: Path, number: int, problem: BadRecord) -> None:
        """Counts and shows a bad record.

        Raises:
            BadRecord: ``on_bad_record`` is "error"; it says file, record number, field, value and remedy.
        """
        if self.on_bad_record == "error":
            raise BadRecord(f"{path}, record {number}: {problem}; {REMEDY}")
        if self.part in (None, TRAIN):
            self.counts["bad_records"] += 1
            if self.counts["bad_records"] <= SHOWN:
                logger.warning("skipped %s, record %d: %s", path, number, problem)


def sentence_of(row: Mapping[str, Any]) -> str:
    """The sentence of a typed row of either kind."""
    return row["text"] if "text" in row else " ".join(row["tokens"])


def write_partial(folder: str | Path, split: str, counts: Counter[str]) -> None:
    """Writes the counts of one process in the folder of a build that is under way."""
    path = Path(folder) / f"{PARTIAL}-{uuid4().hex}.json"
    path.write_text(json.dumps({"split": split, "counts": counts}), encoding="utf-8")


def merge_partials(folder: str | Path) -> dict[str, dict[str, int]]:
    """Merges the counts of all processes into one file and returns them, by split."""
    merged: dict[str, Counter[str]] = {}
    for path in sorted(Path(folder).glob(f"{PARTIAL}-*.json")):
        partial = json.loads(path.read_text(encoding="utf-8"))
        merged.setdefault(partial["split"], Counter()).update(partial["counts"])
        path.unlink()
    splits = [split for split in (TRAIN, VALIDATION, TEST) if split in merged]
    counts = {split: dict(sorted(merged[split].items())) for split in splits}
    (Path(folder) / COUNTS_FILE).write_text(json.dumps(counts, indent=2), encoding="utf-8")
    return counts


def read_counts(folder: str | Path) -> dict[str, dict[str, int]]:
    """Reads the counts of a complete build.

    Raises:
        ValueError: the folder holds none, so what it holds was not built from a corpus by this package.
    """
    path = Path(folder) / COUNTS_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no {COUNTS_FILE}; counts are there for corpora built by data_builders.load")
    return json.loads(path.read_text(encoding="utf-8"))


def report(corpus: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Logs the counts in one line: a warning where something was lost, else for information."""
    splits = [
        f"{split}: " + ", ".join(f"{name} {number}" for name, number in counts[split].items()) for split in counts
    ]
    lost = any(name.startswith(("bad_", "dropped_")) for split in counts.values() for name in split)
    logger.log(logging.WARNING if lost else logging.INFO, "corpus %s: %s", corpus, "; ".join(splits))
