"""Fine-tune and evaluate on a downstream task: does an adapter help, against its controls?

accelerate launch trainers/run_task.py --task NAME --data_dir DIR --backbone ID_OR_PATH --adapters OUT_FAC OUT_LIN
    --fusion concat --output_dir OUT --do_train --do_eval

`--adapters`: artifacts; `none`; `taps`, the sum of the tapped states without any adapter; `random ARTIFACTS`, their
shapes initialised at random. Head, fusion and their initialisation are the same in all rows of one seed.
OUT is the artifact with head and fusion, and has run.json, predictions.jsonl and all_results.json. Where backbone and
adapters are frozen, each example is encoded once, and every further seed, learning rate and fraction costs seconds:
`--seeds 0 1 2 3 4 --learning_rates 1e-3 3e-3` runs all of them, in OUT/lr-0.001/seed-0 and so on. `--do_eval` or
`--do_predict FILE` without `--do_train` use the model at OUT, and with `--trained_model BASE` that of an earlier run,
into which `--adapters MAP --entity_embeddings TABLE` plug a knowledge map; docs/map_tuning.md. With
`--resume_from_checkpoint last` a killed run continues, and finished trials of a sweep are left unchanged.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    import _bootstrap  # noqa: F401 (run as a file)
if __name__ == "__main__":  # before the libraries, which take seconds to import
    import sys

    from kadapter.trainers.common import usage

    usage.answer("run_task", sys.argv[1:])

import torch
from accelerate import PartialState
from transformers import EarlyStoppingCallback

from kadapter import metrics
from kadapter.artifacts_kadapter import WEIGHTS
from kadapter.configuration_kadapter import KAdapterConfig
from kadapter.trainers.common.atomic_files import replace_file, replace_files
from kadapter.trainers.common.cards import results_of, training_of, update_card
from kadapter.trainers.common.checkpoints import checkpoint_to_resume, checksum, describe_model, describe_training
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.common.entry_point import run_program
from kadapter.trainers.common.output_directory import (
    FINISHED,
    RUN,
    check_output_directory,
    clear,
    finished_results,
    in_use,
    mark_finished,
)
from kadapter.trainers.common.progress import saved_line
from kadapter.trainers.common.usable import check_lesson
from kadapter.trainers.downstream.arguments import HEADLINE, TaskRunArguments, parse_task_arguments
from kadapter.trainers.downstream.context import PREDICT, TaskContext, open_task, prepare_splits, trained_config
from kadapter.trainers.downstream.dataset import Split, draw_fraction
from kadapter.trainers.downstream.episodes import run_episodes
from kadapter.trainers.downstream.model import (
    HeadOnFeatures,
    check_trains,
    chosen_adapters,
    freeze,
    new_model,
    plugged_model,
    trained_model,
)
from kadapter.trainers.downstream.run_record import (
    PREDICTED,
    PREDICTIONS,
    describe,
    read_results,
    read_run,
    trained_folder,
    write_lines,
)
from kadapter.trainers.downstream.trainer import TaskTrainer
from kadapter.trainers.feature_cache.task_features import keep_states


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run one trial, or a sweep, as the flags say, and return the results of the last.

    Raises:
        ValueError: a flag, the corpus, an adapter or the output directory can't be used; the message says why.
        OSError: backbone or adapters can't be read, or the results can't be written.
        FloatingPointError: the loss became NaN; the last good checkpoint is kept.
    """
    corpus, flags, run = parse_task_arguments(argv)
    trials = list(_trials(run))
    with in_use([trial.output_dir for trial in trials]):
        new = flags.episodes or (run.do_train and flags.trained_model is None)
        task = open_task(corpus, flags, None if new else trained_folder(flags, trials[0]))
        check_lesson(run, [task], flags.freeze_backbone)
        context = TaskContext(corpus, flags, task, PartialState().is_main_process)
        return _run_trials(context, run, trials)


