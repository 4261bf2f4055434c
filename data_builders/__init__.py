"""Corpora: one corpus, one file, found by its name; no table to edit.

``load("fewrel", data_dir)`` finds ``fewrel.py`` in this folder, builds its corpus once into the Arrow cache of
``datasets`` and returns the typed dataset. To add a corpus, add a file with a class named ``Corpus``, derived from
``_builder.CorpusBuilder``, and two invented records in ``SAMPLE_FILES`` and ``SAMPLE_ROWS`` for the shared tests. The
name of the file is the name of the corpus and of its cache directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import datasets

from .. import discovery
from ._builder import CorpusBuilder
from ._counts import listed, read_counts
from ._counts import split_table as render
from ._features import (
    DEPENDENCY_FEATURES,
    ENTITY_TYPING_FEATURES,
    FEATURES,
    MULTIPLE_CHOICE_FEATURES,
    QUESTION_ANSWERING_FEATURES,
    RELATION_FEATURES,
)
from ._question_answering import occurrences
from ._splits import FOLDS

__all__ = [
    "DEPENDENCY_FEATURES",
    "ENTITY_TYPING_FEATURES",
    "FEATURES",
    "FOLDS",
    "MULTIPLE_CHOICE_FEATURES",
    "QUESTION_ANSWERING_FEATURES",
    "RELATION_FEATURES",
    "CorpusBuilder",
    "available",
    "counts",
    "get_builder",
    "listed",
    "load",
    "load_file",
    "occurrences",
    "split_table",
]

AnyDataset = datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict


def available() -> list[str]:
    """Names the corpora that can be loaded: the files of this folder."""
    return discovery.available(__name__)


def get_builder(name: str) -> type[CorpusBuilder]:
    """Returns the builder class of a corpus.

    Raises:
        ValueError: there is no corpus of this name; the sentence lists those there are.
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
    """Builds a corpus from its files and returns it, one split or all of them.

    Args:
        name: one of :func:`available`.
        data_dir: the folder that holds the corpus files.
        split: "train", "validation" or "test", or a slice of one; None gives all that hold a row as a dictionary.
        cache_dir: where the Arrow files go; by default where ``datasets`` keeps its own.
        num_proc: processes that share the files among them.
        streaming: read the files while iterating instead of building them first.
        on_bad_record: "error" stops at a malformed record, "skip" counts it and goes on; see :func:`counts`.
        exclude: other corpora and their folders; rows whose sentence occurs in one of them are left out and counted.
        fold: a round of cross-validation, 0 to ``FOLDS`` - 1: all files are taken together and split by a hash of the
            sentence (of a choice: its context); part ``fold`` is "test", the next "validation", the rest "train".

    Raises:
        ValueError: unknown corpus, split or fold, a folder without corpus files, a malformed record (the sentence
            names file, record number, field and reason), or no row left in the corpus or in the split asked for.
    """
    data_dir = Path(data_dir).expanduser()
    others = [get_builder(other)(Path(folder).expanduser(), cache_dir) for other, folder in (exclude or {}).items()]
    builder = get_builder(name)(data_dir, cache_dir, on_bad_record, exclude=others, fold=fold)
    if streaming:
        if num_proc is not None:
            raise ValueError(f"num_proc={num_proc} has no meaning with streaming=True; leave one of them out")
        return builder.as_streaming_dataset(split)
    builder.download_and_prepare(num_proc=num_proc)
    return builder.as_dataset(split)


def load_file(name: str, path: str | Path, *, on_bad_record: str = "error") -> datasets.Dataset:
    """Reads one file in the layout of a corpus, whatever its name, labelled or not, as for predictions.

    A record may lack its label: its relation is then "", its list of labels or answers empty, its choice -1.

    Args:
        name: one of :func:`available`.
        path: the file.
        on_bad_record: as in :func:`load`.

    Raises:
        ValueError: unknown corpus, no such file, a malformed record, or no record at all.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"{path} is no file; give a file in the layout of the corpus {name}")
    return get_builder(name)(path.parent, None, on_bad_record, file=path).read_file()


def counts(built: datasets.Dataset | datasets.DatasetDict | CorpusBuilder) -> dict[str, dict[str, int]]:
    """Returns what became of a corpus' records, by split: rows, bad records, and rows dropped by each rule.

    Args:
        built: what :func:`load` returned, all splits or one, or the builder itself after its build.

    Raises:
        ValueError: it is no corpus built by :func:`load`; a streamed one has no counts before its end, where it
            logs them.
    """
    return built.counts() if isinstance(built, CorpusBuilder) else read_counts(_folder(built))["counts"]


def split_table(built: datasets.Dataset | datasets.DatasetDict | CorpusBuilder) -> str:
    """Returns a table of a built corpus: which file became which split, with its number of rows, and what is left out.

    Raises:
        ValueError: as :func:`counts`.
    """
    return built.split_table() if isinstance(built, CorpusBuilder) else render(read_counts(_folder(built)))


def _folder(built: datasets.Dataset | datasets.DatasetDict) -> Path:
    """The folder of a build."""
    dataset = next(iter(built.values()), None) if isinstance(built, datasets.DatasetDict) else built
    files = dataset.cache_files if isinstance(dataset, datasets.Dataset) else []
    if not files:
        raise ValueError(f"counts are known for a corpus that load() built on disk, not for {type(built).__name__}")
    return Path(files[0]["filename"]).parent
