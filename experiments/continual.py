"""Teach an encoder three kinds of knowledge in turn, and measure after each what is left of the earlier kinds.

    python experiments/continual.py --backbone DIR --fewrel DIR --treebank DIR -o OUT

The kinds are relations (FewRel), syntax (CoNLL-U) and your own texts and triples; recipes/continual_KIND.yaml sets how
each is trained. They are taught in two ways: by a knowledge adapter for each kind, on a frozen encoder, and by full
fine-tuning of the encoder, which continues from its state after the previous kind. Every kind is measured with the
head that it was trained with. OUT/continual.md and OUT/continual.json hold the table. With all-MiniLM-L6-v2 it takes
roughly half an hour on two cores. An interrupted run resumes where it stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, set_seed

from kadapter.trainers import pretraining, run_adapter
from kadapter.trainers.common.arguments import AdapterArguments, RunArguments, parse_arguments
from kadapter.trainers.common.atomic_files import replace_file
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.common.encoding import check_record_type, encode_splits
from kadapter.trainers.common.entry_point import run_program
from kadapter.trainers.common.output_directory import HEAD
from kadapter.trainers.common.trainer import KAdapterTrainer

ROOT = Path(__file__).resolve().parents[1]
METRICS = {"factual": "micro_f1", "linguistic": "uas", "triples": "micro_f1"}  # in the order of teaching
ORDINALS = ("1st", "2nd", "3rd")
Measured = dict[str, dict[str, dict[str, Any]]]  # method -> kind -> stage -> measures


def main(
    backbone: Annotated[str, typer.Option(help="The encoder: Hub id or directory.")],
    fewrel: Annotated[Path, typer.Option(help="Directory with FewRel's files: the first kind.")],
    treebank: Annotated[Path, typer.Option(help="Directory with CoNLL-U files: the second kind.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Directory for adapters, models and table.")],
    texts_and_triples: Annotated[
        Path, typer.Option(help="Directory with *.txt and *.tsv files: the third kind; by default the quickstart's.")
    ] = ROOT / "quickstart" / "facts",
    max_train_samples: Annotated[int | None, typer.Option(help="Number of training records of each kind.")] = None,
    max_eval_samples: Annotated[int | None, typer.Option(help="Number of evaluation records of each kind.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Epochs of each kind; by default as in its recipe.")] = None,
    fine_tuning_rate: Annotated[float, typer.Option(help="Learning rate of full fine-tuning.")] = 1e-4,
    seed: Annotated[int, typer.Option(help="Seed of all training runs.")] = 0,
    more: Annotated[list[str] | None, typer.Argument(help="After --: flags of run_adapter.py for all kinds.")] = None,
) -> None:
    """Teach three kinds of knowledge in turn, by adapters and by full fine-tuning, and tabulate what is retained."""
    flags = {"backbone": backbone, "seed": seed, "max_train_samples": max_train_samples}
    flags |= {"max_eval_samples": max_eval_samples, "num_train_epochs": epochs}
    set_flags = {flag: value for flag, value in flags.items() if value is not None}
    argv = [str(word) for flag, value in set_flags.items() for word in (f"--{flag}", value)] + (more or [])
    folders = dict(zip(METRICS, map(str, (fewrel, treebank, texts_and_triples)), strict=True))
    file = output_dir / "continual.json"
    record = read_record(file, {"flags": argv, "fine_tuning_rate": fine_tuning_rate, **folders})
    measured: Measured = record["measured"]
    kinds = [open_kind(name, folder, argv, output_dir) for name, folder in folders.items()]
    for method in (KnowledgeAdapters(output_dir), FullFineTuning(output_dir, fine_tuning_rate)):
        for _ in teach(method, kinds, measured):
            replace_file(file, json.dumps(record, indent=2))
    replace_file(output_dir / "continual.md", markdown(measured))
    Console().print(table(measured))
    print(f"the table is in {output_dir / 'continual.md'}, all numbers are in {file}")


def teach(method: KnowledgeAdapters | FullFineTuning, kinds: list[Kind], measured: Measured) -> Iterator[None]:
    """Train each kind, measure it and all earlier kinds, unless already done, and yield after each measurement."""
    by_kind = measured.setdefault(method.name, {kind.name: {} for kind in kinds})
    for stage, new in enumerate(kinds):
        print(f"== {method.name}: {new.name}, the {ORDINALS[stage]} kind", flush=True)
        if str(stage) not in by_kind[new.name]:
            method.train(kinds, stage)
        for kind in reversed(kinds[: stage + 1]):  # the new kind first: its measurement shows that it was trained
            if str(stage) not in by_kind[kind.name]:
                by_kind[kind.name][str(stage)] = method.measure(kinds, stage, kind)
                yield


def read_record(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and the measurements so far.

    Raises:
        ValueError: the file belongs to a run with different settings.
    """
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"settings": settings, "measured": {}}
    if record["settings"] != settings:
        raise ValueError(
            f"{str(path)!r} belongs to a run with {record['settings']}, not {settings}; continue with those flags or "
            "choose another --output-dir"
        )
    return record


