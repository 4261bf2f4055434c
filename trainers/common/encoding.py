"""Turn a corpus into encoded examples, cached per machine, and report everything that is dropped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from ... import data_builders
from ...configuration_kadapter import KAdapterConfig
from .arguments import CorpusArguments

__all__ = [
    "ExampleEncoder",
    "build_corpus",
    "check_record_type",
    "column",
    "encode",
    "encode_splits",
    "open_tokenizer",
    "sample",
    "writing_the_cache",
]

HELD_OUT = ("validation", "test")


class ExampleEncoder(Protocol):
    """What objectives and tasks share: they turn records into examples, and know what a head must know.

    Attributes:
        record_type: type of corpus record, as data_builders name it. Some have `more_record_types` that they read too.
        model_class: head model that is trained.
        padding: columns of an encoded example and their padding values, a float for columns of floats.
        tokenizer: the tokenizer that encodes the records.
    """

    record_type: str
    model_class: type
    padding: dict[str, Any]
    tokenizer: Any

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None: ...

    def learn(self, train: datasets.Dataset) -> dict[str, Any]:
        """Learn from training records what the head must know, as fields of `KAdapterConfig`.

        Raises:
            ValueError: nothing can be learned from them.
        """

    def recall(self, config: KAdapterConfig) -> None:
        """Take what `learn` returned from a trained model's configuration, to evaluate the model.

        Raises:
            ValueError: the model was trained for something else, or with other flags.
        """

    def encode(self, rows: dict[str, list], training: bool = False) -> dict[str, list]:
        """Encode a batch of records as examples, possibly fewer, with a column `truncated`.

        An optional column `record` is the index in the batch of each example's record.

        Raises:
            ValueError: a record is malformed or has an unknown label; the message names it.
        """


def check_record_type(corpus: CorpusArguments, objective: Any) -> None:
    """Refuse a corpus whose records are not of the type that an objective needs, and can't be read as this type.

    Raises:
        ValueError: there is no such corpus, or it has another type of records.
    """
    record_type = data_builders.get_builder(corpus.corpus).record_type
    usable = data_builders.READABLE if objective.record_type == "text" else (objective.record_type,)
    usable = (*usable, *getattr(objective, "more_record_types", ()))
    if record_type not in usable:
        fitting = [name for name in data_builders.available() if data_builders.get_builder(name).record_type in usable]
        raise ValueError(
            f"corpus {corpus.corpus!r} has {record_type} records, and this objective needs {objective.record_type} "
            f"records; choose another objective or one of the corpora {fitting}"
        )


def open_tokenizer(backbone: str, revision: str | None, max_length: int) -> PreTrainedTokenizerBase:
    """Return a backbone's tokenizer, after checking that the backbone exists and takes `max_length` tokens.

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


def build_corpus(corpus: CorpusArguments, verbose: bool, **options: Any) -> dict[str, datasets.Dataset]:
    """Build the corpus, print what became of its records, and return all splits that are not empty.

    `options` are further keywords of `data_builders.load`.

    Raises:
        ValueError: the corpus is malformed.
    """
    options |= {"num_proc": corpus.num_proc, "on_bad_record": corpus.on_bad_record}
    with writing_the_cache(f"the corpus in {str(corpus.data_dir)!r}"):
        splits = data_builders.load(corpus.corpus, corpus.data_dir, **options)
    if verbose:
        note = data_builders.get_builder(corpus.corpus).note
        print(f"corpus {corpus.corpus}, the files of {corpus.data_dir} by split{note and f' ({note})'}:")
        print(data_builders.split_table(splits))
        for split, counts in data_builders.counts(splits).items():
            print(f"corpus {corpus.corpus}, {split}: {data_builders.listed(counts)}")
    return splits