def _run_trials(context: TaskContext, run: TaskRunArguments, trials: list[TaskRunArguments]) -> dict[str, float]:
    """Run the trials that have not finished, and return the results of the last."""
    state = PartialState()
    for trial in trials:
        _check_output(context, trial)
    if context.main:
        print(run.precision)
    state.wait_for_everyone()
    with run.main_process_first(desc="corpus"):
        prepare_splits(context, run, trained_folder(context.flags, trials[0]))
    results: dict[str, float] = {}
    for trial in trials:
        if context.main and len(trials) > 1:
            print(f"trial {trial.output_dir}")
        finished = _finished_trial(context, trial) if _finished(trial) else None
        results = (_few_shot if context.flags.episodes else _trial)(context, trial) if finished is None else finished
        state.wait_for_everyone()
    return results


def _trials(run: TaskRunArguments) -> Iterator[TaskRunArguments]:
    """Yield the arguments of each run of a sweep, or of the only run."""
    for rate in run.learning_rates or [run.learning_rate]:
        for seed in run.seeds or [run.seed]:
            folders = [f"lr-{rate:g}"] * bool(run.learning_rates) + [f"seed-{seed}"] * bool(run.seeds)
            trial = copy.copy(run)
            trial.learning_rate, trial.seed, trial.output_dir = rate, seed, str(Path(run.output_dir, *folders))
            yield trial


def _check_output(context: TaskContext, trial: TaskRunArguments) -> None:
    """Refuse a used output directory; a run that is resumed may have finished, or been killed while writing."""
    flags = context.flags
    if trial.do_train or flags.trained_model:
        resume = checkpoint_to_resume(trial.resume_from_checkpoint, trial.output_dir)
        writing = bool(resume) and (Path(trial.output_dir) / PREDICTIONS).is_file()
        overwrite = trial.overwrite_output_dir or writing
        read = [*flags.adapters, *([str(trained_folder(flags, trial))] if flags.trained_model else [])]
        check_output_directory(trial.output_dir, resume, overwrite, flags.backbone, read)


def _finished(trial: TaskRunArguments) -> bool:
    resume = str(trial.resume_from_checkpoint or False).lower() != "false"
    return bool(trial.do_train) and resume and (Path(trial.output_dir) / RUN).is_file()


def _finished_trial(context: TaskContext, trial: TaskRunArguments) -> dict[str, float] | None:
    """Evaluate and predict what a finished trial has not yet, and return its results; None if it is to train longer.

    Raises:
        ValueError: it was made with other flags or from other data.
    """
    folder = Path(trial.output_dir)
    train = _drawn(context, context.splits["train"], trial)
    if (folder / FINISHED).is_file():
        results = finished_results(trial, _description(context, trial, train))
        if results is None:
            return None
    else:
        results = read_results(folder)
        print(f"{folder} is of an earlier version and does not say which run it belongs to; it is not compared")
    trial.do_eval = trial.do_eval and not any(key.startswith("eval_") for key in results)
    if trial.do_eval or trial.do_predict:
        trial.do_train = False
        own = replace(context.flags, trained_model=None, adapters=[])  # its model is the one that it has trained
        results = {**results, **_trial(replace(context, flags=own), trial)}
    return results


def _drawn(context: TaskContext, train: Split, run: TaskRunArguments) -> Split:
    return draw_fraction(train, context.strata, context.corpus.train_fraction, run.seed)


def _description(context: TaskContext, run: TaskRunArguments, train: Split, model: Any = None) -> dict[str, Any]:
    """Describe a trial, to recognise it when it is resumed; without a model, the encoder is left out."""
    flags, task = context.flags, context.task
    names = ["task", "fusion", "freeze_backbone", "freeze_adapters", "classifier_dropout"]
    names += ["freeze_map", "backbone_dropout"] if task.knowledge is not None else []
    names += ["freeze_head"] if flags.trained_model is not None else []
    return {
        **{f"--{name}": getattr(flags, name) for name in names},
        **_described_beginning(context, run),
        "--adapters": {name: known or "random" for name, known in chosen_adapters(flags).items()} or "none",
        "--corpus": context.corpus.corpus,
        "--max_length": context.corpus.max_length,
        "labels": {name: value for name, value in context.fields.items() if name != "label2id"},
        **({} if model is None else describe_model(model.config, {})),
        **describe_training(run, {"training examples": train.examples.select(train.indices)}, task.tokenizer),
    }


