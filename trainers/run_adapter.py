"""Pre-train one knowledge adapter on a frozen encoder and write it as an artifact.

accelerate launch trainers/run_adapter.py --objective linguistic --corpus conllu --data_dir DIR --backbone ID_OR_PATH
    --adapter_name lin --output_dir OUT --do_train --do_eval

OUT is the adapter's artifact; OUT/pretraining_head is the complete model with the head that it was trained under.
`--recipe FILE.yaml` gives defaults that flags override. `--do_eval` without `--do_train` evaluates the model at
OUT/pretraining_head. Several processes on CPU: `torchrun --nproc_per_node 2`, or with ACCELERATE_USE_CPU=1
`accelerate launch --multi_gpu --num_processes 2` (`accelerate launch --cpu` silently runs one).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    import _bootstrap  # noqa: F401 (run as a file)

import torch
from accelerate import PartialState
from transformers import AutoConfig, AutoTokenizer, set_seed

from kadapter.configuration_kadapter import KAdapterConfig, KnowledgeAdapterConfig, check_adapter_name
from kadapter.trainers import pretraining
from kadapter.trainers.arguments import AdapterArguments, CorpusArguments, RunArguments, parse_arguments
from kadapter.trainers.collators import PadToBatch
from kadapter.trainers.examples import check_record_type, encode, load_splits, sample
from kadapter.trainers.feature_arguments import CacheArguments, check_cache, open_features
from kadapter.trainers.feature_cache import Features
from kadapter.trainers.feature_trainer import FeatureTrainer, WithPlaces
from kadapter.trainers.outputs import (
    HEAD,
    check_output_directory,
    checkpoint_to_resume,
    clear,
    replace_files,
)
from kadapter.trainers.trainer import KAdapterTrainer

KINDS = (CorpusArguments, AdapterArguments, CacheArguments, RunArguments)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run one training or evaluation as the flags say, and return its results.

    Raises:
        ValueError: a flag, the corpus or the output directory is unfit; the sentence says which and what to do.
        OSError: the backbone can't be read, or the results can't be written.
        FloatingPointError: the loss became NaN; the last good checkpoint is kept.
    """
    corpus, adapter, cache, run = parse_arguments(argv, KINDS)
    check_cache(cache, adapter.mask_padding or adapter.without_adapter)
    state = PartialState()
    objective = _objective(corpus, adapter, run)
    resume = checkpoint_to_resume(run.resume_from_checkpoint, run.output_dir) if run.do_train else False
    trained = None if run.do_train else _trained_config(adapter, objective, run)
    if run.do_train:
        check_output_directory(run.output_dir, bool(resume), run.overwrite_output_dir)
    state.wait_for_everyone()
    set_seed(run.seed)
    with run.main_process_first(desc="corpus"):
        fields, examples = _examples(corpus, objective, trained, run, state.is_main_process)
    model = _new_model(adapter, objective, fields, run) if trained is None else _trained_model(adapter, objective, run)
    if state.is_main_process:
        _tell(model, run)
        if run.do_train:
            clear(run.output_dir, bool(resume))
    with run.main_process_first(desc="features"):
        features, examples = open_features(cache, model, examples, run, state.is_main_process)
    state.wait_for_everyone()
    trainer = _trainer(model, objective, examples, features, run)
    results = _run(trainer, run, resume if isinstance(resume, str) else None)
    if run.do_train and state.is_main_process:
        _write(trainer, corpus, adapter, results)
    state.wait_for_everyone()
    return results


def _objective(corpus: CorpusArguments, adapter: AdapterArguments, run: RunArguments) -> pretraining.Objective:
    """Check all that can be checked before anything costs time, and return the objective."""
    if not (run.do_train or run.do_eval):
        raise ValueError("there is nothing to do; give --do_train, --do_eval or both")
    kind = pretraining.load(adapter.objective)
    check_record_type(corpus, kind)
    check_adapter_name(adapter.adapter_name)
    backbone = AutoConfig.from_pretrained(adapter.backbone, revision=adapter.backbone_revision)
    _shape(adapter).for_backbone(backbone.num_hidden_layers)
    tokenizer = AutoTokenizer.from_pretrained(adapter.backbone, revision=adapter.backbone_revision)
    if corpus.max_length > tokenizer.model_max_length:
        raise ValueError(
            f"--max_length {corpus.max_length} is more than the {tokenizer.model_max_length} tokens that "
            f"{adapter.backbone!r} takes; lower it"
        )
    return kind(tokenizer, corpus.max_length, adapter)


def _shape(adapter: AdapterArguments) -> KnowledgeAdapterConfig:
    return KnowledgeAdapterConfig(
        layers=adapter.layers,
        hidden_size=adapter.adapter_hidden_size,
        intermediate_size=adapter.adapter_intermediate_size,
        num_hidden_layers=adapter.adapter_num_hidden_layers,
        num_attention_heads=adapter.adapter_num_attention_heads,
        hidden_dropout_prob=adapter.adapter_dropout,
        attention_probs_dropout_prob=adapter.adapter_dropout,
        skip_layers=adapter.skip_layers,
        mask_padding=adapter.mask_padding,
    )


