"""Corpora: each corpus is a file in this folder and is loaded by the name of that file; there is no table to edit.

`load("fewrel", data_dir)` imports `fewrel.py`, builds the corpus once into the Arrow cache of `datasets` and returns
the typed dataset. To add a corpus, add a file with a class named `Corpus`, derived from `_builder.CorpusBuilder`, and
two invented records in `SAMPLE_FILES` and `SAMPLE_ROWS`, on which the shared tests run. The name of the file is the
name of the corpus and of its cache directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import datasets

from .. import discovery
from ._builder import CorpusBuilder
from ._counts import listed, read_counts
from ._counts import split_table as render
from ._features import FEATURES, sentence_of
from ._mentions import WORD, NameFinder, word_spans
from ._names import INVISIBLE, MARKS, normal
from ._question_answering import occurrences
from ._splits import FOLDS
from ._templates import read_templates
from ._texts import READABLE, as_texts

__all__ = [
    "FEATURES",
    "FOLDS",
    "INVISIBLE",
    "MARKS",
    "READABLE",
    "WORD",
    "CorpusBuilder",
    "NameFinder",
    "as_texts",
    "available",
    "counts",
    "get_builder",
    "listed",
    "load",
    "load_file",
    "normal",
    "occurrences",
    "read_templates",
    "sentence_of",
    "split_table",
    "word_spans",
]

AnyDataset: TypeAlias = (
    datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict
)


def available() -> list[str]:
    """Return the names of all corpora: the files of this folder."""
    return discovery.available(__name__)


def get_builder(name: str) -> type[CorpusBuilder]:
    """Return the builder class of a corpus.

    Raises:
        ValueError: there is no corpus of this name; the message lists the available corpora.
    """
    return discovery.find(__name__, "corpus", name).Corpus


def load(
    name: str,
    data_dir: str | Path,
    split: str | None = None,
    *,
    cache_dir: str | Path | None = None,
    num_proc: int | None = None,
    streaming: bool = False,
    on_bad_record: str = "error",
    exclude: Mapping[str, str | Path] | None = None,
    fold: int | None = None,
) -> AnyDataset:
    """Build a corpus from its files and return one split or all splits.

    Args:
        name: a name from `available`.
        data_dir: the folder that holds the corpus files.
        split: "train", "validation" or "test", or a slice of a split; None returns a dictionary of all splits that
            are not empty.
        cache_dir: where to write the Arrow files; by default the cache of `datasets`.
        num_proc: the number of processes that share the files.
        streaming: read the files while iterating instead of building them first.
        on_bad_record: "error" stops at a malformed record, "skip" counts it and goes on; see `counts`.
        exclude: other corpora and their folders; rows whose sentence occurs in one of them are left out and counted.
        fold: a round of cross-validation, from 0 to `FOLDS` - 1. All files are pooled and divided into `FOLDS` folds
            by a hash of the sentence (for multiple choice, of the context): fold `fold` is "test", the next fold is
            "validation" and the others are "train".

    Raises:
        ValueError: the corpus, split or fold is unknown, the folder has no corpus files, a record is malformed (the
            message names file, record number, field and reason), or the corpus or the requested split has no rows.
    """
    data_dir = Path(data_dir).expanduser()
    others = [get_builder(other)(Path(folder).expanduser(), cache_dir) for other, folder in (exclude or {}).items()]
    builder = get_builder(name)(data_dir, cache_dir, on_bad_record, exclude=others, fold=fold)
    if streaming:
        if num_proc is not None:
            raise ValueError(f"num_proc={num_proc} can't be combined with streaming=True; leave one of them out")
        return builder.as_streaming_dataset(split)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split)


def load_file(name: str, path: str | Path, *, on_bad_record: str = "error") -> datasets.Dataset:
    """Read a single file in the layout of a corpus, whatever its name, for example to predict its labels.

    Labels are optional: without them, a relation is "", the list of labels or answers is empty, and a choice is -1.

    Args:
        name: a name from `available`.
        path: the file.
        on_bad_record: as in `load`.

    Raises:
        ValueError: the corpus is unknown, the file is missing, a record is malformed, or there are no records.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"{path} is no file; give a file in the layout of the corpus {name}")
    return get_builder(name)(path.parent, None, on_bad_record, file=path).read_file()


def counts(built: datasets.Dataset | datasets.DatasetDict | CorpusBuilder) -> dict[str, dict[str, int]]:
    """Return the counts of a built corpus by split: rows, bad records, and rows dropped by each rule.

    Args:
        built: the result of `load`, either all splits or a single split, or a builder that has finished its build.

    Raises:
        ValueError: `built` is not a corpus built by `load`. A streamed corpus has no counts; it logs them at its end.
    """
    return built.counts() if isinstance(built, CorpusBuilder) else read_counts(_folder(built))["counts"]


def split_table(built: datasets.Dataset | datasets.DatasetDict | CorpusBuilder) -> str:
    """Return a table of a built corpus: the split and number of rows of each file, and the files left out.

    Raises:
        ValueError: as `counts`.
    """
    return built.split_table() if isinstance(built, CorpusBuilder) else render(read_counts(_folder(built)))


def _folder(built: datasets.Dataset | datasets.DatasetDict) -> Path:
    """Return the folder of a build."""
    dataset = next(iter(built.values()), None) if isinstance(built, datasets.DatasetDict) else built
    files = dataset.cache_files if isinstance(dataset, datasets.Dataset) else []
    if not files:
        raise ValueError(f"counts exist for a corpus that load() built on disk, not for {type(built).__name__}")
    return Path(files[0]["filename"]).parent
