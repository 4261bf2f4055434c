"""Which file or sentence belongs to which split.

A file belongs to the split whose word is a part of its name, delimited by anything but letters: ``train-00.json``,
``val_wiki.json``, ``en_ewt-ud-dev.conllu``. Where no file of a release carries such a word, every sentence goes to
"validation" (a tenth) or "train" by a hash of its text, so that one sentence always falls in the same part, in
whichever file and however often it stands.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLIT_WORDS = {
    "train": TRAIN,
    "training": TRAIN,
    "dev": VALIDATION,
    "development": VALIDATION,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
VALIDATION_SHARE = 10  # one sentence in this many

logger = logging.getLogger(__name__)


def split_of(path: Path) -> str | None:
    """Returns the split that a file's name tells, or None if it tells none.

    Raises:
        ValueError: the name tells two splits.
    """
    words = re.split(r"[^a-z]+", path.name.lower())
    found = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    if len(found) > 1:
        raise ValueError(f"the file name {path.name} tells several splits, {sorted(found)}; rename it to tell one")
    return found.pop() if found else None


def files_by_split(files: Iterable[Path]) -> dict[str | None, list[Path]]:
    """Groups files by split, in the order train, validation, test; the key None holds those that tell no split."""
    groups: dict[str | None, list[Path]] = {TRAIN: [], VALIDATION: [], TEST: [], None: []}
    for path in files:
        groups[split_of(path)].append(path)
    return {split: group for split, group in groups.items() if group}


def only_with_split(groups: dict[str | None, list[Path]]) -> dict[str, list[Path]]:
    """Leaves out the files that tell no split, in a release where others do, and says so."""
    if None in groups:
        names = [path.name for path in groups[None]]
        logger.warning("left out, since their names tell no split as those of other files do: %s", ", ".join(names))
    return {split: group for split, group in groups.items() if split is not None}


def part_of(sentence: str) -> str:
    """The part, "train" or "validation", of a sentence in a release without splits: by a stable hash of its text."""
    digest = blake2b(sentence.encode("utf-8"), digest_size=8).digest()
    return TRAIN if int.from_bytes(digest, "big") % VALIDATION_SHARE else VALIDATION
