"""Pre-train one knowledge adapter on a frozen encoder and write it as an artifact.

accelerate launch trainers/run_adapter.py --objective linguistic --corpus conllu --data_dir DIR --backbone ID_OR_PATH
    --adapter_name lin --output_dir OUT --do_train --do_eval

OUT is the adapter's artifact; OUT/pretraining_head is the complete model with the head that it was trained under.
`--recipe FILE.yaml` gives defaults that flags override.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    import _bootstrap  # noqa: F401 (run as a file)

import datasets
import torch
from accelerate import PartialState
from transformers import AutoTokenizer, EvalPrediction, set_seed

from kadapter import data_builders
from kadapter.configuration_kadapter import KnowledgeAdapterConfig
from kadapter.trainers import pretraining
from kadapter.trainers.arguments import AdapterArguments, CorpusArguments, RunArguments, parse_arguments
from kadapter.trainers.collators import PadToBatch
from kadapter.trainers.trainer import KAdapterTrainer, last_complete_checkpoint, prepare_output_directory


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Run one training or evaluation as the flags say, and return its results.

    Raises:
        ValueError: a flag, the corpus or the output directory is unfit; the sentence says which and what to do.
        FloatingPointError: the loss became NaN; the last good checkpoint is kept.
    """
    corpus, adapter, run = parse_arguments(argv)
    state = PartialState()
    resume = _checkpoint_to_resume(run)
    prepare_output_directory(run.output_dir, bool(resume), run.overwrite_output_dir, state.is_main_process)
    state.wait_for_everyone()
    set_seed(run.seed)
    tokenizer = AutoTokenizer.from_pretrained(adapter.backbone, revision=adapter.backbone_revision)
    objective = pretraining.load(adapter.objective)(tokenizer, corpus.max_length, adapter)
    with run.main_process_first(desc="corpus"):
        fields, train, evaluated = _examples(corpus, objective, run, state)
    model = _build_model(adapter, objective, fields, run)
    if state.is_main_process:
        model.print_trainable_parameters()
    trainer = KAdapterTrainer(
        model=model,
        args=run,
        train_dataset=train,
        eval_dataset=evaluated,
        processing_class=tokenizer,
        data_collator=PadToBatch(objective.padding),
        compute_metrics=lambda one: _measure(objective, one, evaluated),
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(dim=-1),
    )
    results = _run(trainer, run, resume if isinstance(resume, str) else None)
    _write(trainer, corpus, adapter, objective, results)
    return results


def _checkpoint_to_resume(run: RunArguments) -> str | bool:
    """Return the checkpoint to resume from, True for a run that has none yet and so starts anew, or False."""
    asked = run.resume_from_checkpoint
    if not asked or str(asked).lower() == "false":
        return False
    if str(asked).lower() in ("true", "last"):
        return last_complete_checkpoint(run.output_dir) or True
    if last_complete_checkpoint(Path(asked).parent) is None or not Path(asked).is_dir():
        raise ValueError(f"--resume_from_checkpoint {asked!r} is no complete checkpoint; name one, or say last")
    return str(asked)


def _examples(
    corpus: CorpusArguments, objective: Any, run: RunArguments, state: PartialState
) -> tuple[dict[str, Any], datasets.Dataset, datasets.Dataset]:
    """Build the corpus and encode it; return what the head must know, and the examples to train and evaluate on."""
    builder = data_builders.get_builder(corpus.corpus)
    if builder.record_type != objective.record_type:
        raise ValueError(
            f"corpus {corpus.corpus!r} has {builder.record_type} records, and this objective needs "
            f"{objective.record_type} records; choose another corpus or objective"
        )
    splits = data_builders.load(
        corpus.corpus, corpus.data_dir, num_proc=corpus.num_proc, on_bad_record=corpus.on_bad_record
    )
    held_out = next((name for name in ("validation", "test") if name in splits), None)
    if "train" not in splits or (run.do_eval and held_out is None):
        raise ValueError(
            f"{corpus.data_dir!r} has the splits {sorted(splits)}; train and validation or test are needed"
        )
    train = _first(splits["train"], corpus.max_train_samples)
    fields = objective.learn(train)
    encoded = [_encode("train", train, objective, corpus, state)]
    if held_out is not None:
        encoded.append(_encode(held_out, _first(splits[held_out], corpus.max_eval_samples), objective, corpus, state))
    return fields, encoded[0], encoded[-1]


