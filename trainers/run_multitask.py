"""Train a whole encoder on several pre-training objectives, without adapters: the paper's RoBERTa + multitask.

accelerate launch trainers/run_multitask.py --objectives factual linguistic --corpora fewrel conllu
    --data_dirs DIR_WITH_FEWREL DIR_WITH_CONLLU --backbone ID_OR_PATH --output_dir OUT --do_train --do_eval

Each batch belongs to one objective, and the batches of all are spread evenly over an epoch, which is one pass over
each corpus. OUT is a plain encoder of transformers with its tokenizer: `run_task.py --backbone OUT --adapters none`
gives the row "multitask" of the results table (K-Adapter, section 4). The heads are not saved; all_results.json has
the results of each objective. Flags are those of run_adapter.py that apply here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    import _bootstrap  # noqa: F401 (run as a file)
if __name__ == "__main__":  # before the libraries, which take seconds to import
    import sys

    from kadapter.trainers.common import usage

    usage.answer("run_multitask", sys.argv[1:])

import torch
from accelerate import PartialState
from transformers import set_seed

from kadapter.language_modeling_kadapter import KAdapterForCausalLM, KAdapterForMaskedLM
from kadapter.trainers import pretraining
from kadapter.trainers.common.arguments import RunArguments, parse_arguments
from kadapter.trainers.common.atomic_files import replace_file, replace_files
from kadapter.trainers.common.checkpoints import checkpoint_to_resume, describe_model, describe_training
from kadapter.trainers.common.encoding import check_record_type, encode_splits, open_tokenizer
from kadapter.trainers.common.entry_point import run_program
from kadapter.trainers.common.output_directory import (
    MULTITASK,
    WEIGHTS,
    check_output_directory,
    clear,
    finished_results,
    in_use,
    mark_finished,
)
from kadapter.trainers.common.progress import saved_line
from kadapter.trainers.common.usable import check_lesson
from kadapter.trainers.multitask.arguments import CorporaArguments, MultitaskArguments
from kadapter.trainers.multitask.dataset import Labelled, MixedExamples, PadToObjective
from kadapter.trainers.multitask.model import MultitaskModel
from kadapter.trainers.multitask.trainer import MultitaskTrainer


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train the encoder as the flags say, and return the results of all objectives.

    Raises:
        ValueError: a flag, a corpus or the output directory can't be used; the message says why and what to do.
        OSError: the backbone can't be read, or the results can't be written.
        FloatingPointError: the loss became NaN; the last good checkpoint is kept.
    """
    corpora, flags, run = parse_arguments(argv, (CorporaArguments, MultitaskArguments, RunArguments))
    with in_use([run.output_dir]):
        return _train(corpora, flags, run)


def _train(corpora: CorporaArguments, flags: MultitaskArguments, run: RunArguments) -> dict[str, float]:
    state = PartialState()
    objectives = _objectives(corpora, flags, run)
    resume = checkpoint_to_resume(run.resume_from_checkpoint, run.output_dir)
    check_output_directory(run.output_dir, resume, run.overwrite_output_dir, flags.backbone, mark=MULTITASK)
    if state.is_main_process:
        print(run.precision)
    state.wait_for_everyone()
    set_seed(run.seed)
    with run.main_process_first(desc="corpora"):
        fields, train, held_out = _examples(corpora, objectives, run, state.is_main_process)
    model = _model(flags, objectives, fields)
    if state.is_main_process:
        _print_setup(model, run)
        clear(run.output_dir, bool(resume))
    state.wait_for_everyone()
    description = _description(corpora, flags, objectives, train, model, fields, run)
    results = finished_results(run, description) if resume else None
    if results is None:
        trainer = _trainer(model, objectives, train, held_out, run, description)
        results = trainer.train_and_evaluate(resume if isinstance(resume, str) else None)
        if state.is_main_process:
            _write(trainer, corpora, flags, results)
            mark_finished(run, description, [WEIGHTS, MULTITASK])
    state.wait_for_everyone()
    return results


def _objectives(corpora: CorporaArguments, flags: MultitaskArguments, run: RunArguments) -> dict[str, Any]:
    """Check everything that can be checked before anything costs time, and return the objectives by name."""
    if not run.do_train:
        raise ValueError("there is nothing to do; give --do_train (and --do_eval for the results)")
    numbers = {"--objectives": flags.objectives, "--corpora": corpora.corpora, "--data_dirs": corpora.data_dirs}
    if len({len(values) for values in numbers.values()}) > 1:
        listed = ", ".join(f"{flag} has {len(values)}" for flag, values in numbers.items())
        raise ValueError(f"{listed}; give each objective one corpus and one directory, in one order")
    if len(set(flags.objectives)) < len(flags.objectives):
        raise ValueError(f"--objectives {' '.join(flags.objectives)} names an objective twice; name each once")
    objectives = {name: pretraining.load(name) for name in flags.objectives}
    for name, objective in objectives.items():
        if issubclass(objective.model_class, (KAdapterForMaskedLM, KAdapterForCausalLM)):
            raise ValueError(
                f"--objectives {name} learns through an LM head, which the multitask baseline does not have; choose "
                "factual and linguistic, or train it by run_adapter.py"
            )
    for corpus, objective in zip(corpora.each(), objectives.values(), strict=True):
        check_record_type(corpus, objective)
    check_lesson(run, objectives.values(), frozen=False)
    tokenizer = open_tokenizer(flags.backbone, flags.backbone_revision, corpora.max_length)
    return {name: objective(tokenizer, corpora.max_length, flags) for name, objective in objectives.items()}