def _described_beginning(context: TaskContext, run: TaskRunArguments) -> dict[str, Any]:
    """Describe the trained model with which a trial begins, and the table of its map."""
    flags, knowledge = context.flags, context.task.knowledge
    described: dict[str, Any] = {} if knowledge is None else {"--entity_embeddings": repr(knowledge)}
    if flags.trained_model is not None:
        described["--trained_model"] = checksum(trained_folder(flags, run) / WEIGHTS)
    return described


def _trial(context: TaskContext, run: TaskRunArguments) -> dict[str, float]:
    """Train, evaluate and predict as the flags request, and write the results."""
    resume = checkpoint_to_resume(run.resume_from_checkpoint, run.output_dir) if run.do_train else False
    model = _model(context, run)
    if run.do_train:
        check_trains(model)
    keep = _may_keep(context, model)
    splits = _kept(context, model, run) if keep else dict(context.splits)
    if run.do_train:
        splits["train"] = _drawn(context, splits["train"], run)
        if context.main:
            counts = _trained_on(context, splits["train"])
            print("train: {train_examples} examples are trained on, {train_share:.2%} of all".format(**counts))
            model.print_trainable_parameters()
            clear(run.output_dir, bool(resume))
    elif context.main and context.flags.trained_model is not None:
        clear(run.output_dir, False)
    PartialState().wait_for_everyone()
    trainer = _trainer(context, model, keep, splits, run)
    trainer.share = model.save_pretrained
    results = _run(context, trainer, splits, resume if isinstance(resume, str) else None)
    if context.main:
        _write(context, model, trainer, results)
    return results


def _model(context: TaskContext, run: TaskRunArguments) -> Any:
    flags, model_class, folder = context.flags, context.task.model_class, trained_folder(context.flags, run)
    frozen = flags.freeze_backbone or not run.do_train
    dtype = torch.bfloat16 if run.bf16 and frozen else torch.float32  # what trains is kept in float32
    if flags.trained_model is not None:
        config = trained_config(context, folder)
        model = plugged_model(model_class, folder, config, flags, run.seed, dtype)
        return freeze(model, flags) if run.do_train else model
    if run.do_train or flags.episodes:
        return new_model(model_class, flags, context.fields, run.seed, dtype)
    return trained_model(model_class, folder, KAdapterConfig.from_pretrained(folder), flags, dtype)


def _may_keep(context: TaskContext, model: Any) -> bool:
    core = model.base_model
    modules = (core.backbone, core.adapters)
    trains = any(weight.requires_grad for module in modules for weight in module.parameters())
    known = model.config.backbone_fingerprint and not model.config.backbone_modified
    return bool(context.flags.keep_states and known and not trains and not context.task.reads_all_tokens)


def _kept(context: TaskContext, model: Any, run: TaskRunArguments) -> dict[str, Split]:
    with run.main_process_first(desc="states"):
        return {
            name: keep_states(split, model, context.task, run, context.flags, context.main)
            for name, split in context.splits.items()
        }


def _trainer(
    context: TaskContext, model: Any, keep: bool, splits: dict[str, Split], run: TaskRunArguments
) -> TaskTrainer:
    if run.metric_for_best_model == HEADLINE:
        run.metric_for_best_model = context.task.headline
    patience = run.early_stopping_patience
    return TaskTrainer(
        model=HeadOnFeatures(model) if keep else model,
        args=run,
        train_dataset=splits.get("train"),
        eval_dataset=splits.get("validation"),
        data_collator=PadToBatch.of(context.task, model),
        callbacks=[] if patience is None else [EarlyStoppingCallback(patience)],
        objective=context.task,
        description=_description(context, run, splits["train"], model) if run.do_train else None,
    )


