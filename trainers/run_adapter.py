"""Pre-train one knowledge adapter on a frozen encoder and write it as an artifact.

accelerate launch trainers/run_adapter.py --objective linguistic --corpus conllu --data_dir DIR --backbone ID_OR_PATH
    --adapter_name lin --output_dir OUT --do_train --do_eval

OUT is the adapter's artifact; OUT/pretraining_head is the complete model with its pre-training head.
`--recipe FILE.yaml` sets defaults that flags override. `--variants FILE.yaml` trains several adapters at once, into
OUT/NAME each (docs/several_adapters.md). `--do_eval` without `--do_train` evaluates the model at
OUT/pretraining_head. Several processes on CPU: `torchrun --nproc_per_node 2`, or with ACCELERATE_USE_CPU=1
`accelerate launch --multi_gpu --num_processes 2` (`accelerate launch --cpu` silently runs one).
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    import _bootstrap  # noqa: F401 (run as a file)
if __name__ == "__main__":  # before the libraries, which take seconds to import
    import sys

    from kadapter.trainers.common import usage

    usage.answer("run_adapter", sys.argv[1:])

from accelerate import PartialState
from transformers import AutoConfig, set_seed

from kadapter.artifacts_kadapter import WEIGHTS
from kadapter.configuration_kadapter import DEFAULT_KIND, KAdapterConfig, check_adapter_name
from kadapter.trainers import pretraining
from kadapter.trainers.common.arguments import AdapterArguments, CorpusArguments, RunArguments, shape_of
from kadapter.trainers.common.atomic_files import replace_file, replace_files
from kadapter.trainers.common.backbone_options import backbone_options, check_attention, check_compiler, compile_blocks
from kadapter.trainers.common.checkpoints import checkpoint_to_resume, describe_model, describe_training
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.common.encoding import check_record_type, encode_splits, open_tokenizer
from kadapter.trainers.common.entry_point import run_program
from kadapter.trainers.common.kept_texts import KeptTexts
from kadapter.trainers.common.lessons import describe_lesson, write_card_of_lesson
from kadapter.trainers.common.locality import Locality, check_held_back, check_locality, check_silence, open_texts
from kadapter.trainers.common.masking import MaskedExamples
from kadapter.trainers.common.output_directory import (
    HEAD,
    check_output_directory,
    clear,
    finished_results,
    in_use,
    mark_finished,
)
from kadapter.trainers.common.progress import saved_line
from kadapter.trainers.common.trainer import KAdapterTrainer
from kadapter.trainers.common.usable import check_lesson
from kadapter.trainers.feature_cache.options import check_cache, open_features
from kadapter.trainers.feature_cache.store import FeatureStore
from kadapter.trainers.feature_cache.trainer import CollateWithCacheIndex, FeatureTrainer
from kadapter.trainers.many_adapters.scheduler import (
    CoscheduledTrainer,
    Scheduler,
    SharedBackbone,
    model_on_same_backbone,
)
from kadapter.trainers.many_adapters.variants import Settings, settings_of


@dataclass
class Training:
    """The training or evaluation of one adapter: its settings, the checkpoint to resume from, and its model."""

    settings: Settings
    resume: str | bool
    model: Any = None

    @property
    def name(self) -> str:
        """Return the name of the adapter."""
        return self.settings.adapter.adapter_name


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run one training or evaluation as the flags say, or several at once, and return the results.

    The results of several have keys such as "NAME/eval_loss", and are written to OUT/all_results.json.

    Raises:
        ValueError: a flag, the corpus or the output directory can't be used; the message says why and what to do.
        OSError: the backbone can't be read, or the results can't be written.
        FloatingPointError: the loss became NaN; the last good checkpoint is kept, and other adapters went on.
    """
    settings, several = settings_of(argv)
    with in_use([own.run.output_dir for own in settings]):
        return _run_several(settings) if several else _run_all(settings)[settings[0].adapter.adapter_name]


def _run_several(settings: list[Settings]) -> dict[str, float]:
    """Train or evaluate several adapters, and return and write the results of all by name."""
    scheduler = Scheduler(isolated=(FloatingPointError,) if settings[0].run.world_size == 1 else ())
    if settings[0].run.do_train:
        results = _run_all(settings, scheduler)
    else:
        results = {name: own_results for own in settings for name, own_results in _run_all([own]).items()}
    named = {f"{name}/{key}": value for name, own_results in results.items() for key, value in own_results.items()}
    if PartialState().is_main_process:
        path = Path(settings[0].run.output_dir).parent / "all_results.json"
        replace_file(path, json.dumps(named, indent=4, sort_keys=True))
    if scheduler.failures:
        failures = "; ".join(f"{name}: {error}" for name, error in scheduler.failures.items())
        raise FloatingPointError(f"of {len(settings)} adapters {len(scheduler.failures)} did not end well; {failures}")
    return named


