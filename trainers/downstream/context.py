"""What all trials of a downstream command share: the task, and every split encoded once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import data_builders
from ...artifacts_kadapter import CONFIG, read_artifact
from ...configuration_kadapter import KAdapterConfig
from .. import tasks
from ..common.encoding import check_record_type, encode, open_tokenizer
from ..feature_cache.options import check_budget
from .arguments import TaskArguments, TaskCorpusArguments, TaskRunArguments
from .dataset import Split, encoded, load_task_splits, print_left_out
from .knowledge import count_entities, maps_among, open_knowledge
from .model import check_adapters, chosen_adapters, random_names, stored_adapters
from .run_record import read_run

__all__ = ["PREDICT", "TaskContext", "open_task", "prepare_splits", "trained_config"]

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


def open_task(corpus: TaskCorpusArguments, flags: TaskArguments, folder: Path | None) -> tasks.Task:
    """Check everything that can be checked before anything costs time, and return the task with its entities.

    `folder` holds the trained model with which the run begins, None for a new one.

    Raises:
        OSError: there is no such backbone, adapter or table.
        ValueError: there is no such task or corpus, or a flag does not apply to it.
    """
    task_class = tasks.load(flags.task)
    corpus.corpus = corpus.corpus or task_class.corpus
    check_record_type(corpus, task_class)
    check_adapters(flags)
    check_budget(flags.cache_budget)
    if flags.episodes and getattr(task_class.model_class, "mentions", 0) != 2:  # it reads no head and tail
        raise ValueError(f"--episodes can't be used for the task {flags.task!r}, which classifies no relations")
    tokenizer = open_tokenizer(flags.backbone, flags.backbone_revision, corpus.max_length)
    task = task_class(tokenizer, corpus.max_length, corpus)
    knowledge = open_knowledge(flags, task_class, _adapters_of_row(flags, folder))
    if knowledge is not None:
        task.use(knowledge)
    return task


def _adapters_of_row(flags: TaskArguments, folder: Path | None) -> dict[str, dict[str, Any]]:
    """Return the stored configurations of a row's adapters: a trained model's, and those that the flags name."""
    held = {}
    if folder is not None and (folder / CONFIG).is_file():
        held = read_artifact(folder).config["adapters"]
    return {**stored_adapters(flags), **held}  # what a trained model says of its own maps counts


def prepare_splits(context: TaskContext, run: TaskRunArguments, folder: Path) -> None:
    """Build the corpus, let the task learn its labels from all training records, and encode every split once.

    `folder` holds the trained model if nothing is trained in this run, or it begins with such a model.
    """
    corpus, task, flags = context.corpus, context.task, context.flags
    loaded = load_task_splits(corpus, run, bool(run.do_eval or flags.episodes), context.main)
    rows = {split: _own_records(split, records, context, str(corpus.data_dir)) for split, records in loaded.items()}
    if run.do_train:
        rows["train"] = task.select(rows["train"])
    if flags.episodes:
        context.fields = task.learn(rows[corpus.eval_split])
    elif run.do_train and flags.trained_model is None:
        context.fields = task.learn(rows["train"])
    else:
        task.recall(trained_config(context, folder))
    count_entities(task, rows, str(corpus.data_dir), context.main)
    context.splits = {split: encoded(split, records, task, corpus, context.main) for split, records in rows.items()}
    if run.do_train:
        context.strata = task.strata(context.splits["train"].rows)
    if run.do_predict:
        context.splits[PREDICT] = _unlabelled(context, run.do_predict)


def _own_records(split: str, rows: Any, context: TaskContext, where: str, **options: bool) -> Any:
    """Return the task's own records of a split, and print what became of those of the corpus."""
    try:
        records, messages = context.task.records(split, rows, **options)
    except ValueError as error:
        raise ValueError(f"{where}, {split}: {error}") from error
    for message in messages if context.main else ():
        print(f"{split}: {message}")
    return records


def _unlabelled(context: TaskContext, path: str) -> Split:
    corpus, task, verbose = context.corpus, context.task, context.main
    loaded = data_builders.load_file(str(corpus.corpus), path, on_bad_record=corpus.on_bad_record)
    rows = _own_records(PREDICT, loaded, context, path, labelled=False)
    count_entities(task, {PREDICT: rows}, path, verbose)
    print_left_out(PREDICT, rows, task, verbose)
    return Split.of(rows, encode(PREDICT, rows, task, corpus, verbose, path, labelled=False))


def trained_config(context: TaskContext, folder: Path) -> KAdapterConfig:
    """Return the configuration of a trained model, after checking its task and the flags against it.

    Raises:
        ValueError: there is no such model, or it was trained otherwise than the flags say.
    """
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
    config = KAdapterConfig.from_pretrained(folder)
    if context.flags.trained_model is not None:
        _check_plugged(context.flags, known, folder)
        context.flags.fusion = known["fusion"]
        if context.flags.classifier_dropout is not None:
            config.classifier_dropout = context.flags.classifier_dropout
        context.flags.classifier_dropout = config.classifier_dropout
    elif context.flags.adapters:
        _check_adapters_of(context.flags, known, folder)
    return config


def _check_plugged(flags: TaskArguments, known: dict[str, Any], folder: Path) -> None:
    """Refuse to plug anything but knowledge maps into a trained model, and a map of a name that it has."""
    maps = maps_among(stored_adapters(flags))
    for name in chosen_adapters(flags):
        if name not in maps:
            raise ValueError(
                f"--adapters names {name!r}, and the head of the model in {str(folder)!r}, which has the adapters "
                f"{_listed(known['adapters'], known.get('random', []))}, was not trained with its features; beside "
                "--trained_model name only knowledge maps, which need no training of the head"
            )
        if name in known["adapters"]:
            raise ValueError(f"the model in {str(folder)!r} has the map {name!r} already; leave it out of --adapters")


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
