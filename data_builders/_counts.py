"""Count the rows of a corpus, the bad records that were skipped, and the rows that were dropped, by reason.

Each process of a build writes its counts to a small file next to the Arrow files. When the build is complete, these
files are merged into `counts.json`, which stays in the cache with the Arrow files.
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
from ._splits import SHARES, SPLITS, TRAIN, Shares, split_by_hash

COUNTS_FILE = "counts.json"
PARTIAL = "partial-counts"
REMEDY = "correct it, or set on_bad_record to 'skip' to leave such records out"
MAX_LOGGED = 3  # skipped bad records that each process logs in full
NOTHING_LOST = ("records", "rows", "triples", "evidences")  # all other counts call for a warning
SPELLING = "spelling_corrected_"  # prefix of a label's name in the counts
MAX_FILES = 12  # lines of a table for each split
MAX_LABELS = 10  # labels in a line of counts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dropped:
    """A row that was left out by a rule: the reason, and the sentence of the row."""

    reason: str
    sentence: str


@dataclass(frozen=True)
class Noted:
    """An addition to a count, after a row that is kept: the count, the sentence of the row, and how much to add."""

    what: str
    sentence: str
    number: int = 1


@dataclass(frozen=True)
class Matched:
    """A triple that occurs in a sentence, by its number among the triples of a split."""

    triple: int


@dataclass
class Tally:
    """Select and count the rows of a split.

    A release without splits is read once for each split by hash. A bad record, whose sentence is unknown, is then
    counted only for "train".

    Args:
        on_bad_record: "error" or "skip".
        hash_split: the split by hash whose sentences are kept, or None to keep all sentences.
        shares: the splits by hash and their shares.
        excluded: sentences whose rows are dropped.
        trained: sentences that stay in "train" whatever their hash.
    """

    on_bad_record: str
    hash_split: str | None = None
    shares: Shares = SHARES
    excluded: frozenset[str] = frozenset()
    trained: frozenset[str] = frozenset()
    counts: Counter[str] = field(default_factory=Counter)
    matched: set[int] = field(default_factory=set)
    files: Counter[tuple[str, str]] = field(default_factory=Counter)  # (file name, "rows" or "triples")

    def keeps(self, item: dict[str, Any] | Dropped | Noted | Matched) -> bool:
        """Count a row, a dropped row or a note if it belongs to this split, and return whether to keep it as a row."""
        if isinstance(item, Matched):
            self.matched.add(item.triple)
            return False
        sentence = item.sentence if isinstance(item, Dropped | Noted) else sentence_of(item)
        if self.hash_split is not None:
            own_split = TRAIN if sentence in self.trained else split_by_hash(sentence, self.shares)
            if own_split != self.hash_split:
                return False
        excluded = sentence in self.excluded
        if isinstance(item, Noted):
            self.counts.update({} if excluded else {item.what: item.number})
            return False
        reason = "excluded" if excluded else item.reason if isinstance(item, Dropped) else None
        self.counts["rows" if reason is None else f"dropped_{reason}"] += 1
        return reason is None

    def total(self) -> Counter[str]:
        """Return the counts, including that of triples that occur in no sentence."""
        lost = self.counts["triples"] - len(self.matched)
        return self.counts + Counter(triples_never_found=lost)

    def spell(self, row: dict[str, Any]) -> None:
        """Normalise the spelling of the labels of a row, in place, and count each label that was spelt differently."""
        for column in LABELS.keys() & row.keys():
            if LABELS[column]:
                row[column] = list(dict.fromkeys(map(self.spelled, row[column])))
            else:
                row[column] = self.spelled(row[column])

    def spelled(self, label: str) -> str:
        """Return the normal spelling of a label, and count the label if it was spelt differently."""
        right = normal(label)
        if right != label:
            self.counts[SPELLING + right] += 1
        return right

    def bad(self, path: Path, number: int, problem: BadRecord, example: str = "") -> None:
        """Count and log a bad record; `example` is a good record of the same layout.

        Raises:
            BadRecord: `on_bad_record` is "error". The message names file, record number, field, value and remedy.
        """
        if self.on_bad_record == "error":
            shown = f" (a record looks like this: {example})" if example else ""
            raise BadRecord(f"{problem.path or path}, record {number}: {problem}{shown}; {REMEDY}")
        if self.hash_split in (None, TRAIN):
            self.counts["bad_records"] += 1
            if self.counts["bad_records"] <= MAX_LOGGED:
                logger.warning("skipped %s, record %d: %s", problem.path or path, number, problem)


def write_partial(folder: str | Path, split: str, tally: Tally) -> None:
    """Write the counts of a process to the folder of an unfinished build."""
    path = Path(folder) / f"{PARTIAL}-{uuid4().hex}.json"
    files = [[*file, number] for file, number in tally.files.items()]
    partial = {"split": split, "counts": tally.counts, "matched": sorted(tally.matched), "files": files}
    path.write_text(json.dumps(partial), encoding="utf-8")


def merge_partials(folder: str | Path, left_out: Sequence[str]) -> dict[str, dict[str, int]]:
    """Merge the counts of all processes into a single file and return them by split.

    Args:
        folder: the folder of the build.
        left_out: names of the corpus files that are not in any split.
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
    summary = {"counts": counts, "files": files, "left_out": list(left_out)}
    (Path(folder) / COUNTS_FILE).write_text(json.dumps(summary, indent=2), encoding="utf-8")
    return counts


