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

from ._features import sentence_of
from ._records import BadRecord
from ._splits import SHARES, SPLITS, TRAIN, Shares, part_of

COUNTS_FILE = "counts.json"
PARTIAL = "partial-counts"
REMEDY = "correct it, or set on_bad_record to 'skip' to leave such records out"
SHOWN = 3  # bad records that one process shows in full when it skips them
NOTHING_LOST = ("records", "rows", "triples")  # all other counts are worth a warning

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dropped:
    """Stands in the place of a row that a builder leaves out by rule: the reason, and the row's sentence."""

    reason: str
    sentence: str


@dataclass(frozen=True)
class Noted:
    """Stands after a row that is kept and tells what is to be counted of it: what, the row's sentence, how often."""

    what: str
    sentence: str
    number: int = 1


@dataclass
class Tally:
    """Keeps and counts the rows of one split, or of one part of a release that has no splits.

    A release without splits is read once for each part, so a bad record, whose sentence is unknown, is counted with
    the part "train" only.

    Args:
        on_bad_record: "error" or "skip".
        part: the part to keep, by the hash of the sentence, or None for all.
        shares: the parts there are.
        excluded: sentences whose rows are dropped.
    """

    on_bad_record: str
    part: str | None = None
    shares: Shares = SHARES
    excluded: frozenset[str] = frozenset()
    counts: Counter[str] = field(default_factory=Counter)

    def keeps(self, item: dict[str, Any] | Dropped | Noted) -> bool:
        """Counts a row, a dropped one or a note on one, of this part, and tells whether to keep it."""
        sentence = item.sentence if isinstance(item, Dropped | Noted) else sentence_of(item)
        if self.part is not None and part_of(sentence, self.shares) != self.part:
            return False
        excluded = sentence in self.excluded
        if isinstance(item, Noted):
            self.counts.update({} if excluded else {item.what: item.number})
            return False
        reason = "excluded" if excluded else item.reason if isinstance(item, Dropped) else None
        self.counts["rows" if reason is None else f"dropped_{reason}"] += 1
        return reason is None

    def bad(self, path: Path, number: int, problem: BadRecord, example: str = "") -> None:
        """Counts and shows a bad record; ``example`` is a good one of its layout.

        Raises:
            BadRecord: ``on_bad_record`` is "error"; it says file, record number, field, value and remedy.
        """
        if self.on_bad_record == "error":
            shown = f" (a record looks like this: {example})" if example else ""
            raise BadRecord(f"{problem.path or path}, record {number}: {problem}{shown}; {REMEDY}")
        if self.part in (None, TRAIN):
            self.counts["bad_records"] += 1
            if self.counts["bad_records"] <= SHOWN:
                logger.warning("skipped %s, record %d: %s", problem.path or path, number, problem)


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
    splits = [split for split in SPLITS if split in merged]
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
    lost = any(name not in NOTHING_LOST for split in counts.values() for name in split)
    logger.log(logging.WARNING if lost else logging.INFO, "corpus %s: %s", corpus, "; ".join(splits))
