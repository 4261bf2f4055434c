"""Train, measure and prepare adapters to download: facts, grammar and masked words beside all-MiniLM-L6-v2.

    python recipes/publish/adapters.py --fewrel DIR --treebank DIR [-o published]

OUT/kadapter-fac, -lin and -mlm are then artifacts with cards and results, OUT/kadapter-lm-head the LM head that the
last was trained under; each was read again, compared with its checksums and composed with the others. OUT/controls
holds the same heads without an adapter, and OUT/results.md all results side by side. The last lines say how to push.

A run that was stopped goes on where it was; what is finished is not trained again. --max-train-samples and --max-steps
make small ones, by the same code, in an --output-dir of their own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from kadapter import KAdapterModel
from kadapter.artifacts_kadapter import CARD, read_artifact
from kadapter.processing_kadapter import read_tokenizer
from kadapter.trainers import run_adapter

RECIPES = Path(__file__).resolve().parents[1]
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
HEAD = "pretraining_head"
TEXT, SPANS = "Marie Curie was born in Warsaw.", [(0, 11), (24, 30)]
LARGE = """For roberta-large, on a GPU, with T-REx and a treebank that was parsed as the paper's:

accelerate launch trainers/run_adapter.py --recipe recipes/fac_trex_rc_roberta_large.yaml \\
    --backbone FacebookAI/roberta-large --data_dir TREX --output_dir kadapter-fac-large
accelerate launch trainers/run_adapter.py --recipe recipes/lin_find_head_roberta_large.yaml \\
    --backbone FacebookAI/roberta-large --data_dir PARSED --output_dir kadapter-lin-large