def _run_all(settings: list[Settings], scheduler: Scheduler | None = None) -> dict[str, dict[str, float]]:
    """Train or evaluate one adapter, or train several with a scheduler, and return the results of each."""
    corpus, cache, run = settings[0].corpus, settings[0].cache, settings[0].run
    state = PartialState()
    objective, trainings, trained = _check(settings)
    if state.is_main_process:
        print(run.precision)
    state.wait_for_everyone()
    set_seed(run.seed)
    with run.main_process_first(desc="corpus"):
        splits = (run.do_train, run.do_eval, state.is_main_process)
        fields, examples = encode_splits(corpus, objective, *splits, trained=trained is not None)
    _build_models(trainings, objective, fields, trained is None)
    for training in trainings if state.is_main_process else ():
        _print_setup(training.model, run, training.name if scheduler is not None else None)
        if run.do_train:
            clear(training.settings.run.output_dir, bool(training.resume))
    reader = SharedBackbone([training.model for training in trainings]) if scheduler is not None else None
    tapped = trainings[0].model if reader is None else reader.model
    reading = tapped, objective.tokenizer, run, state.is_main_process
    terms, masked = [own.locality for own in settings], hasattr(objective, "masking")
    texts = open_texts(terms, corpus, *reading, masked) if run.do_train else None
    features, examples = open_features(cache, tapped, examples, run, state.is_main_process)
    state.wait_for_everyone()
    if scheduler is None:
        return {training.name: _run(training, objective, fields, examples, features, texts) for training in trainings}
    jobs: dict[str, Callable[[], Any]] = {}
    for training in trainings:
        sharing = {"name": training.name, "scheduler": scheduler, "reader": reader}
        jobs[training.name] = partial(_run, training, objective, fields, examples, features, texts, **sharing)
    return scheduler.run(jobs)


def _run(
    training: Training,
    objective: Any,
    fields: dict[str, Any],
    examples: dict[str, Any],
    features: FeatureStore | None,
    texts: KeptTexts | None,
    **sharing: Any,
) -> dict[str, float]:
    """Train, evaluate and write one adapter, as far as it is not finished; `sharing` is for several at once."""
    state, settings, resume = PartialState(), training.settings, training.resume
    run = settings.run
    description = _description(settings, objective, examples, training.model, fields, texts) if run.do_train else {}
    results = finished_results(run, description) if resume else None
    if results is None:
        options = {"description": description, "locality": Locality.of(texts, settings.locality, run), **sharing}
        trainer = _trainer(training.model, objective, examples, features, run, **options)
        if not settings.adapter.without_adapter:
            trainer.share = partial(training.model.save_adapter, adapter_name=training.name)
        results = trainer.train_and_evaluate(resume if isinstance(resume, str) else None)
        if run.do_train and state.is_main_process:
            _write_adapter(trainer, settings, results)
            weights = [f"{HEAD}/{WEIGHTS}", *([] if settings.adapter.without_adapter else [WEIGHTS])]
            mark_finished(run, description, weights)
            print(_saved(objective, settings))
            if run.push_to_hub:
                trainer.push_to_hub()
    state.wait_for_everyone()
    return results


def _saved(objective: Any, settings: Settings) -> str:
    if settings.adapter.without_adapter:
        head = Path(settings.run.output_dir) / HEAD
        shared = f", or share it by lm_head={str(head)!r}" if settings.adapter.lm_head else ""
        return saved_line(head, objective.model_class.__name__) + shared
    use = "ForCausalLM" if settings.adapter.objective == "causal_lm" else ""
    return saved_line(settings.run.output_dir, f"KAdapter{use or 'Model'}", f"AutoModel{use}")


def _check(settings: list[Settings]) -> tuple[Any, list[Training], KAdapterConfig | None]:
    """Check all settings; return the objective, the trainings, and the configuration of a model to evaluate."""
    trainings, trained = [], None
    check_locality([own.locality for own in settings])
    for own in settings:
        corpus, adapter, cache, run, variants = own[:5]
        try:
            check_held_back(own.locality, adapter)
            objective = _objective(corpus, adapter, run)
            check_silence(own.locality.silent_below, own.locality.heard_above, adapter.adapter_kind, adapter.objective)
            check_cache(cache, adapter.mask_padding or adapter.without_adapter, hasattr(objective, "masking"))
            resume = checkpoint_to_resume(run.resume_from_checkpoint, run.output_dir) if run.do_train else False
            if run.do_train:
                check_output_directory(run.output_dir, resume, run.overwrite_output_dir, adapter.backbone)
            else:
                trained = _trained_config(adapter, objective, run)
        except (ValueError, TypeError) as error:
            if variants.variants is None:
                raise
            raise ValueError(f"variants {variants.variants!r}, adapter {adapter.adapter_name!r}: {error}") from error
        trainings.append(Training(own, resume))
    return objective, trainings, trained


