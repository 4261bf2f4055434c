"""What all trials of a downstream command share: the task, and every split encoded once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import data_builders
from ...artifacts_kadapter import read_artifact
from ...configuration_kadapter import KAdapterConfig
from .. import tasks
from ..common.encoding import check_record_type, encode, open_tokenizer
from ..feature_cache.options import check_budget
from .arguments import TaskArguments, TaskCorpusArguments, TaskRunArguments
from .dataset import Split, encoded, load_task_splits, print_left_out
from .model import check_adapters, chosen_adapters, random_names
from .run_record import read_run

__all__ = ["PREDICT", "TaskContext", "open_task", "prepare_splits"]

PREDICT = "predict"


@dataclass
class TaskContext:
    """The flags, the task, its encoded splits and what is learned from the training records.

    Args:
        main: whether this is the process that prints and writes.
        strata: the group of each training record; a fraction has its share of every group.
        fields: what a new head must know, as fields of `KAdapterConfig`.
    """

    corpus: TaskCorpusArguments
    flags: TaskArguments
    task: tasks.Task
    main: bool
    splits: dict[str, Split] = field(default_factory=dict)
    strata: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)


def open_task(corpus: TaskCorpusArguments, flags: TaskArguments) -> tasks.Task:
    """Check everything that can be checked before anything costs time, and return the task.

    Raises:
        OSError: there is no such backbone.
        ValueError: there is no such task or corpus, or a flag does not apply to it.
    """
    task_class = tasks.load(flags.task)
    corpus.corpus = corpus.corpus or task_class.corpus
    check_record_type(corpus, task_class)
    check_adapters(flags)
    check_budget(flags.cache_budget)
    if flags.episodes and task_class.record_type != "relation":
        raise ValueError(f"--episodes can't be used for the task {flags.task!r}, which has no relations")
    tokenizer = open_tokenizer(flags.backbone, flags.backbone_revision, corpus.max_length)
    return task_class(tokenizer, corpus.max_length, corpus)


def prepare_splits(context: TaskContext, run: TaskRunArguments, folder: Path) -> None:
    """Build the corpus, let the task learn its labels from all training records, and encode every split once.

    `folder` holds the trained model if nothing is trained in this run.
    """
    corpus, task, flags = context.corpus, context.task, context.flags
    rows = load_task_splits(corpus, run, bool(run.do_eval or flags.episodes), context.main)
    if run.do_train:
        rows["train"] = task.select(rows["train"])
        context.fields = task.learn(rows["train"])
    elif flags.episodes:
        context.fields = task.learn(rows[corpus.eval_split])
    else:
        task.recall(_trained_config(context, folder))
    context.splits = {split: encoded(split, records, task, corpus, context.main) for split, records in rows.items()}
    if run.do_train:
        context.strata = task.strata(context.splits["train"].rows)
    if run.do_predict:
        context.splits[PREDICT] = _unlabelled(context, run.do_predict)


def _unlabelled(context: TaskContext, path: str) -> Split:
    corpus, task, verbose = context.corpus, context.task, context.main
    rows = data_builders.load_file(str(corpus.corpus), path, on_bad_record=corpus.on_bad_record)
    print_left_out(PREDICT, rows, task, verbose)
    return Split.of(rows, encode(PREDICT, rows, task, corpus, verbose, path, labelled=False))


def _trained_config(context: TaskContext, folder: Path) -> KAdapterConfig:
    """Return the configuration of a trained model, after checking its task and the flags against it."""
    known = read_run(folder)
    if known["task"] != context.flags.task:
        raise ValueError(
            f"the model in {str(folder)!r} was trained for the task {known['task']!r}, not {context.flags.task!r}"
        )
    if context.flags.fusion not in (None, known["fusion"]):
        raise ValueError(
            f"the model in {str(folder)!r} was trained with --fusion {known['fusion']}, not {context.flags.fusion}; "
            "leave --fusion out"
        )
    if context.flags.adapters:
        _check_adapters_of(context.flags, known, folder)
    return KAdapterConfig.from_pretrained(folder)


def _check_adapters_of(flags: TaskArguments, known: dict[str, Any], folder: Path) -> None:
    """Refuse other adapters than those of a trained model, by name or, if they were frozen, by their weights."""
    chosen, remedy = chosen_adapters(flags), "leave --adapters out, or train that row in another --output_dir"
    requested = _listed(list(chosen), random_names(flags, list(chosen)))
    trained = _listed(known["adapters"], known.get("random", []))
    where = f"the model in {str(folder)!r} was trained with"
    if requested != trained:
        raise ValueError(f"{where} the adapters {trained}, and --adapters names {requested}; {remedy}")
    held = read_artifact(folder).config["adapters"] if known["freeze_adapters"] else {}
    for name, values in held.items():
        expected = values["source"].get("hash")
        if expected and chosen[name] and expected != chosen[name]:
            raise ValueError(f"{where} another adapter {name!r} than the one that --adapters names; {remedy}")


def _listed(names: list[str], at_random: list[str]) -> str:
    return " + ".join(f"random {name}" if name in at_random else name for name in names) or "none"