def _trained_config(adapter: AdapterArguments, objective: Any, run: RunArguments) -> KAdapterConfig:
    """Return the configuration of the model at OUT/pretraining_head, which must be what the flags mean."""
    folder = Path(run.output_dir) / HEAD
    if not (folder / "config.json").is_file():
        raise ValueError(f"there is no trained model in {str(folder)!r} to evaluate; train it by --do_train")
    config = KAdapterConfig.from_pretrained(folder)
    kind, asked = objective.model_class.__name__, [] if adapter.without_adapter else [adapter.adapter_name]
    if config.architectures != [kind] or list(config.adapters) != asked:
        raise ValueError(
            f"{str(folder)!r} holds a {config.architectures[0]} with the adapters {list(config.adapters)}, and these "
            f"flags ask for a {kind} with {asked}; give the flags that it was trained by"
        )
    objective.recall(config)
    return config


def _examples(
    corpus: CorpusArguments, objective: Any, trained: KAdapterConfig | None, run: RunArguments, tell: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Build the corpus and encode it; return what a new head must know, and the examples by split."""
    splits = load_splits(corpus, run.do_train, run.do_eval, tell)
    fields = objective.learn(splits["train"]) if trained is None else {}
    numbers = {"train": corpus.max_train_samples, "eval": corpus.max_eval_samples}
    examples = {
        split: encode(split, sample(rows, numbers[split]), objective, corpus, tell) for split, rows in splits.items()
    }
    return fields, examples


def _new_model(adapter: AdapterArguments, objective: Any, fields: dict[str, Any], run: RunArguments) -> Any:
    model = objective.model_class.from_backbone(
        adapter.backbone,
        revision=adapter.backbone_revision,
        **_reading(run),
        fusion=adapter.fusion,
        classifier_dropout=adapter.classifier_dropout,
        **fields,
    )
    if not adapter.without_adapter:
        model.add_adapter(adapter.adapter_name, _shape(adapter))
        model.train_adapter(adapter.adapter_name)
    return model


def _trained_model(adapter: AdapterArguments, objective: Any, run: RunArguments) -> Any:
    """Load the model at OUT/pretraining_head; only the backbone, not what was trained, is held in bfloat16."""
    backbone = {"revision": adapter.backbone_revision, **_reading(run)}
    return objective.model_class.from_pretrained(
        Path(run.output_dir) / HEAD, backbone=adapter.backbone, backbone_kwargs=backbone
    )


def _reading(run: RunArguments) -> dict[str, Any]:
    """Say how the backbone reads: in float32 on a CPU with attention whose bits do not depend on the batch."""
    exact = run.device.type == "cpu" and not run.bf16
    return {
        "dtype": torch.bfloat16 if run.bf16 else torch.float32,
        **({"attn_implementation": "eager"} if exact else {}),
    }


def _tell(model: Any, run: RunArguments) -> None:
    step = run.train_batch_size * run.gradient_accumulation_steps * run.world_size
    print(f"processes: {run.world_size}, device: {run.device.type}, examples in one step: {step}")
    model.print_trainable_parameters()


def _trainer(
    model: Any, objective: Any, examples: dict[str, Any], features: Features | None, run: RunArguments
) -> KAdapterTrainer:
    return FeatureTrainer(
        model=model,
        args=run,
        train_dataset=examples.get("train"),
        eval_dataset=examples.get("eval"),
        processing_class=objective.tokenizer,
        data_collator=WithPlaces(PadToBatch(objective.padding)),
        objective=objective,
        features=features,
    )


def _run(trainer: KAdapterTrainer, run: RunArguments, checkpoint: str | None) -> dict[str, float]:
    results: dict[str, float] = {}
    if run.do_train:
        if run.world_size > 1:
            torch.manual_seed(run.seed + run.process_index)  # so that every process drops out other units
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.check_weights()
        trainer.log_metrics("train", outcome.metrics)
        trainer.save_metrics("train", outcome.metrics)
        trainer.save_state()
    if run.do_eval:
        results = trainer.evaluate()
        trainer.log_metrics("eval", results)
        trainer.save_metrics("eval", results)
    return results


def _write(
    trainer: KAdapterTrainer, corpus: CorpusArguments, adapter: AdapterArguments, results: dict[str, float]
) -> None:
    """Write the adapter to OUT and the model with its head to OUT/pretraining_head."""
    output, model = Path(trainer.args.output_dir), trainer.model
    if not adapter.without_adapter:
        model.config.adapters[adapter.adapter_name]["training"] = {
            "objective": adapter.objective,
            "corpus": corpus.corpus,
            "epochs": round(trainer.state.epoch or 0, 2),
            "steps": trainer.state.global_step,
            "learning_rate": trainer.args.learning_rate,
            "seed": trainer.args.seed,
            "results": {key.removeprefix("eval_"): value for key, value in results.items() if _is_result(key)},
        }
        model.save_adapter(output, adapter.adapter_name)
        replace_files(output, trainer.processing_class.save_pretrained)
    model.save_pretrained(output / HEAD)
    replace_files(output / HEAD, trainer.processing_class.save_pretrained)


def _is_result(key: str) -> bool:
    return key.startswith("eval_") and not key.endswith(("_runtime", "_per_second", "_loss", "_time"))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        sys.exit(f"run_adapter: {error}")