def read_counts(folder: str | Path) -> dict[str, Any]:
    """Read the summary of a complete build: "counts" by split, "files" by split, and names of files "left_out".

    Raises:
        ValueError: the folder has no summary, so its data was not built from a corpus by this package.
    """
    path = Path(folder) / COUNTS_FILE
    if not path.is_file():
        raise ValueError(f"{folder} has no {COUNTS_FILE}; counts exist for corpora built by data_builders.load")
    return json.loads(path.read_text(encoding="utf-8"))


def split_table(summary: Mapping[str, Any]) -> str:
    """Return a table of a summary from `read_counts`: a line for each file with its split and number of rows."""
    lines = []
    for split, files in summary["files"].items():
        shown = files if len(files) <= MAX_FILES else files[: MAX_FILES - 1]
        lines += [(split, name, f"{number} {what}") for name, what, number in shown]
        if len(files) > len(shown):
            rest = files[len(shown) :]
            lines.append((split, f"{len(rest)} files more", f"{sum(number for *_, number in rest)} rows"))
    lines += [("left out", name, "of no split or another domain, going by its name") for name in summary["left_out"]]
    width = max((len(name) for _, name, _ in lines), default=0)
    return "\n".join(f"  {split:<10}  {name:<{width}}  {what}" for split, name, what in lines)


def listed(counts: Mapping[str, int], form: str = "{number} {name}") -> str:
    """Return the counts of a split in words, with the names of the labels that were corrected most often."""
    corrected = {name.removeprefix(SPELLING): n for name, n in counts.items() if name.startswith(SPELLING)}
    most = sorted(corrected, key=corrected.__getitem__, reverse=True)[:MAX_LABELS]
    words = [form.format(name=name, number=number) for name, number in counts.items() if not name.startswith(SPELLING)]
    words += [f"{corrected[name]} of label {name!r} spelt differently" for name in most]
    words += [f"and of {len(corrected) - MAX_LABELS} more labels"] * (len(corrected) > MAX_LABELS)
    return ", ".join(words)


def report(corpus: str, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Log the counts in one line, as a warning if anything was lost, else as information."""
    splits = [f"{split}: " + listed(counts[split], "{name} {number}") for split in counts]
    lost = any(name not in NOTHING_LOST for split in counts.values() for name in split)
    logger.log(logging.WARNING if lost else logging.INFO, "corpus %s: %s", corpus, "; ".join(splits))
