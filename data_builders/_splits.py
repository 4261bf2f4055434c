"""Which file or sentence belongs to which split.

A file belongs to the split whose word is a part of its name, delimited by anything but letters: ``train-00.json``,
``val_wiki.json``, ``en_ewt-ud-dev.conllu``. Where no file of a release carries such a word, or only the test files do,
the sentences of the others are split by a hash of their text, so that one sentence always falls in the same part, in
whichever file and however often it stands: a tenth is "validation", the rest "train", unless the corpus says other
shares. A sentence with a label that "train" would lack otherwise stays in "train", since nothing else teaches it.
Cross-validation takes all files together and splits them into :data:`FOLDS` such parts, by the hash alone.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
WORDS = {
    TRAIN: ("train", "training", "trn", "trainset"),
    VALIDATION: ("dev", "devel", "development", "devset", "val", "valid", "validation", "valset", "heldout"),
    TEST: ("test", "testing", "tst", "testset"),
}
EVALUATION = ("eval", "evaluation", "evalset")  # validation, but to some the test set: never beside another validation
SPLIT_WORDS = {word: split for split, words in WORDS.items() for word in words} | dict.fromkeys(EVALUATION, VALIDATION)
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
    found = {SPLIT_WORDS[word] for word in _words(path) if word in SPLIT_WORDS}
    if len(found) > 1:
        raise ValueError(f"the file name {path.name} tells several splits, {sorted(found)}; rename it to tell one")
    return found.pop() if found else None


def _words(path: Path) -> list[str]:
    return re.split(r"[^a-z]+", path.name.lower())


def files_by_split(files: Iterable[Path]) -> FilesBySplit:
    """Groups files by split, in the order train, validation, test; the key None holds those that tell no split.

    Raises:
        ValueError: a name tells two splits, or "eval" stands beside another word for validation.
    """
    groups: FilesBySplit = {TRAIN: [], VALIDATION: [], TEST: [], None: []}
    for path in files:
        groups[split_of(path)].append(path)
    evaluation = [path.name for path in groups[VALIDATION] if set(EVALUATION) & set(_words(path))]
    if evaluation and len(evaluation) < len(groups[VALIDATION]):
        other = next(path.name for path in groups[VALIDATION] if path.name not in evaluation)
        raise ValueError(
            f"{evaluation[0]} may be the validation or the test set, since {other} is for validation too; rename it "
            "to tell which"
        )
    return {split: group for split, group in groups.items() if group}


def of_one_domain(groups: FilesBySplit) -> FilesBySplit:
    """Leaves out held-out files whose names tell another domain than those of the training files, as ``val_nyt.json``.

    Raises:
        ValueError: held-out files tell several domains, and no training file says which of them is meant.
    """
    trained = {_domain(path) for path in groups.get(TRAIN, [])}
    kept = dict(groups)
    for split in {VALIDATION, TEST} & groups.keys():
        if len({_domain(path) for path in groups[split]}) > 1:
            kept[split] = [path for path in groups[split] if _domain(path) in trained]
            if not kept[split]:
                names = ", ".join(path.name for path in groups[split])
                raise ValueError(f"{names} are {split} files of several domains; keep those of one in the folder")
    return kept


def _domain(path: Path) -> tuple[str, ...]:
    """The words of a file's name besides its split."""
    return tuple(word for word in _words(path) if word not in SPLIT_WORDS)


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
