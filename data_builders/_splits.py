"""Assign files and sentences to splits.

A file belongs to the split whose word occurs in its name, delimited by anything but letters: `train-00.json`,
`val_wiki.json`, `en_ewt-ud-dev.conllu`. If no file of a release has such a word, or only the test files have one, the
sentences of the other files are split by a hash of their text. The same sentence then always falls into the same
split, however often and in whichever files it occurs: a tenth is "validation" and the rest "train", unless the corpus
defines other shares. A sentence stays in "train" if "train" would otherwise have no example of its label.
Cross-validation pools all files and divides them into `FOLDS` folds by the hash alone.
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
EVALUATION = ("eval", "evaluation", "evalset")  # validation, unless there are other validation files
SPLIT_WORDS = {word: split for split, words in WORDS.items() for word in words} | dict.fromkeys(EVALUATION, VALIDATION)
FilesBySplit = dict[str | None, list[Path]]  # None: the files whose sentences are split by hash
Shares = tuple[tuple[str, int], ...]  # splits in the order of the hash, each with its number of hash values

SHARES: Shares = ((VALIDATION, 1), (TRAIN, 9))
FOLDS = 5

logger = logging.getLogger(__name__)


def split_of(path: Path) -> str | None:
    """Return the split that a file's name contains, or None.

    Raises:
        ValueError: the name contains several splits.
    """
    splits = {SPLIT_WORDS[word] for word in _words(path) if word in SPLIT_WORDS}
    if len(splits) > 1:
        raise ValueError(f"the file name {path.name} contains several splits, {sorted(splits)}; rename it to name one")
    return splits.pop() if splits else None


def _words(path: Path) -> list[str]:
    return re.split(r"[^a-z]+", path.name.lower())


def files_by_split(files: Iterable[Path]) -> FilesBySplit:
    """Group files by split, in the order train, validation, test; the key None holds files that name no split.

    Raises:
        ValueError: a name contains several splits, or there are both "eval" files and other validation files.
    """
    groups: FilesBySplit = {TRAIN: [], VALIDATION: [], TEST: [], None: []}
    for path in files:
        groups[split_of(path)].append(path)
    evaluation = [path.name for path in groups[VALIDATION] if set(EVALUATION) & set(_words(path))]
    if evaluation and len(evaluation) < len(groups[VALIDATION]):
        other = next(path.name for path in groups[VALIDATION] if path.name not in evaluation)
        raise ValueError(
            f"{evaluation[0]} may be the validation or the test set, since {other} is for validation too; rename it "
            "to say which"
        )
    return {split: group for split, group in groups.items() if group}


def together(first: FilesBySplit, second: FilesBySplit) -> dict[str, tuple[list[Path], list[Path]]]:
    """Return the files of two groups by split, for corpora that read both together, such as texts and triples.

    A split that the name of any file contains has its own files and those that name no split. There are no splits if
    no name contains one.
    """
    named = [split for split in SPLITS if split in first or split in second]
    return {
        split: (first.get(split, []) + first.get(None, []), second.get(split, []) + second.get(None, []))
        for split in named
    }


def of_one_domain(groups: FilesBySplit) -> FilesBySplit:
    """Leave out held-out files of domains for which there is no training file, such as `val_nyt.json`.

    Raises:
        ValueError: the held-out files are of several domains, and there is a training file for none of them.
    """
    trained = {_domain(path) for path in groups.get(TRAIN, [])}
    kept = dict(groups)
    for split in {VALIDATION, TEST} & groups.keys():
        if len({_domain(path) for path in groups[split]}) > 1:
            kept[split] = [path for path in groups[split] if _domain(path) in trained]
            if not kept[split]:
                names = ", ".join(path.name for path in groups[split])
                raise ValueError(f"{names} are {split} files of several domains; keep only one domain in the folder")
    return kept


def _domain(path: Path) -> tuple[str, ...]:
    """Return the words of a file's name except its split."""
    return tuple(word for word in _words(path) if word not in SPLIT_WORDS)


def only_with_split(groups: FilesBySplit) -> dict[str, list[Path]]:
    """Leave out the files that name no split, since other files of the release name theirs, and log a warning."""
    if None in groups:
        names = [path.name for path in groups[None]]
        logger.warning("left out, since other files have a split in their names: %s", ", ".join(names))
    return {split: group for split, group in groups.items() if split is not None}


def split_by_hash(sentence: str, shares: Shares = SHARES) -> str:
    """Return the split of a sentence by a stable hash of its text."""
    digest = blake2b(sentence.encode("utf-8"), digest_size=8).digest()
    number = int.from_bytes(digest, "big") % sum(share for _, share in shares)
    for split, share in shares[:-1]:
        if number < share:
            return split
        number -= share
    return shares[-1][0]


def without(split: str, shares: Shares) -> Shares:
    """Return the shares with that of a split moved to "train"; all other sentences stay in their splits."""
    return tuple((TRAIN if name == split else name, share) for name, share in shares)


def fold_shares(fold: int) -> Shares:
    """Return the shares of a cross-validation round: fold `fold` is "test", the next "validation", the rest "train".

    Raises:
        ValueError: there is no such fold.
    """
    if type(fold) is not int or not 0 <= fold < FOLDS:
        raise ValueError(f"fold is {fold!r} but must be one of 0 to {FOLDS - 1}")
    held_out = {fold: TEST, (fold + 1) % FOLDS: VALIDATION}
    return tuple((held_out.get(number, TRAIN), 1) for number in range(FOLDS))