# ---- the kinds of knowledge ---------------------------------------------------------------------------------------


@dataclass
class Kind:
    """A kind of knowledge: the flags that train it, its objective and its encoded examples.

    Args:
        argv: the flags, without an output directory.
        fields: fields of `KAdapterConfig` for a new head.
        examples: the encoded examples of the splits "train" and "eval".
    """

    name: str
    argv: list[str]
    adapter: AdapterArguments
    objective: Any
    fields: dict[str, Any]
    examples: dict[str, Dataset]

    def arguments(self, output_dir: Path, *more: object) -> RunArguments:
        """Return the Trainer's arguments for training or measuring in a directory."""
        return parse_arguments([*self.argv, "--output_dir", str(output_dir), *map(str, more)])[2]

    def load(self, folder: Path, **backbone: Any) -> Any:
        """Load the model of this kind, with its head; the keywords are those of `from_pretrained`."""
        return self.objective.model_class.from_pretrained(folder, **backbone)

    def trainer(self, model: Any, arguments: RunArguments) -> KAdapterTrainer:
        """Return a trainer for training or measuring a model on this kind."""
        return KAdapterTrainer(
            model=model,
            args=arguments,
            train_dataset=self.examples["train"],
            eval_dataset=self.examples["eval"],
            processing_class=self.objective.tokenizer,
            data_collator=PadToBatch.of(self.objective, model),
            objective=self.objective,
        )


def open_kind(name: str, data_dir: str, more: list[str], output_dir: Path) -> Kind:
    """Build and encode the corpus of a kind.

    Raises:
        ValueError: a flag or the corpus is unsuitable; the message names it and the remedy.
    """
    recipe = ROOT / "recipes" / f"continual_{name}.yaml"
    argv = ["--recipe", str(recipe), "--data_dir", data_dir, *more]
    corpus, adapter, _ = parse_arguments([*argv, "--output_dir", str(output_dir)])
    tokenizer = AutoTokenizer.from_pretrained(adapter.backbone, revision=adapter.backbone_revision)
    objective_class = pretraining.load(adapter.objective)
    check_record_type(corpus, objective_class)
    objective = objective_class(tokenizer, corpus.max_length, adapter)
    fields, examples = encode_splits(corpus, objective, train=True, evaluate=True, verbose=True)
    return Kind(name, argv, adapter, objective, fields, examples)


# ---- the two methods ----------------------------------------------------------------------------------------------


class KnowledgeAdapters:
    """Teach each kind by an adapter of its own, all on the same frozen encoder."""

    name = "knowledge adapters"

    def __init__(self, output_dir: Path) -> None:
        self.folder = output_dir / "adapters"

    def train(self, kinds: list[Kind], stage: int) -> None:
        """Train the adapter of the kind at a stage."""
        kind = kinds[stage]
        flags = ["--do_train", "--resume_from_checkpoint", "last", "--output_dir", str(self.folder / kind.name)]
        run_adapter.main([*kind.argv, *flags])

    def measure(self, kinds: list[Kind], stage: int, kind: Kind) -> dict[str, Any]:
        """Measure a kind in a model that holds the adapters of all kinds up to a stage.

        The features are the adapter's outputs while all adapters are active. The results are measured while only the
        kind's own adapter is active, since its head was trained on it.
        """
        folder, name = self.folder / kind.name, kind.adapter.adapter_name
        arguments = kind.arguments(folder)
        dtype = torch.bfloat16 if arguments.bf16 else torch.float32
        keywords = {"revision": kind.adapter.backbone_revision, "dtype": dtype}
        model = kind.load(folder / HEAD, backbone=kind.adapter.backbone, backbone_kwargs=keywords)
        for other in kinds[: stage + 1]:
            if other is not kind:
                model.load_adapter(self.folder / other.name)
        trainer = kind.trainer(model, arguments)
        features = hash_features(trainer, lambda output: output.adapter_hidden_states[name])
        model.set_adapter(name)
        return measures(trainer, features, folder)