@contextmanager
def writing_the_cache(what: str) -> Iterator[None]:
    """Name the cache of `datasets` in the error if it can't be written; errors about other files are left as they are.

    Raises:
        OSError: the disk is full, or the cache can't be written.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(datasets.config.HF_CACHE_HOME)):
            raise
        # The message begins with "Cannot find data file", whatever the reason was.
        reason = " ".join(str(error).rpartition("Original error:")[2].split())
        cache = str(datasets.config.HF_DATASETS_CACHE)
        raise OSError(
            f"{what} could not be kept in the cache of datasets, {cache!r} ({reason}); free some space "
            "there, or name another directory in the environment variable HF_DATASETS_CACHE"
        ) from error


def load_splits(corpus: CorpusArguments, train: bool, evaluate: bool, verbose: bool) -> dict[str, datasets.Dataset]:
    """Build the corpus, and return "train" and "eval" if they are needed.

    Raises:
        ValueError: the corpus is malformed, or has no split that is needed.
    """
    splits = build_corpus(corpus, verbose)
    held_out = next((name for name in HELD_OUT if name in splits), None)
    if (train and "train" not in splits) or (evaluate and held_out is None):
        raise ValueError(
            f"{corpus.data_dir!r} has the splits {sorted(splits)}; --do_train needs train, and --do_eval needs "
            "validation or test"
        )
    if evaluate and verbose and held_out != HELD_OUT[0]:
        print(f"there is no {HELD_OUT[0]} split: the {held_out} split is evaluated instead")
    needed = {"train": "train" if train else None, "eval": held_out if evaluate else None}
    return {name: splits[split] for name, split in needed.items() if split is not None}


def sample(dataset: datasets.Dataset, number: int | None) -> datasets.Dataset:
    """Return a fixed random sample of records, in their order; corpora are sorted, so the first ones would not do."""
    if number is None or number >= len(dataset):
        return dataset
    return dataset.select(np.sort(np.random.default_rng(0).choice(len(dataset), number, replace=False)))


def encode(
    split: str,
    records: datasets.Dataset,
    objective: ExampleEncoder,
    corpus: CorpusArguments,
    verbose: bool,
    source: str | None = None,
    **options: bool,
) -> datasets.Dataset:
    """Encode records, with a column `length`, and print how many are kept, dropped and truncated.

    An objective whose examples have a column `record`, the index in the batch, gets it back as the index in `records`.
    `source` is the file that the records come from, if not the corpus' directory; `options` are keywords of the
    objective's `encode`.

    Encoded examples stay in the corpus' cache for other processes and later runs. Their key covers everything that the
    examples depend on, including the code.

    Raises:
        ValueError: every record was dropped, or the objective refuses a record; the message names its source.
    """
    training = split == "train"

    def encode_batch(batch: dict[str, list], indices: list[int]) -> dict[str, list]:
        try:
            examples = objective.encode(batch, training, **options)
        except ValueError as error:
            raise ValueError(f"{source or corpus.data_dir}, {split}: {error}") from error
        if "record" in examples:
            examples["record"] = [indices[record] for record in examples["record"]]
        return {"length": [len(ids) for ids in examples["input_ids"]], **examples}

    with writing_the_cache(f"the encoded {split} examples"):
        examples = records.map(
            encode_batch,
            batched=True,
            with_indices=True,
            remove_columns=records.column_names,
            num_proc=corpus.num_proc,
            new_fingerprint=_cache_key(records, objective, training, options),
            desc=f"encoding {split}",
        )
    if verbose:
        _report(split, examples, records)
    if not len(examples):
        first = f", first of all at record {records[0]['id']}" if "id" in records.column_names and len(records) else ""
        raise ValueError(
            f"every {split} example was dropped: nothing fits into --max_length {corpus.max_length}, or no record has "
            f"anything to learn, as where no answer occurs in its passages; raise it, or look at the data{first}"
        )
    return examples


def _report(split: str, examples: datasets.Dataset, records: datasets.Dataset) -> None:
    """Print how many examples there are, how many records are none, and, where it is known, the first of these."""
    truncated = int(column(examples, "truncated").sum()) if len(examples) else 0
    several = "record" in examples.column_names and len(examples)  # a record may be several examples
    kept = np.unique(column(examples, "record")) if several else np.arange(len(examples))
    dropped = len(records) - len(kept)
    print(f"{split}: {len(examples)} examples kept, {dropped} dropped, {truncated} of the kept truncated")
    if dropped and several and "id" in records.column_names:
        first = int(np.setdiff1d(np.arange(len(records)), kept)[0])
        print(f"{split}: the first that was dropped is record {records[first]['id']}")


def encode_splits(
    corpus: CorpusArguments,
    objective: ExampleEncoder,
    train: bool,
    evaluate: bool,
    verbose: bool,
    trained: bool = False,
) -> tuple[dict[str, Any], dict[str, datasets.Dataset]]:
    """Build a corpus, and return what a new head must know and the encoded examples of "train" and "eval", as needed.

    The head of a `trained` model knows it already.

    Raises:
        ValueError: the corpus is malformed, has no split that is needed, or nothing can be learned from it.
    """
    splits = load_splits(corpus, train, evaluate, verbose)
    numbers = {"train": corpus.max_train_samples, "eval": corpus.max_eval_samples}
    samples = {split: sample(records, numbers[split]) for split, records in splits.items()}
    if not trained:
        objective.learn(samples["train"])  # refuse a sample too if nothing can be learned from it
    fields = {} if trained else objective.learn(splits["train"])
    return fields, {split: encode(split, records, objective, corpus, verbose) for split, records in samples.items()}


def column(examples: Any, name: str) -> np.ndarray:
    """Return a column of scalars as an array, from a `datasets.Dataset` or an object with a method `column`."""
    if not isinstance(examples, datasets.Dataset):
        return examples.column(name)
    return np.asarray(examples.with_format("numpy")[name][:])


def _cache_key(records: datasets.Dataset, objective: ExampleEncoder, training: bool, options: dict[str, bool]) -> str:
    plug_ins = Path(sys.modules[type(objective).__module__].__file__ or "").parent
    package = Path(__file__).resolve().parents[2]
    shared = [Path(__file__), Path(__file__).with_name("masking.py")]
    code = [*sorted(package.glob("*.py")), *sorted(plug_ins.glob("*.py")), *shared]
    tokenizer = objective.tokenizer
    fast = getattr(tokenizer, "backend_tokenizer", None)
    settings = {name: value for name, value in vars(objective).items() if name != "tokenizer"}
    pieces = [path.read_bytes() for path in code]
    pieces += [repr((records._fingerprint, type(objective), settings, training, options, tokenizer)).encode()]
    pieces += [fast.to_str().encode() if fast is not None else repr(sorted(tokenizer.get_vocab().items())).encode()]
    return blake2b(b"\0".join(pieces), digest_size=16).hexdigest()