def _run(
    context: TaskContext, trainer: TaskTrainer, splits: dict[str, Split], checkpoint: str | None
) -> dict[str, float]:
    run = trainer.args
    results = trainer.train_and_evaluate(checkpoint, splits.get(context.corpus.eval_split))
    if run.do_predict:
        decided = trainer.predict(splits[PREDICT]).predictions
        if context.main:
            answered = trainer.answers(splits[PREDICT], decided, labelled=False)
            write_lines(Path(run.output_dir) / PREDICTED, answered)
            print(f"predictions: {len(answered)} records of {run.do_predict} in {Path(run.output_dir) / PREDICTED}")
    return results


def _write(context: TaskContext, model: Any, trainer: TaskTrainer, results: dict[str, float]) -> None:
    """Write predictions, the artifact and its card and, last, the description of the run."""
    run, folder = trainer.args, Path(trainer.args.output_dir)
    if run.do_train:
        description = {**describe(context, model, run), **_trained_on(context, trainer.train_dataset)}
    elif context.flags.trained_model is not None:
        description = describe(context, model, run)
    else:
        description = read_run(folder)
    if run.do_eval:
        description["split"] = context.corpus.eval_split
        write_lines(folder / PREDICTIONS, trainer.answered)
    if run.do_train and context.flags.save_artifact:
        bundling = context.flags.bundle_adapters
        model.save_pretrained(folder, **({} if bundling is None else {"bundle_adapters": bundling}))
        replace_files(folder, context.task.tokenizer.save_pretrained)
    _write_card(context, trainer, description, results)
    if run.do_train:
        mark_finished(run, trainer.description, [RUN])
    replace_file(folder / RUN, json.dumps(description, indent=2))
    if run.do_train and context.flags.save_artifact:
        print(saved_line(folder, type(model).__name__))
        if run.push_to_hub:
            trainer.push_to_hub()


def _write_card(
    context: TaskContext, trainer: TaskTrainer, description: dict[str, Any], results: dict[str, float]
) -> None:
    """Write the card of an artifact with what this run knows of it: its task, its training and its results."""
    run, folder = trainer.args, Path(trainer.args.output_dir)
    if not (folder / WEIGHTS).is_file():
        return
    known: dict[str, Any] = {"title": f"{description['task']}: {description['row']}"}
    if run.do_train and context.flags.save_artifact:
        known["training"] = training_of(trainer, "run_task")
    if run.do_eval:
        split = description["split"]
        known["results"] = [
            results_of(description["task"], str(context.corpus.corpus), split, results, context.task.tag)
        ]
    update_card(folder, **known)


def _trained_on(context: TaskContext, split: Split) -> dict[str, Any]:
    """Return the number and share of examples that a trial trains on: at least one of each label."""
    return {"train_examples": len(split), "train_share": len(split) / len(context.splits["train"])}


def _few_shot(context: TaskContext, run: TaskRunArguments) -> dict[str, float]:
    """Evaluate episodes on frozen features, and write the same files as a trained run, without an artifact."""
    corpus, flags, task, folder = context.corpus, context.flags, context.task, Path(run.output_dir)
    model = _model(context, run)
    split = _kept(context, model, run)[context.corpus.eval_split]
    names = task.gold(split.encoded_rows())
    answered = run_episodes(split, names, flags.episodes, corpus.way, corpus.shot, run.seed)
    predictions, gold = ([answer[key] for answer in answered] for key in ("prediction", "gold"))
    measured = metrics.load(task.metric).compute(predictions, gold, **task.settings)
    results = {f"eval_{key}": float(value) for key, value in measured.items()}
    if context.main:
        write_lines(folder / PREDICTIONS, answered)
        replace_file(folder / "all_results.json", json.dumps(results, indent=4, sort_keys=True))
        task_name = f"{flags.task} {corpus.way}-way {corpus.shot}-shot"  # a separate column in reports
        changed = {"task": task_name, "fusion": "none"}  # sources are concatenated
        replace_file(folder / RUN, json.dumps({**describe(context, model, run), **changed}, indent=2))
    return results


if __name__ == "__main__":
    run_program(main)