def _examples(
    corpora: CorporaArguments, objectives: dict[str, Any], run: RunArguments, verbose: bool
) -> tuple[dict[str, dict[str, Any]], MixedExamples, dict[str, Labelled]]:
    """Build and encode all corpora; return what each head must know, and the examples to train and evaluate on."""
    fields: dict[str, dict[str, Any]] = {}
    examples: dict[str, dict[str, Any]] = {"train": {}, "eval": {}}
    for corpus, (name, objective) in zip(corpora.each(), objectives.items(), strict=True):
        fields[name], encoded = encode_splits(corpus, objective, True, run.do_eval, verbose)
        for split, own in encoded.items():
            examples[split][name] = own
    held_out = {name: Labelled(name, encoded) for name, encoded in examples["eval"].items()}
    return fields, MixedExamples(examples["train"]), held_out


def _model(flags: MultitaskArguments, objectives: dict[str, Any], fields: dict[str, dict[str, Any]]) -> MultitaskModel:
    models: dict[str, Any] = {}
    backbone, loading = flags.backbone, {"revision": flags.backbone_revision, "dtype": torch.float32}
    for name, objective in objectives.items():
        own = {"fusion": "add", "classifier_dropout": flags.classifier_dropout, **fields[name]}
        models[name] = objective.model_class.from_backbone(backbone, **own, **loading)
        backbone, loading = models[name].base_model.backbone, {}  # all others share it
    return MultitaskModel(models)


def _print_setup(model: MultitaskModel, run: RunArguments) -> None:
    step = run.train_batch_size * run.gradient_accumulation_steps * run.world_size
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    print(f"processes: {run.world_size}, device: {run.device.type}, examples in one step: {step}")
    print(f"trainable params: {trained:,} (the whole encoder and {len(model.models)} heads)")


def _description(
    corpora: CorporaArguments,
    flags: MultitaskArguments,
    objectives: dict[str, Any],
    train: MixedExamples,
    model: MultitaskModel,
    fields: dict[str, dict[str, Any]],
    run: RunArguments,
) -> dict[str, Any]:
    """Describe a training, to recognise it when it is resumed."""
    first = next(iter(model.models.values()))
    examples = {f"training examples of {labelled.objective}": labelled.examples for labelled in train.labelled}
    return {
        "--corpora": " ".join(corpora.corpora),
        "--max_length": corpora.max_length,
        **{f"--{name}": getattr(flags, name) for name in ("classifier_dropout", "head", "official_labels")},
        **describe_model(first.config, {}),
        "labels": {
            name: {key: value for key, value in own.items() if key != "label2id"} for name, own in fields.items()
        },
        **describe_training(run, examples, next(iter(objectives.values())).tokenizer),
    }


def _trainer(
    model: MultitaskModel,
    objectives: dict[str, Any],
    train: MixedExamples,
    held_out: dict[str, Labelled],
    run: RunArguments,
    description: dict[str, Any],
) -> MultitaskTrainer:
    run.ddp_find_unused_parameters = len(objectives) > 1  # no step uses the heads of the other objectives
    return MultitaskTrainer(
        model=model,
        args=run,
        train_dataset=train,
        eval_dataset=held_out or None,
        processing_class=next(iter(objectives.values())).tokenizer,
        data_collator=PadToObjective(objectives),
        objective=objectives,
        description=description,
    )


def _write(
    trainer: MultitaskTrainer, corpora: CorporaArguments, flags: MultitaskArguments, results: dict[str, float]
) -> None:
    """Write encoder and tokenizer and, last, what they were trained on."""
    output, run = Path(trainer.args.output_dir), trainer.args
    replace_files(output, trainer.model.backbone.save_pretrained)
    replace_files(output, trainer.processing_class.save_pretrained)
    description = {
        "backbone": flags.backbone,
        "objectives": dict(zip(flags.objectives, corpora.corpora, strict=True)),
        "epochs": round(trainer.state.epoch or 0, 2),
        "steps": trainer.state.global_step,
        "learning_rate": run.learning_rate,
        "seed": run.seed,
        "results": {key: value for key, value in results.items() if not key.endswith(("_runtime", "_per_second"))},
    }
    replace_file(output / MULTITASK, json.dumps(description, indent=2))
    print(saved_line(output, "AutoModel"))


if __name__ == "__main__":
    run_program(main)
