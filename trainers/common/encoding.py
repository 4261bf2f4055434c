"""From a corpus to encoded examples: which records are used, encoded once a machine, and every loss told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from ... import data_builders
from .arguments import CorpusArguments

__all__ = ["build_corpus", "check_record_type", "column", "encode", "load_splits", "open_tokenizer", "sample"]

HELD_OUT = ("validation", "test")


def check_record_type(corpus: CorpusArguments, objective: Any) -> None:
    """Refuse a corpus whose records are not of the kind that an objective learns from.

    Raises:
        ValueError: there is no such corpus, or it has the other kind of records.
    """
    has = data_builders.get_builder(corpus.corpus).record_type
    if has != objective.record_type:
        fitting = [
            name
            for name in data_builders.available()
            if data_builders.get_builder(name).record_type == objective.record_type
        ]
        raise ValueError(
            f"corpus {corpus.corpus!r} has {has} records, and this objective needs {objective.record_type} records; "
            f"choose another objective or one of the corpora {fitting}"
        )


def open_tokenizer(backbone: str, revision: str | None, max_length: int) -> PreTrainedTokenizerBase:
    """Return a backbone's tokenizer, after a look at the backbone's configuration and at `max_length`.

    Raises:
        OSError: there is no such backbone.
        ValueError: it takes fewer tokens.
    """
    AutoConfig.from_pretrained(backbone, revision=revision)
    tokenizer = AutoTokenizer.from_pretrained(backbone, revision=revision)
    if max_length > tokenizer.model_max_length:
        raise ValueError(
            f"--max_length {max_length} is more than the {tokenizer.model_max_length} tokens that {backbone!r} takes; "
            "lower it"
        )
    return tokenizer


def build_corpus(corpus: CorpusArguments, tell: bool, **options: Any) -> dict[str, datasets.Dataset]:
    """Build the corpus, print what became of its records, and return all splits that hold any.

    `options` are further keywords of `data_builders.load`.

    Raises:
        ValueError: the corpus is malformed.
    """
    options |= {"num_proc": corpus.num_proc, "on_bad_record": corpus.on_bad_record}
    with writing_the_cache(f"the corpus in {str(corpus.data_dir)!r}"):
        splits = data_builders.load(corpus.corpus, corpus.data_dir, **options)
    if tell:
        note = data_builders.get_builder(corpus.corpus).note
        print(f"corpus {corpus.corpus}, the files of {corpus.data_dir} by split{note and f' ({note})'}:")
        print(data_builders.split_table(splits))
        for split, counts in data_builders.counts(splits).items():
            print(f"corpus {corpus.corpus}, {split}: {data_builders.listed(counts)}")
    return splits


@contextmanager
def writing_the_cache(what: str) -> Iterator[None]:
    """Say in a sentence that the cache of `datasets` can't be written; that a file can't be read is one already.

    Raises:
        OSError: the disk is full, or the cache can't be written.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(datasets.config.HF_CACHE_HOME)):
            raise
        # It says "Cannot find data file" first, whatever the reason was.
        reason = " ".join(str(error).rpartition("Original error:")[2].split())
        cache = str(datasets.config.HF_DATASETS_CACHE)
        raise OSError(
            f"{what} could not be kept in the cache of datasets, {cache!r} ({reason}); free some space "
            "there, or name another place by the environment variable HF_DATASETS_CACHE"
        ) from error


def load_splits(corpus: CorpusArguments, train: bool, evaluate: bool, tell: bool) -> dict[str, datasets.Dataset]:
    """Build the corpus, and return "train" and "eval" where they are asked for.

    Raises:
        ValueError: the corpus is malformed, or lacks a split that is needed.
    """
    splits = build_corpus(corpus, tell)
    held_out = next((name for name in HELD_OUT if name in splits), None)
    if (train and "train" not in splits) or (evaluate and held_out is None):
        raise ValueError(
            f"{corpus.data_dir!r} has the splits {sorted(splits)}; --do_train needs train, and --do_eval needs "
            "validation or test"
        )
    if evaluate and tell and held_out != HELD_OUT[0]:
        print(f"there is no {HELD_OUT[0]} split: what is evaluated here is the {held_out} split")
    asked = {"train": "train" if train else None, "eval": held_out if evaluate else None}
    return {name: splits[split] for name, split in asked.items() if split is not None}


