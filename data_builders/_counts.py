"""Counts what became of the records of a corpus: rows kept, bad records skipped, rows dropped and why.

Each process that builds a part of a corpus writes its own small file beside the Arrow files; when the build is
complete they are merged into one, ``counts.json``, which stays in the cache with it.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from ._features import LABELS, sentence_of
from ._names import normal
from ._records import BadRecord
from ._splits import SHARES, SPLITS, TRAIN, Shares, part_of

COUNTS_FILE = "counts.json"
PARTIAL = "partial-counts"
REMEDY = "correct it, or set on_bad_record to 'skip' to leave such records out"
SHOWN = 3  # bad records that one process shows in full when it skips them
NOTHING_LOST = ("records", "rows", "triples")  # all other counts are worth a warning
SPELLING = "spelling_corrected_"  # before the name of a label, whose count it is
FILES = 12  # lines of a table for one split
LISTED = 10  # names of labels that a line of counts lists

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


@dataclass(frozen=True)
class Matched:
    """Tells that a triple, by its number in the knowledge of a split, was found in a sentence."""

    triple: int


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
        trained: sentences that stay in "train" whatever their hash.
    """

    on_bad_record: str
    part: str | None = None
    shares: Shares = SHARES
    excluded: frozenset[str] = frozenset()
    trained: frozenset[str] = frozenset()
    counts: Counter[str] = field(default_factory=Counter)
    matched: set[int] = field(default_factory=set)
    files: Counter[tuple[str, str]] = field(default_factory=Counter)  # (file name, "rows" or "triples")

    def keeps(self, item: dict[str, Any] | Dropped | Noted | Matched) -> bool:
        """Counts a row, a dropped one or a note on one, of this part, and tells whether to keep it."""
        if isinstance(item, Matched):
            self.matched.add(item.triple)
            return False
        sentence = item.sentence if isinstance(item, Dropped | Noted) else sentence_of(item)
        if self.part is not None and self._part(sentence) != self.part:
            return False
        excluded = sentence in self.excluded
        if isinstance(item, Noted):
            self.counts.update({} if excluded else {item.what: item.number})
            return False
        reason = "excluded" if excluded else item.reason if isinstance(item, Dropped) else None
        self.counts["rows" if reason is None else f"dropped_{reason}"] += 1
        return reason is None

    def _part(self, sentence: str) -> str:
        return TRAIN if sentence in self.trained else part_of(sentence, self.shares)

    def total(self) -> Counter[str]:
        """The counts, with that of the triples which no sentence holds."""
        lost = self.counts["triples"] - len(self.matched)
        return self.counts + Counter(triples_never_found=lost)

    def spell(self, row: dict[str, Any]) -> None:
        """Gives the labels of a row that is kept their one spelling, and counts those that had another by name."""
        for column in LABELS.keys() & row.keys():
            if LABELS[column]:
                row[column] = list(dict.fromkeys(map(self.spelled, row[column])))
            else:
                row[column] = self.spelled(row[column])

    def spelled(self, label: str) -> str:
        """The one spelling of a label; where it had another, that is counted."""
        right = normal(label)
        if right != label:
            self.counts[SPELLING + right] += 1
        return right

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


def write_partial(folder: str | Path, split: str, tally: Tally) -> None:
    """Writes the counts of one process in the folder of a build that is under way."""
    path = Path(folder) / f"{PARTIAL}-{uuid4().hex}.json"
    files = [[*file, number] for file, number in tally.files.items()]
    partial = {"split": split, "counts": tally.counts, "matched": sorted(tally.matched), "files": files}
    path.write_text(json.dumps(partial), encoding="utf-8")


def merge_partials(folder: str | Path, left_out: Sequence[str]) -> dict[str, dict[str, int]]:
    """Merges the counts of all processes into one file and returns them, by split.

    Args:
        folder: the folder of the build.
        left_out: names of the corpus' files that are in no split.
    """
    merged: dict[str, Tally] = {}
    for path in sorted(Path(folder).glob(f"{PARTIAL}-*.json")):
        partial = json.loads(path.read_text(encoding="utf-8"))
        tally = merged.setdefault(partial["split"], Tally("skip"))
        tally.counts.update(partial["counts"])
        tally.matched.update(partial["matched"])
        for name, what, number in partial["files"]:
            tally.files[name, what] += number
        path.unlink()
    splits = [split for split in SPLITS if split in merged]
    counts = {split: dict(sorted(merged[split].total().items())) for split in splits}
    files = {split: [[*file, number] for file, number in sorted(merged[split].files.items())] for split in splits}
    told = {"counts": counts, "files": files, "left_out": list(left_out)}
    (Path(folder) / COUNTS_FILE).write_text(json.dumps(told, indent=2), encoding="utf-8")
    return counts


def read_counts(folder: str | Path) -> dict[str, Any]:
    """Reads what a complete build left: "counts" by split, "files" by split, and the names of those "left_out".

    Raises:
        ValueError: the folder holds nothing of it, so what it holds was not built from a corpus by this package.
    """
    path = Path(folder) / COUNTS_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no {COUNTS_FILE}; counts are there for corpora built by data_builders.load")
    return json.loads(path.read_text(encoding="utf-8"))


def split_table(told: Mapping[str, Any]) -> str:
    """Which file became which split, with its number of rows, a line each, from what ``read_counts`` returns."""
    lines = []
    for split, files in told["files"].items():
        shown = files if len(files) <= FILES else files[: FILES - 1]
        lines += [(split, name, f"{number} {what}") for name, what, number in shown]
        if len(files) > len(shown):
            rest = files[len(shown) :]
            lines.append((split, f"{len(rest)} files more", f"{sum(number for *_, number in rest)} rows"))
    lines += [("left out", name, "of no split, or of another domain, by its name") for name in told["left_out"]]
    width = max((len(name) for _, name, _ in lines), default=0)
    return "\n".join(f"  {split:<10}  {name:<{width}}  {what}" for split, name, what in lines)


def listed(counts: Mapping[str, int], form: str = "{number} {name}") -> str:
    """The counts of a split in words; of the labels whose spelling was corrected the most frequent by name."""
    corrected = {name.removeprefix(SPELLING): n for name, n in counts.items() if name.startswith(SPELLING)}
    most = sorted(corrected, key=corrected.__getitem__, reverse=True)[:LISTED]
    words = [form.format(name=name, number=number) for name, number in counts.items() if not name.startswith(SPELLING)]
    words += [f"{corrected[name]} of label {name!r} spelt otherwise" for name in most]
    words += [f"and of {len(corrected) - LISTED} labels more"] * (len(corrected) > LISTED)
    return ", ".join(words)


def report(corpus: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Logs the counts in one line: a warning where something was lost, else for information."""
    splits = [f"{split}: " + listed(counts[split], "{name} {number}") for split in counts]
    lost = any(name not in NOTHING_LOST for split in counts.values() for name in split)
    logger.log(logging.WARNING if lost else logging.INFO, "corpus %s: %s", corpus, "; ".join(splits))
