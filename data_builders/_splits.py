"""Which file or sentence belongs to which split.

A file belongs to the split whose word is a part of its name, delimited by anything but letters: ``train-00.json``,
``val_wiki.json``, ``en_ewt-ud-dev.conllu``. Where no file of a release carries such a word, or only the test files do,
the sentences of the others are split by a hash of their text, so that one sentence always falls in the same part, in
whichever file and however often it stands: a tenth is "validation", the rest "train", unless the corpus says other
shares. Cross-validation takes all files together and splits them into :data:`FOLDS` such parts.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
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
FilesBySplit = dict[str | None, list[Path]]  # None: the files whose sentences are split by hash
Shares = tuple[tuple[str, int], ...]  # parts in the order of the hash, and how many hash values each has

SHARES: Shares = ((VALIDATION, 1), (TRAIN, 9))
FOLDS = 5

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


def files_by_split(files: Iterable[Path]) -> FilesBySplit:
    """Groups files by split, in the order train, validation, test; the key None holds those that tell no split."""
    groups: FilesBySplit = {TRAIN: [], VALIDATION: [], TEST: [], None: []}
    for path in files:
        groups[split_of(path)].append(path)
    return {split: group for split, group in groups.items() if group}


def only_with_split(groups: FilesBySplit) -> dict[str, list[Path]]:
    """Leaves out the files that tell no split, in a release where others do, and says so."""
    if None in groups:
        names = [path.name for path in groups[None]]
        logger.warning("left out, since their names tell no split as those of other files do: %s", ", ".join(names))
    return {split: group for split, group in groups.items() if split is not None}


def part_of(sentence: str, shares: Shares = SHARES) -> str:
    """The part of a sentence in a release without splits: by a stable hash of its text."""
    digest = blake2b(sentence.encode("utf-8"), digest_size=8).digest()
    number = int.from_bytes(digest, "big") % sum(share for _, share in shares)
    for part, share in shares[:-1]:
        if number < share:
            return part
        number -= share
    return shares[-1][0]


def without(part: str, shares: Shares) -> Shares:
    """The shares with those of one part given to "train", while all other sentences stay where they are."""
    return tuple((TRAIN if name == part else name, share) for name, share in shares)


def fold_shares(fold: int) -> Shares:
    """The shares of one round of cross-validation: part ``fold`` is "test", the next "validation", the rest "train".

    Raises:
        ValueError: there is no such fold.
    """
    if type(fold) is not int or not 0 <= fold < FOLDS:
        raise ValueError(f"fold is {fold!r} but must be one of 0 to {FOLDS - 1}")
    parts = {fold: TEST, (fold + 1) % FOLDS: VALIDATION}
    return tuple((parts.get(number, TRAIN), 1) for number in range(FOLDS))
