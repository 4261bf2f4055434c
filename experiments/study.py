"""Compares rows of the downstream results table: one grid for all, chosen on validation, then read once on test.

    python experiments/study.py --task wiki80 --data-dir DIR --backbone DIR --fac OUT_FAC --lin OUT_LIN -o OUT
    kadapter report OUT/test

Each row and share of the training data runs the grid of learning rates with the first seed; the rate with the best
mean on validation is written to OUT/chosen.json and runs with all seeds on test. `--train-backbone` does the same
with the encoder trained too, `--folds` in each round of a cross-validation, which the report counts as one run. A
killed study goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from kadapter import KAdapterConfig
from kadapter.data_builders import FOLDS
from kadapter.trainers import run_task
from kadapter.trainers.common.atomic_files import replace_file

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
FROZEN_RATES, TRAINED_RATES = ("3e-4", "1e-3", "3e-3"), ("2e-4",)  # the latter beat 5e-5 for the encoder alone
FROZEN_EPOCHS, TRAINED_EPOCHS = {0.1: 40, 1.0: 15}, {0.1: 10, 1.0: 3}  # so many passes train every row to the end


def main(
    task: Annotated[str, typer.Option(help="Task; recipes/study_TASK.yaml has what all its runs share.")],
    data_dir: Annotated[Path, typer.Option(help="The task's corpus.")],
    backbone: Annotated[str, typer.Option(help="The adapters' frozen encoder.")],
    fac: Annotated[Path, typer.Option(help="Artifact of the factual adapter.")],
    lin: Annotated[Path, typer.Option(help="Artifact of the linguistic adapter.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Where all runs go.")],
    exclude: Annotated[str | None, typer.Option(help="CORPUS=DIR, whose sentences are left out of the task.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Rows to run, such as fac+lin.gated; all by default.")] = None,
    shares: Annotated[list[float] | None, typer.Option("--share", help="0.1, 1.0, or by default both.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds on test, from 0.")] = 5,
    folds: Annotated[bool, typer.Option("--folds", help="Cross-validate: each fold of the corpus in turn.")] = False,
    train_backbone: Annotated[bool, typer.Option("--train-backbone", help="Train the encoder too.")] = False,
    more: Annotated[list[str] | None, typer.Argument(help="After --: flags of run_task.py for all.")] = None,
) -> None:
    """Run the grid and then the test runs of every row and share."""
    shared = ["--recipe", RECIPES / f"study_{task}.yaml", "--data_dir", data_dir, "--backbone", backbone]
    shared += [*(["--exclude", exclude] if exclude else []), "--freeze_backbone", not train_backbone, *(more or [])]
    study = Study(output_dir, TRAINED_RATES if train_backbone else FROZEN_RATES, seeds)
    epochs = TRAINED_EPOCHS if train_backbone else FROZEN_EPOCHS
    if unknown := sorted({*(shares or ())} - epochs.keys()):
        raise typer.BadParameter(f"--share {unknown[0]} has no number of epochs; there are {[*epochs]}")
    for share in shares or epochs:
        for name, flags in rows(fac, lin):
            for fold in range(FOLDS) if folds else [None]:
                place = f"{share:g}/{name}" if fold is None else f"{share:g}/{name}/fold-{fold}"
                given = [*shared, *flags, "--train_fraction", share, "--num_train_epochs", epochs[share]]
                if not only or name in only:
                    study.row(place, given if fold is None else [*given, "--fold", fold])


@dataclass
class Study:
    """The directory of a study, and what all its rows have in common."""

    output_dir: Path
    learning_rates: Sequence[str]
    seeds: int

    def row(self, place: str, given: list) -> None:
        """Choose the learning rate of a row on validation and run all seeds on test, as far as that is not done."""
        rate = self.learning_rates[0] if len(self.learning_rates) == 1 else self._choose(place, given)
        run(given, self.output_dir / "test" / place, self.seeds, "--eval_split", "test", "--learning_rate", rate)

    def _choose(self, place: str, given: list) -> str:
        chosen_file = self.output_dir / "chosen.json"
        chosen = json.loads(chosen_file.read_text(encoding="utf-8")) if chosen_file.is_file() else {}
        if place not in chosen:
            grid = self.output_dir / "grid" / place
            run(given, grid, 1, "--eval_split", "validation", "--learning_rates", *self.learning_rates)
            chosen[place] = best(grid)
            replace_file(chosen_file, json.dumps(chosen, indent=2))
        return chosen[place]["learning_rate"]


def rows(fac: Path, lin: Path) -> Iterator[tuple[str, list]]:
    """Yield every row of the table: its name, and its adapters and fusion as flags; `taps` sees what fac sees."""
    (seen,) = (one["layers"] for one in KAdapterConfig.from_pretrained(fac).adapters.values())
    alone = {"backbone": ["none"], "taps": ["taps", "--layers", *seen], "random": ["random", fac, lin]}
    known = {"fac": [fac], "lin": [lin], "fac+lin": [fac, lin]}
    third = {"fac+lin+random": [fac, lin, "random", fac]}
    for fusion, several in (("concat", alone | known), ("gated", alone | known | third)):
        for name, adapters in several.items():
            yield f"{name}.{fusion}", ["--fusion", fusion, "--adapters", *adapters]


def run(given: list, output_dir: Path, seeds: int, *more: object) -> None:
    """Run what of a sweep has not finished yet."""
    flags = [*given, "--seeds", *range(seeds), "--output_dir", output_dir, "--resume_from_checkpoint", "last", *more]
    run_task.main([str(flag) for flag in flags])


def best(grid: Path) -> dict[str, float | str]:
    """Return the learning rate of the grid with the best mean headline on validation, and that mean."""
    means = {}
    for trial in grid.glob("lr-*"):
        runs = [path.parent for path in trial.glob("*/run.json")]
        key = json.loads((runs[0] / "run.json").read_text(encoding="utf-8"))["metric"]["key"]
        results = [json.loads((one / "all_results.json").read_text(encoding="utf-8")) for one in runs]
        means[trial.name.removeprefix("lr-")] = fmean(one[f"eval_{key}"] for one in results)
    rate = max(means, key=means.__getitem__)
    return {"learning_rate": rate, "validation": means[rate]}


if __name__ == "__main__":
    typer.run(main)
