"""The base class of all corpus builders: splits, bad records, excluded sentences, counts and the cache key.

A corpus is a file with a class named `Corpus`, derived from `CorpusBuilder`. The class defines its `record_type` (see
`_features`), its `file_patterns`, how to read a file (`read`) and how to turn a record into typed rows (`rows`);
everything else is here.

Splits follow from the file names, or from a hash of the sentence where the names don't say (see `_splits`). A corpus
whose file names are misleading overrides `groups` and `hash_shares`.

The cache key contains the folder, the files (names, sizes, modification times), the options and the code itself, so
a changed corpus or builder is built again. An interrupted build is never mistaken for a complete build, because
`datasets` renames the folder of a build only when it is complete.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b
from itertools import accumulate, chain
from pathlib import Path
from shutil import rmtree
from typing import Any, ClassVar

import datasets
from multiprocess import Pool

from ._counts import Dropped, Matched, Noted, Tally, merge_partials, read_counts, report, split_table, write_partial
from ._features import FEATURES, LABELS, label_names, sentence_of
from ._files import NumberedRecords, companion_files, corpus_files, fingerprint, json_records, or_empty
from ._names import normal
from ._records import BadRecord
from ._splits import (
    SHARES,
    SPLITS,
    TEST,
    TRAIN,
    FilesBySplit,
    Shares,
    files_by_split,
    fold_shares,
    only_with_split,
    split_by_hash,
    without,
)

Row = dict[str, Any]
RowMaker = Callable[[Any], Iterable[Row | Dropped | Noted | Matched]]

ON_BAD_RECORD = ("error", "skip")


@dataclass
class CorpusConfig(datasets.BuilderConfig):
    """The options of a build besides its folder; each field enters the cache key."""

    on_bad_record: str = "error"
    labelled: bool = True
    fold: int | None = None
    files_fingerprint: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_bad_record not in ON_BAD_RECORD:
            raise ValueError(f"on_bad_record is {self.on_bad_record!r} but must be one of {', '.join(ON_BAD_RECORD)}")
        if self.fold is not None:
            fold_shares(self.fold)


class CorpusBuilder(datasets.GeneratorBasedBuilder):
    """Build typed datasets from the files of a corpus in a local folder.

    Args:
        data_dir: the folder that holds the corpus files, or those `subfolders` of a release that hold them.
        cache_dir: where to write the Arrow files; by default the cache of `datasets`.
        on_bad_record: "error" stops at a malformed record, "skip" counts it and goes on.
        exclude: other corpora; rows whose sentence occurs in one of them are dropped and counted.
        fold: pool all files and split them for this round of cross-validation, see `_splits`.
        file: read only this file, whatever its name; the labels of its records are then optional.

    Raises:
        ValueError: the folder is missing or has no corpus files, or `on_bad_record` or `fold` is unknown.
    """

    BUILDER_CONFIG_CLASS = CorpusConfig
    record_type: ClassVar[str]
    file_patterns: ClassVar[tuple[str, ...]] = ("*.json", "*.jsonl")
    subfolders: ClassVar[tuple[str, ...]] = ()  # folders of the release that hold the corpus files
    beside: ClassVar[tuple[str, ...]] = ()  # files read along with them, in `data_dir` or the folder above it
    homepage: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    note: ClassVar[str] = ""  # how the rows are made; every run prints it
    _num_proc: int | None = None
    example: ClassVar[str] = ""  # a record, shown to people who write such files themselves

    def __init__(
        self,
        data_dir: str | Path,
        cache_dir: str | Path | None = None,
        on_bad_record: str = "error",
        exclude: Sequence[CorpusBuilder] = (),
        fold: int | None = None,
        file: Path | None = None,
    ) -> None:
        if file is None:
            self.files = corpus_files(data_dir, self.file_patterns, self.subfolders, self.beside)
        else:
            self.files = [file]
        self.companions = companion_files(data_dir, self.beside)
        self.exclude = tuple(exclude)
        super().__init__(
            cache_dir=None if cache_dir is None else str(cache_dir),
            data_dir=os.path.abspath(data_dir),
            hash=self._code_hash(),
            on_bad_record=on_bad_record,
            labelled=file is None,
            fold=fold,
            files_fingerprint="+".join(
                [self._fingerprint(), *(other.cache_dir + other._fingerprint() for other in self.exclude)]
            ),
        )

    def _fingerprint(self) -> str:
        return fingerprint([*self.files, *self.companions.values()])

    def read(self, path: Path) -> NumberedRecords:
        """Yield the numbered raw records of a file, with a `BadRecord` instead of each unreadable record.

        By default a file is a JSON array, or has an object per line.
        """
        return json_records(path)

    def rows(self, record: Any) -> Iterable[Row | Dropped | Noted | Matched]:
        """Return the typed rows of a raw record, a `Dropped` for each row left out by a rule, and notes at the end.

        A row without "id" gets the file name and the record number as its id.

        Raises:
            BadRecord: the record is malformed.
        """
        raise TypeError(f"the corpus {self.name} must define the rows of a record")

    def row_maker(self, **resources: Any) -> RowMaker:
        """Return the function that makes the rows of a record; override it where `rows` needs more than the record."""
        return self.rows

    def groups(self) -> FilesBySplit:
        """Return the files with records by split; the key None holds files whose sentences are split by hash."""
        return files_by_split(self.files)

    def hash_shares(self) -> Shares:
        """Return the splits into which sentences are hashed, with their shares."""
        return SHARES

    def read_file(self) -> datasets.Dataset:
        """Return the rows of the single file that the builder was made for, in memory.

        Raises:
            ValueError: a record is malformed, or no row is left.
        """
        tally = Tally(self.config.on_bad_record)
        rows = [row for _, row in self._file_rows(self.files[0], self.row_maker(), tally)]
        report(self.name, {str(self.files[0]): tally.total()})
        if not rows:
            raise ValueError(f"no row is left of {self.files[0]} in the layout of {self.name}: {dict(tally.counts)}")
        return datasets.Dataset.from_list(rows, features=FEATURES[self.record_type].copy())

    def counts(self) -> dict[str, dict[str, int]]:
        """Return the counts of the finished build by split."""
        return read_counts(self._output_dir)["counts"]

    def split_table(self) -> str:
        """Return a table of the finished build: the split and number of rows of each file."""
        return split_table(read_counts(self._output_dir))

    def left_out(self) -> list[Path]:
        """Return the files that are not in any split."""
        groups = self._pooled_for_folds(self.groups())
        by_name = bool(set(groups) - {None, TEST})
        read = [path for split, files in groups.items() if split is not None or not by_name for path in files]
        return [path for path in self.files if path not in read]

    def as_dataset(self, split: Any = None, in_memory: bool = False) -> datasets.Dataset | datasets.DatasetDict:
        """Return a split of the finished build, or all splits with rows: a small corpus may have no "validation".

        Raises:
            ValueError: the split has no rows, or there is no split of this name.
        """
        filled = [name for name, info in self.info.splits.items() if info.num_examples]
        if isinstance(split, str) and split in self.info.splits and split not in filled:
            raise ValueError(f"the split '{split}' of {self.config.data_dir} holds no row; there are {filled}")
        return super().as_dataset({name: name for name in filled} if split is None else split, in_memory)

    def _info(self) -> datasets.DatasetInfo:
        description = (sys.modules[type(self).__module__].__doc__ or "").strip()
        return datasets.DatasetInfo(
            description=description,
            features=FEATURES[self.record_type].copy(),
            homepage=self.homepage,
            license=self.licence,
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        groups = self._pooled_for_folds(self.groups())
        if None not in groups or set(groups) - {None, TEST}:
            return [self._split(dl_manager, split, files) for split, files in only_with_split(groups).items()]
        shares = self._shares()
        if TEST in groups:
            shares = without(TEST, shares)
        hashed = [name for name in SPLITS if name in dict(shares)]
        trained = self._kept_in_train(groups[None], shares)
        generators = [self._split(dl_manager, name, groups[None], name, shares, trained) for name in hashed]
        return generators + [self._split(dl_manager, TEST, groups[TEST]) for _ in range(TEST in groups)]

    def _pooled_for_folds(self, groups: FilesBySplit) -> FilesBySplit:
        """Return the files by split, or all files together in cross-validation."""
        if self.config.fold is None:
            return groups
        return {None: [path for files in groups.values() for path in files]}

    def _shares(self) -> Shares:
        return self.hash_shares() if self.config.fold is None else fold_shares(self.config.fold)

    def _split(
        self,
        dl_manager: Any,
        split: str,
        files: list[Path],
        hash_split: str | None = None,
        shares: Shares = SHARES,
        trained: frozenset[str] = frozenset(),
        **resources: Any,
    ) -> datasets.SplitGenerator:
        # datasets divides every list among the processes, so only the files are a list.
        options = {"split": split, "hash_split": hash_split, "shares": shares, "trained": trained}
        options["counts_dir"] = None if dl_manager.is_streaming else self._output_dir
        return datasets.SplitGenerator(
            name=split, gen_kwargs={"files": [str(f) for f in files], **options, **resources}
        )

    def _generate_examples(
        self,
        files: list[str],
        split: str,
        hash_split: str | None,
        shares: Shares,
        trained: frozenset[str],
        counts_dir: str | None,
        **resources: Any,
    ) -> Iterator[tuple[str, Row]]:
        tally = Tally(self.config.on_bad_record, hash_split, shares, self._excluded, trained)
        make_rows = self.row_maker(**resources)
        for file in files:
            yield from self._file_rows(Path(file), make_rows, tally)
        if counts_dir is None:
            report(self.name, {split: tally.total()})
        else:
            write_partial(counts_dir, split, tally)

    def _kept_in_train(self, files: list[Path], shares: Shares, **resources: Any) -> frozenset[str]:
        """Return the held-out sentences that stay in "train" because it would have no other example of their label.

        In cross-validation there are none, since each sentence must be held out once. The files are read for this, by
        as many processes as the build uses.
        """
        if self.config.fold is not None or not LABELS.keys() & FEATURES[self.record_type].keys():
            return frozenset()
        find = partial(self._labels_by_split, shares=shares, **resources)
        processes = min(self._num_proc or 1, len(files))
        if processes > 1:
            with Pool(processes) as pool:
                labels_by_file = pool.map(find, files)
        else:
            labels_by_file = map(find, files)
        trained: set[str] = set()
        held_out: dict[str, set[str]] = {}
        for labels, sentences in labels_by_file:
            trained |= labels
            for label, own in sentences.items():
                held_out.setdefault(label, set()).update(own)
        return frozenset(chain.from_iterable(own for label, own in held_out.items() if label not in trained))

    def _labels_by_split(self, path: Path, shares: Shares, **resources: Any) -> tuple[set[str], dict[str, set[str]]]:
        """Return the labels of a file's rows in "train", and the held-out sentences of each other label."""
        make_rows = self.row_maker(**resources)
        trained: set[str] = set()
        held_out: dict[str, set[str]] = {}
        for _, record in self.read(path):
            for row in self._sound_rows(record, make_rows):
                sentence = sentence_of(row)
                if sentence in self._excluded:
                    continue
                for label in map(normal, label_names(row)):
                    if split_by_hash(sentence, shares) == TRAIN:
                        trained.add(label)
                        held_out.pop(label, None)
                    elif label not in trained:
                        held_out.setdefault(label, set()).add(sentence)
        return trained, held_out

    def _sound_rows(self, record: Any, make_rows: RowMaker) -> list[Row]:
        try:
            return [row for row in self._record_rows(record, make_rows) if isinstance(row, dict)]
        except BadRecord:  # the build itself reports it
            return []

    @cached_property
    def _excluded(self) -> frozenset[str]:
        """The sentences of the excluded corpora."""
        streams = [split for other in self.exclude for split in other.as_streaming_dataset().values()]
        return frozenset(sentence_of(row) for stream in streams for row in stream)

    def _file_rows(self, path: Path, make_rows: RowMaker, tally: Tally) -> Iterator[tuple[str, Row]]:
        tally.files[path.name, "rows"] += 0
        for number, record in or_empty(self.read(path)):
            try:
                rows = self._record_rows(record, make_rows)
            except BadRecord as problem:
                tally.bad(path, number, problem, self.example)
                continue
            tally.counts["records"] += 1
            positions = accumulate(int(not isinstance(row, Noted | Matched)) for row in rows)
            single = sum(not isinstance(row, Noted | Matched) for row in rows) == 1
            for position, row in zip(positions, rows, strict=True):
                if tally.keeps(row) and isinstance(row, dict):
                    tally.files[path.name, "rows"] += 1
                    tally.spell(row)
                    row.setdefault("id", f"{path.name}:{number}" if single else f"{path.name}:{number}:{position}")
                    yield row["id"], row

    @staticmethod
    def _record_rows(record: Any, make_rows: RowMaker) -> list[Row | Dropped | Noted | Matched]:
        """Return all rows of a record; a record that turns out bad halfway has no rows at all."""
        if isinstance(record, BadRecord):
            raise record
        return list(make_rows(record))

    def _prepare_split_single(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, bool, Any]]:
        """Raise our own error or that of the disk where datasets wraps it; worker processes would lose the cause."""
        try:
            yield from super()._prepare_split_single(*args, **kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, BadRecord | OSError):
                raise error.__cause__ from None
            raise

    def download_and_prepare(self, *args: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        """Build the corpus as `datasets` does, with `num_proc` processes wherever files are read."""
        self._num_proc = num_proc
        super().download_and_prepare(*args, num_proc=num_proc, **kwargs)

    def _download_and_prepare(self, dl_manager: Any, verification_mode: Any, **kwargs: Any) -> None:
        """Build in the temporary folder that datasets renames at the end, and write the counts there."""
        _remove_leftovers(Path(self._output_dir))
        super()._download_and_prepare(dl_manager, verification_mode, **kwargs)
        counts = merge_partials(self._output_dir, [path.name for path in self.left_out()])
        report(self.name, counts)
        if not any(split.get("rows") for split in counts.values()):
            raise ValueError(
                f"no row is left of {self.config.data_dir} as a {self.name} corpus: {counts}; "
                f"{self.note or 'check data_dir'}"
            )

    @classmethod
    def _code_hash(cls) -> str:
        """Return a hash of the code that makes the rows: the file of the corpus and the shared files."""
        shared = sorted(Path(__file__).parent.glob("_*.py"))
        sources = [path.read_bytes() for path in [*shared, Path(sys.modules[cls.__module__].__file__ or "")]]
        return blake2b(b"".join(sources), digest_size=8).hexdigest()


def _remove_leftovers(folder: Path) -> None:
    """Remove the leftovers of a killed build from its temporary folder; datasets would keep them in the new build."""
    for path in folder.iterdir() if folder.name.endswith(".incomplete") else ():
        rmtree(path) if path.is_dir() else path.unlink()