def _first(dataset: datasets.Dataset, number: int | None) -> datasets.Dataset:
    return dataset if number is None else dataset.select(range(min(number, len(dataset))))


def _encode(
    split: str, rows: datasets.Dataset, objective: Any, corpus: CorpusArguments, state: PartialState
) -> datasets.Dataset:
    def encode(batch: dict[str, list]) -> dict[str, list]:
        examples = objective.encode(batch)
        return {**examples, "length": [len(ids) for ids in examples["input_ids"]]}

    examples = rows.map(
        encode,
        batched=True,
        remove_columns=rows.column_names,
        num_proc=corpus.num_proc,
        load_from_cache_file=False,
        desc=f"encoding {split}",
    )
    dropped, truncated = len(rows) - len(examples), sum(examples["truncated"]) if len(examples) else 0
    if state.is_main_process:
        print(f"{split}: {len(examples)} examples kept, {dropped} dropped, {truncated} of the kept truncated")
    if not len(examples):
        raise ValueError(
            f"every {split} example was dropped: nothing fits into --max_length {corpus.max_length}; raise it"
        )
    return examples


def _build_model(adapter: AdapterArguments, objective: Any, fields: dict[str, Any], run: RunArguments) -> Any:
    config = KnowledgeAdapterConfig(
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
    model = objective.model_class.from_backbone(
        adapter.backbone,
        revision=adapter.backbone_revision,
        dtype=torch.bfloat16 if run.bf16 else torch.float32,
        fusion=adapter.fusion,
        classifier_dropout=adapter.classifier_dropout,
        **fields,
    )
    if not adapter.without_adapter:
        model.add_adapter(adapter.adapter_name, config)
        model.train_adapter(adapter.adapter_name)
    return model


def _measure(objective: Any, prediction: EvalPrediction, evaluated: datasets.Dataset) -> dict[str, float]:
    return objective.measure(prediction.predictions, prediction.label_ids, evaluated)


def _run(trainer: KAdapterTrainer, run: RunArguments, checkpoint: str | None) -> dict[str, float]:
    results: dict[str, float] = {}
    if run.do_train:
        outcome = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.log_metrics("train", outcome.metrics)
        trainer.save_metrics("train", outcome.metrics)
        trainer.save_state()
    if run.do_eval:
        results = trainer.evaluate()
        trainer.log_metrics("eval", results)
        trainer.save_metrics("eval", results)
    return results


def _write(
    trainer: KAdapterTrainer, corpus: CorpusArguments, adapter: AdapterArguments, objective: Any, results: dict
) -> None:
    """Write the adapter to OUT and the model with its head to OUT/pretraining_head, from the main process."""
    if not trainer.args.do_train or not trainer.is_world_process_zero():
        return
    output, model = Path(trainer.args.output_dir), trainer.model
    shown = {key.removeprefix("eval_"): value for key, value in results.items() if _is_result(key)}
    if not adapter.without_adapter:
        model.config.adapters[adapter.adapter_name]["training"] = {
            "objective": adapter.objective,
            "corpus": corpus.corpus,
            "epochs": trainer.args.num_train_epochs,
            "learning_rate": trainer.args.learning_rate,
            "seed": trainer.args.seed,
            "results": shown,
        }
        trainer.processing_class.save_pretrained(output)
        model.save_adapter(output, adapter.adapter_name)
    trainer.processing_class.save_pretrained(output / "pretraining_head")
    model.save_pretrained(output / "pretraining_head")


def _is_result(key: str) -> bool:
    return key.startswith("eval_") and not key.endswith(("_runtime", "_per_second", "_loss"))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        sys.exit(f"run_adapter: {error}")