class FullFineTuning:
    """Teach each kind in turn by training the whole encoder under a new head."""

    name = "full fine-tuning"

    def __init__(self, output_dir: Path, learning_rate: float) -> None:
        self.folder, self.learning_rate = output_dir / "fine-tuned", learning_rate

    def train(self, kinds: list[Kind], stage: int) -> None:
        """Train the encoder under a new head, starting from its state after the previous kind."""
        kind, folder = kinds[stage], self.folder / kinds[stage].name
        arguments = kind.arguments(folder, "--learning_rate", self.learning_rate, "--save_strategy", "no")
        set_seed(arguments.seed)
        fields = {"revision": kind.adapter.backbone_revision, "classifier_dropout": kind.adapter.classifier_dropout}
        model = kind.objective.model_class.from_backbone(
            kind.adapter.backbone, dtype=torch.float32, **fields, **kind.fields
        )
        if stage:
            self.take_encoder(model, kinds[stage - 1])
        model.requires_grad_(True)
        model.print_trainable_parameters()
        trainer = kind.trainer(model, arguments)
        trainer.train()
        trainer.check_weights()
        model.save_pretrained(folder)

    def measure(self, kinds: list[Kind], stage: int, kind: Kind) -> dict[str, Any]:
        """Measure a kind with its own head, on the encoder as it is after a stage."""
        model = kind.load(self.folder / kind.name)
        self.take_encoder(model, kinds[stage])
        trainer = kind.trainer(model, kind.arguments(self.folder))
        features = hash_features(trainer, lambda output: output.backbone_hidden_state)
        return measures(trainer, features, self.folder / kinds[stage].name)

    def take_encoder(self, model: Any, kind: Kind) -> None:
        """Copy into a model the encoder as it was after a kind was taught."""
        model.kadapter.backbone.load_state_dict(kind.load(self.folder / kind.name).kadapter.backbone.state_dict())


# ---- measures and the table ---------------------------------------------------------------------------------------


def measures(trainer: KAdapterTrainer, features: str, artifact: Path) -> dict[str, Any]:
    """Return the results on the held-out examples, except times, with hashes of features and weights file."""
    timed = ("_runtime", "_per_second", "_time")
    results = {key: value for key, value in trainer.evaluate().items() if not key.endswith(timed)}
    digest = hashlib.sha256((artifact / "model.safetensors").read_bytes()).hexdigest()
    return {"results": results, "features": features, "artifact": digest}


def hash_features(trainer: KAdapterTrainer, features: Callable[[Any], torch.Tensor]) -> str:
    """Return a hash of all features that the model below the head computes for the held-out examples."""
    model, total = trainer.model.eval(), hashlib.sha256()
    for batch in trainer.get_eval_dataloader():
        inputs = {key: batch[key].to(trainer.args.device) for key in ("input_ids", "attention_mask")}
        with torch.no_grad(), trainer.compute_loss_context_manager():
            total.update(features(model.kadapter(**inputs)).float().cpu().numpy().tobytes())
    return total.hexdigest()


def lines(measured: Measured) -> Iterator[list[str]]:
    """Yield the headings of the table, and then a line for each method."""
    cells = [(kind, stage) for number, kind in enumerate(METRICS) for stage in range(number, len(METRICS))]
    headings = [f"{kind} ({METRICS[kind]}) after {ORDINALS[stage]}" for kind, stage in cells]
    yield ["way of teaching", *headings, "bit-equal"]
    for method, by_kind in measured.items():
        numbers = [f"{by_kind[kind][str(stage)]['results'][f'eval_{METRICS[kind]}']:.3f}" for kind, stage in cells]
        retained = all(later == stages[min(stages)] for stages in by_kind.values() for later in stages.values())
        yield [method, *numbers, "yes" if retained else "no"]


def table(measured: Measured) -> Table:
    """Return the measures as a table."""
    drawn = Table(title="held-out results after each kind of knowledge")
    headings, *rows = lines(measured)
    for heading in headings:
        drawn.add_column(heading, justify="left" if heading == headings[0] else "right")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def markdown(measured: Measured) -> str:
    """Return the measures as a table in Markdown."""
    headings, *rows = lines(measured)
    every_line = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in every_line)


if __name__ == "__main__":
    run_program(partial(typer.run, main))