def sample(dataset: datasets.Dataset, number: int | None) -> datasets.Dataset:
    """Return so many records, drawn from all and in their order; corpora are sorted, so the first are no sample."""
    if number is None or number >= len(dataset):
        return dataset
    return dataset.select(np.sort(np.random.default_rng(0).choice(len(dataset), number, replace=False)))


def encode(
    split: str,
    rows: datasets.Dataset,
    objective: Any,
    corpus: CorpusArguments,
    tell: bool,
    source: str | None = None,
    **options: bool,
) -> datasets.Dataset:
    """Encode records, with a column `length`, and print how many are kept, dropped and truncated.

    An objective whose examples have a column `record`, the place in the batch, gets it back as the place in `rows`.
    `source` is where the records come from, if not the corpus' folder; `options` are keywords of the objective's
    `encode`.

    What was encoded stays in the corpus' cache, for the other processes and later runs. Its key holds all that the
    examples depend on, the code too.

    Raises:
        ValueError: every record was dropped, or the objective refuses one; the sentence says where it is.
    """
    training = split == "train"

    def encode_batch(batch: dict[str, list], places: list[int]) -> dict[str, list]:
        try:
            examples = objective.encode(batch, training, **options)
        except ValueError as error:
            raise ValueError(f"{source or corpus.data_dir}, {split}: {error}") from error
        if "record" in examples:
            examples["record"] = [places[record] for record in examples["record"]]
        return {"length": [len(ids) for ids in examples["input_ids"]], **examples}

    with writing_the_cache(f"the encoded {split} examples"):
        examples = rows.map(
            encode_batch,
            batched=True,
            with_indices=True,
            remove_columns=rows.column_names,
            num_proc=corpus.num_proc,
            new_fingerprint=_cache_key(rows, objective, training, options),
            desc=f"encoding {split}",
        )
    if tell:
        truncated = int(column(examples, "truncated").sum()) if len(examples) else 0
        dropped = len(rows) - len(examples)
        print(f"{split}: {len(examples)} examples kept, {dropped} dropped, {truncated} of the kept truncated")
    if not len(examples):
        raise ValueError(
            f"every {split} example was dropped: nothing fits into --max_length {corpus.max_length}, or "
            "no record has anything to learn, as where no answer occurs in its passages; raise it, or look at the data"
        )
    return examples


def column(examples: Any, name: str) -> np.ndarray:
    """Return a column of scalars as an array, of a `datasets.Dataset` or of what has a method for it."""
    if not isinstance(examples, datasets.Dataset):
        return examples.column(name)
    return np.asarray(examples.with_format("numpy")[name][:])


def _cache_key(rows: datasets.Dataset, objective: Any, training: bool, options: dict[str, bool]) -> str:
    plug_ins = Path(sys.modules[type(objective).__module__].__file__ or "").parent
    package = Path(__file__).resolve().parents[2]
    code = [*sorted(package.glob("*.py")), *sorted(plug_ins.glob("*.py")), Path(__file__)]
    tokenizer = objective.tokenizer
    fast = getattr(tokenizer, "backend_tokenizer", None)
    settings = {name: value for name, value in vars(objective).items() if name != "tokenizer"}
    parts = [path.read_bytes() for path in code]
    parts += [repr((rows._fingerprint, type(objective), settings, training, options, tokenizer)).encode()]
    parts += [fast.to_str().encode() if fast is not None else repr(sorted(tokenizer.get_vocab().items())).encode()]
    return blake2b(b"\0".join(parts), digest_size=16).hexdigest()