def _build_models(trainings: list[Training], objective: Any, fields: dict[str, Any], new: bool) -> None:
    """Build or load the model of each adapter, all on the backbone of the first; each new one has its own seed."""
    for training in trainings:
        settings = training.settings
        set_seed(settings.run.seed)
        if new:
            training.model = _new_model(settings, objective, fields, trainings[0].model)
        else:
            training.model = _trained_model(settings.adapter, objective, settings.run)
    if trainings[0].settings.adapter.compile_backbone:
        compile_blocks(trainings[0].model.base_model.backbone)


def _objective(corpus: CorpusArguments, adapter: AdapterArguments, run: RunArguments) -> pretraining.Objective:
    """Check everything that can be checked before anything costs time, and return the objective."""
    if not (run.do_train or run.do_eval):
        raise ValueError("there is nothing to do; give --do_train, --do_eval or both")
    if adapter.quantize_backbone and importlib.util.find_spec("torchao") is None:
        raise ValueError("--quantize_backbone needs torchao; pip install 'kadapter[quantization]'")
    if adapter.compile_backbone:
        check_compiler(run)
    objective_class: Any = pretraining.load(adapter.objective)
    adapter.fusion = adapter.fusion or getattr(objective_class, "fusion", "concat")
    adapter.adapter_kind = adapter.adapter_kind or getattr(objective_class, "adapter_kind", DEFAULT_KIND)
    check_record_type(corpus, objective_class)
    check_adapter_name(adapter.adapter_name)
    backbone = AutoConfig.from_pretrained(adapter.backbone, revision=adapter.backbone_revision)
    check_attention(adapter, backbone, run)
    shape_of(adapter).for_backbone(backbone.num_hidden_layers, backbone.hidden_size, backbone_config=backbone)
    tokenizer = open_tokenizer(adapter.backbone, adapter.backbone_revision, corpus.max_length)
    objective = objective_class(tokenizer, corpus.max_length, adapter)
    pretraining.check_backbone_dropout(objective, adapter)
    check_lesson(run, [objective], frozen=True)
    if run.dataloader_persistent_workers and hasattr(objective, "masking"):
        raise ValueError(
            "--dataloader_persistent_workers would keep the masks of the first epoch for all; leave it out"
        )
    return objective


def _trained_config(adapter: AdapterArguments, objective: Any, run: RunArguments) -> KAdapterConfig:
    """Return the configuration of the model at OUT/pretraining_head, after checking the flags against it."""
    folder = Path(run.output_dir) / HEAD
    if not (folder / "config.json").is_file():
        raise ValueError(f"there is no trained model in {str(folder)!r} to evaluate; train it with --do_train")
    config = KAdapterConfig.from_pretrained(folder)
    name, adapters = objective.model_class.__name__, _names(adapter)
    architectures = config.architectures or ["model"]
    if architectures != [name] or list(config.adapters) != adapters:
        raise ValueError(
            f"{str(folder)!r} holds a {architectures[0]} with the adapters {list(config.adapters)}, and these "
            f"flags ask for a {name} with {adapters}; give the flags that it was trained with"
        )
    objective.recall(config)
    return config


def _names(adapter: AdapterArguments) -> list[str]:
    """Return the names of the adapters of a model: those that are frozen, and the one that is trained."""
    frozen = [name for path in adapter.frozen_adapters or () for name in KAdapterConfig.from_pretrained(path).adapters]
    return [*frozen, *([] if adapter.without_adapter else [adapter.adapter_name])]


def _new_model(settings: Settings, objective: Any, fields: dict[str, Any], other: Any = None) -> Any:
    """Build a new model, on the backbone of `other` if there is another model."""
    adapter, run = settings.adapter, settings.run
    fields = {"fusion": adapter.fusion, "classifier_dropout": adapter.classifier_dropout, **fields}
    if other is None:
        options = {"revision": adapter.backbone_revision, **backbone_options(adapter, run)}
        model = objective.model_class.from_backbone(adapter.backbone, **options, **fields)
    else:
        model = model_on_same_backbone(other, objective.model_class, fields)
    for path in adapter.frozen_adapters or ():
        model.load_adapter(path)
    if not adapter.without_adapter:
        new = objective.adapter_config() if hasattr(objective, "adapter_config") else None
        new = new or shape_of(adapter, settings.locality.silent_below)
        model.add_adapter(adapter.adapter_name, new)
        model.train_adapter(adapter.adapter_name)
    model.base_model.backbone_dropout(adapter.backbone_dropout)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"--without_adapter with --lm_head {adapter.lm_head or 'backbone'!r} leaves nothing to train, since that "
            "LM head is frozen; give --lm_head transform or linear for a new one, or train an adapter"
        )
    return model