accelerate launch trainers/run_adapter.py --objective masked_lm --corpus text --data_dir TEXTS \\
    --backbone FacebookAI/roberta-large --adapter_name mlm --output_dir kadapter-mlm-large \\
    --do_train --do_eval --num_train_epochs 3 --learning_rate 3e-4"""


@dataclass
class Plan:
    """A training: its recipe, its data, the measure that counts, and whether the same head is trained without it."""

    name: str
    recipe: str
    data: Path
    measure: str
    control: bool = True
    cached: bool = True  # masked words are other ones in each epoch, so their states can't be kept


@dataclass
class Scale:
    """What makes a training smaller than its recipe; None leaves it as it is."""

    max_train_samples: int | None
    max_eval_samples: int | None
    max_steps: int | None

    def flags(self) -> list[str]:
        """Return these as flags of the program."""
        return [word for name, value in vars(self).items() if value is not None for word in (f"--{name}", str(value))]


def main(
    fewrel: Annotated[Path, typer.Option(help="Directory of FewRel's JSON files.")],
    treebank: Annotated[Path, typer.Option(help="Directory of a treebank's CoNLL-U files, such as UD English-EWT.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Directory of everything.")] = Path(
        "published"
    ),
    backbone: Annotated[str, typer.Option(help="Hub id of the encoder, which the artifacts will name.")] = MINILM,
    owner: Annotated[str, typer.Option(help="Who is to push them.")] = "YOUR_NAME",
    seed: Annotated[int, typer.Option(help="Seed of all trainings.")] = 0,
    max_train_samples: Annotated[int | None, typer.Option(min=1, help="Fewer examples to train on.")] = None,
    max_eval_samples: Annotated[int | None, typer.Option(min=1, help="Fewer examples to measure on.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Fewer steps.")] = None,
) -> None:
    """Train, measure and prepare the adapters."""
    for folder in (fewrel, treebank):
        if not folder.is_dir():
            raise OSError(f"there is no directory {str(folder)!r}; name the one that holds the corpus")
    plans = [
        Plan("fac", "fac_fewrel_minilm", fewrel, "micro_f1"),
        Plan("lin", "lin_ewt_minilm", treebank, "uas"),
        Plan("lm-head", "lm_head_minilm", fewrel, "accuracy", control=False, cached=False),
        Plan("mlm", "mlm_fewrel_minilm", fewrel, "accuracy", control=False, cached=False),
    ]
    scale = Scale(max_train_samples, max_eval_samples, max_steps)
    common = ["--backbone", backbone, "--seed", str(seed), *scale.flags()]
    measured = {plan.name: list(trained(plan, output_dir, common)) for plan in plans}
    folders = [output_dir / f"kadapter-{plan.name}" for plan in plans]
    check(folders)
    write_results(plans, measured, output_dir)
    say_how_to_push(folders, owner, backbone)


def trained(plan: Plan, output_dir: Path, common: Sequence[str]) -> Iterator[float]:
    """Train an adapter and, where the plan says so, the same head without one; yield the measure of each."""
    folders: dict[Path, list[str]] = {output_dir / f"kadapter-{plan.name}": []}
    if plan.control:
        folders[output_dir / "controls" / plan.name] = ["--without_adapter", "true"]
    for folder, more in folders.items():
        flags = ["--recipe", str(RECIPES / f"{plan.recipe}.yaml"), "--data_dir", str(plan.data), *common, *more]
        if plan.name == "mlm":
            flags += ["--lm_head", str(output_dir / "kadapter-lm-head" / HEAD)]
        if plan.cached:
            flags += ["--cache_features", str(output_dir / "features")]
        if (folder / "finished.json").exists() or any(folder.glob("checkpoint-*")):
            flags += ["--resume_from_checkpoint", "last"]
        print(f"---- {folder.name}: {' '.join(flags)}", flush=True)
        results = run_adapter.main([*flags, "--output_dir", str(folder)])
        yield results[f"eval_{plan.measure}"]


def check(folders: Sequence[Path]) -> None:
    """Read each artifact again, compare it with its checksums, and use the first of them as README does.

    Raises:
        ValueError: an artifact is damaged, or has no card or results.
    """
    for folder in folders:
        where = folder / HEAD if folder.name == "kadapter-lm-head" else folder
        artifact = read_artifact(where)
        artifact.check()
        lacking = [
            name for name, values in artifact.config["adapters"].items() if not values["training"].get("results")
        ]
        if lacking or not (where / CARD).is_file():
            raise ValueError(
                f"{where} has no card, or no results of {lacking}; remove the directory and build it again"
            )
    fac, lin, *_ = folders
    model = KAdapterModel.from_pretrained([fac, lin])
    tokenizer = read_tokenizer(str(fac), model.config)
    inputs = model.encode_entities(tokenizer, [TEXT], [SPANS])
    positions = inputs.pop("entity_positions")
    features = model.eval()(**inputs).last_hidden_state[0, positions[0]]
    print(f"composed: {' + '.join(model.active_adapters())}; features of two mentions: {tuple(features.shape)}")


def write_results(plans: Sequence[Plan], measured: dict[str, list[float]], output_dir: Path) -> None:
    """Write the results side by side, as JSON and as a table, and print the table."""
    rows = ["| artifact | recipe | measure | with adapter | the same head without |", "|---|---|---|---|---|"]
    for plan in plans:
        ours, *control = measured[plan.name]
        without = f"{control[0]:.4f}" if control else "-"
        rows.append(f"| kadapter-{plan.name} | {plan.recipe} | {plan.measure} | {ours:.4f} | {without} |")
    (output_dir / "results.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    (output_dir / "results.md").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print("\n".join(rows))


def say_how_to_push(folders: Sequence[Path], owner: str, backbone: str) -> None:
    """Print the commands that push what was built, and those for roberta-large."""
    if Path(backbone).is_dir():
        print(
            f"{backbone} is a directory of this machine, which the artifacts name: build with a Hub id before pushing"
        )
    print("\nTo push, after `hf auth login`:\n")
    for folder in folders:
        where = folder / HEAD if folder.name == "kadapter-lm-head" else folder
        print(f"kadapter push {where} {owner}/{folder.name}-minilm")
    print(f"\n{LARGE}")


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        sys.exit(f"adapters: {error}")