def _trained_model(adapter: AdapterArguments, objective: Any, run: RunArguments) -> Any:
    """Load the model at OUT/pretraining_head; only the backbone, not what was trained, may be in bfloat16."""
    backbone = {"revision": adapter.backbone_revision, **backbone_options(adapter, run)}
    return objective.model_class.from_pretrained(
        Path(run.output_dir) / HEAD, backbone=adapter.backbone, backbone_kwargs=backbone
    )


def _print_setup(model: Any, run: RunArguments, name: str | None) -> None:
    step = run.train_batch_size * run.gradient_accumulation_steps * run.world_size
    setup = f"processes: {run.world_size}, device: {run.device.type}, examples in one step: {step}"
    print(setup if name is None else f"{name}: {setup}")
    model.print_trainable_parameters()


def _description(
    settings: Settings,
    objective: Any,
    examples: dict[str, Any],
    model: Any,
    fields: dict[str, Any],
    texts: KeptTexts | None,
) -> dict[str, Any]:
    """Describe a training, to recognise it when it is resumed."""
    names = ["objective", "fusion", "classifier_dropout", "head", "official_labels", "quantize_backbone"]
    names += ["mask_unit", "mask_probability", "mask_mentions"] if hasattr(objective, "masking") else []
    names += ["backbone_dropout", "entity_position"] if hasattr(objective, "adapter_config") else []
    names += ["loss_on"] if hasattr(objective, "loss_on") else []
    held_back: dict[str, Any] = {"locality_weight": settings.locality.locality_weight}
    if texts is not None and settings.locality.locality_weight:
        held_back = {**asdict(settings.locality), "locality_data_dir": texts.digest}  # what is there, wherever that is
    return {
        "--corpus": settings.corpus.corpus,
        "--max_length": settings.corpus.max_length,
        **{f"--{name}": getattr(settings.adapter, name) for name in names},
        **{f"--{name}": value for name, value in held_back.items()},
        **describe_model(model.config, fields),
        **describe_training(settings.run, {"training examples": examples["train"]}, objective.tokenizer),
    }


def _trainer(
    model: Any,
    objective: Any,
    examples: dict[str, Any],
    features: FeatureStore | None,
    run: RunArguments,
    **options: Any,
) -> KAdapterTrainer:
    trainer_class = CoscheduledTrainer if "scheduler" in options else FeatureTrainer
    return trainer_class(
        model=model,
        args=run,
        **_datasets(objective, examples, run),
        processing_class=objective.tokenizer,
        data_collator=CollateWithCacheIndex(PadToBatch.of(objective, model)),
        objective=objective,
        features=features,
        **options,
    )


def _datasets(objective: Any, examples: dict[str, Any], run: RunArguments) -> dict[str, Any]:
    """Return what is trained and evaluated on: encoded examples, masked if the objective masks them."""
    masking = getattr(objective, "masking", None)
    if masking is not None:
        masking = replace(masking, seed=run.seed if run.data_seed is None else run.data_seed)
        examples = {split: MaskedExamples(own, masking, fixed=split != "train") for split, own in examples.items()}
    return {"train_dataset": examples.get("train"), "eval_dataset": examples.get("eval")}


def _write_adapter(trainer: Any, settings: Settings, results: dict[str, float]) -> None:
    """Write the adapter to OUT, and the model with its head to OUT/pretraining_head.

    Raises:
        OSError: it can't be written; the earlier files are untouched.
    """
    output, model = Path(trainer.args.output_dir), trainer.model
    adapter, locality = settings.adapter, settings.locality
    if not adapter.without_adapter:
        described = describe_lesson(trainer, adapter.objective, settings.corpus.corpus, results)
        held_back = {"locality": locality.described} if locality.locality_weight else {}
        model.config.adapters[adapter.adapter_name]["training"] = {**described, **held_back}
        model.save_adapter(output, adapter.adapter_name)
        replace_files(output, trainer.processing_class.save_pretrained)
    model.save_pretrained(output / HEAD)
    replace_files(output / HEAD, trainer.processing_class.save_pretrained)
    for folder in (*([] if adapter.without_adapter else [output]), output / HEAD):
        write_card_of_lesson(folder, trainer, adapter.objective, settings.corpus.corpus, results)


if __name__ == "__main__":
    run_program(main)
