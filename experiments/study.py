"""Run all rows of the downstream results table: a grid for each, chosen on validation and measured once on test.

    python experiments/study.py --task wiki80 --data-dir DIR --backbone DIR --fac OUT_FAC --lin OUT_LIN -o OUT
    kadapter report OUT/test

For each row and share of the training data, the grid of learning rates is run with the first seed. The rate with the
best mean on validation is written to OUT/chosen.json and run with all seeds on test. With `--train-backbone` the
encoder is trained too; with `--folds` this is done in each round of a cross-validation, which the report counts as a
single run. All rows and both shares of Wiki80 take roughly one to two hours on two cores with all-MiniLM-L6-v2, since
its frozen hidden states are computed only once. An interrupted study resumes where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from kadapter import KAdapterConfig
from kadapter.data_builders import FOLDS
from kadapter.trainers import run_task
from kadapter.trainers.common.atomic_files import replace_file
from kadapter.trainers.common.entry_point import run_program

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
FROZEN_RATES, TRAINED_RATES = ("3e-4", "1e-3", "3e-3"), ("2e-4",)  # the latter was better than 5e-5 for the encoder
FROZEN_EPOCHS, TRAINED_EPOCHS = {0.1: 40, 1.0: 15}, {0.1: 10, 1.0: 3}  # enough for every row to converge


def main(
    task: Annotated[str, typer.Option(help="Name of the task; recipes/study_TASK.yaml holds the flags of all runs.")],
    data_dir: Annotated[Path, typer.Option(help="Directory of the task's corpus.")],
    backbone: Annotated[str, typer.Option(help="The frozen encoder of the adapters: Hub id or directory.")],
    fac: Annotated[Path, typer.Option(help="Artifact of the factual adapter.")],
    lin: Annotated[Path, typer.Option(help="Artifact of the linguistic adapter.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Directory for all runs.")],
    exclude: Annotated[str | None, typer.Option(help="CORPUS=DIR whose sentences are left out of the task.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Rows to run, such as fac+lin.gated; all by default.")] = None,
    shares: Annotated[list[float] | None, typer.Option("--share", help="0.1 or 1.0; both by default.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds on test.")] = 5,
    folds: Annotated[bool, typer.Option("--folds", help="Cross-validate on the folds of the corpus.")] = False,
    train_backbone: Annotated[bool, typer.Option("--train-backbone", help="Train the encoder too.")] = False,
    more: Annotated[list[str] | None, typer.Argument(help="After --: flags of run_task.py for all runs.")] = None,
) -> None:
    """Run the grid, and then the test runs, of every row and share."""
    shared = ["--recipe", RECIPES / f"study_{task}.yaml", "--data_dir", data_dir, "--backbone", backbone]
    shared += [*(["--exclude", exclude] if exclude else []), "--freeze_backbone", not train_backbone, *(more or [])]
    study = Study(output_dir, TRAINED_RATES if train_backbone else FROZEN_RATES, seeds)
    epochs = TRAINED_EPOCHS if train_backbone else FROZEN_EPOCHS
    if unknown := sorted({*(shares or ())} - epochs.keys()):
        raise typer.BadParameter(f"--share {unknown[0]} has no number of epochs; there are {[*epochs]}")
    for share in shares or epochs:
        for name, flags in rows(fac, lin):
            for fold in range(FOLDS) if folds else [None]:
                key = f"{share:g}/{name}" if fold is None else f"{share:g}/{name}/fold-{fold}"
                argv = [*shared, *flags, "--train_fraction", share, "--num_train_epochs", epochs[share]]
                if not only or name in only:
                    study.row(key, argv if fold is None else [*argv, "--fold", fold])


@dataclass
class Study:
    """A study: its directory, and the learning rates and seeds of all its rows."""

    output_dir: Path
    learning_rates: Sequence[str]
    seeds: int

    def row(self, key: str, argv: list) -> None:
        """Choose the learning rate of a row on validation and run all seeds on test, unless already done."""
        rate = self.learning_rates[0] if len(self.learning_rates) == 1 else self._choose(key, argv)
        run(argv, self.output_dir / "test" / key, self.seeds, "--eval_split", "test", "--learning_rate", rate)

    def _choose(self, key: str, argv: list) -> str:
        chosen_file = self.output_dir / "chosen.json"
        chosen = json.loads(chosen_file.read_text(encoding="utf-8")) if chosen_file.is_file() else {}
        if key not in chosen:
            grid = self.output_dir / "grid" / key
            run(argv, grid, 1, "--eval_split", "validation", "--learning_rates", *self.learning_rates)
            chosen[key] = best(grid)
            replace_file(chosen_file, json.dumps(chosen, indent=2))
        return chosen[key]["learning_rate"]


def rows(fac: Path, lin: Path) -> Iterator[tuple[str, list]]:
    """Yield every row of the table: its name, and its adapters and fusion as flags; `taps` reads the layers of fac."""
    (layers,) = (adapter["layers"] for adapter in KAdapterConfig.from_pretrained(fac).adapters.values())
    controls = {"backbone": ["none"], "taps": ["taps", "--layers", *layers], "random": ["random", fac, lin]}
    trained = {"fac": [fac], "lin": [lin], "fac+lin": [fac, lin]}
    mixed = {"fac+lin+random": [fac, lin, "random", fac]}
    good = {name: trained[name] for name in ("fac", "fac+lin")}
    table = {"concat": controls | trained, "gated": controls | trained | mixed, "gated_token": good | mixed}
    for fusion, named in table.items():
        for name, adapters in named.items():
            yield f"{name}.{fusion}", ["--fusion", fusion, "--adapters", *adapters]


def run(argv: list, output_dir: Path, seeds: int, *more: object) -> None:
    """Run the trials of a sweep that have not finished yet."""
    flags = [*argv, "--seeds", *range(seeds), "--output_dir", output_dir, "--resume_from_checkpoint", "last", *more]
    run_task.main([str(flag) for flag in flags])


def best(grid: Path) -> dict[str, float | str]:
    """Return the learning rate of the grid with the best mean headline result on validation, and this mean."""
    means = {}
    for trial in grid.glob("lr-*"):
        runs = [path.parent for path in trial.glob("*/run.json")]
        key = json.loads((runs[0] / "run.json").read_text(encoding="utf-8"))["metric"]["key"]
        results = [json.loads((folder / "all_results.json").read_text(encoding="utf-8")) for folder in runs]
        means[trial.name.removeprefix("lr-")] = fmean(result[f"eval_{key}"] for result in results)
    rate = max(means, key=means.__getitem__)
    return {"learning_rate": rate, "validation": means[rate]}


if __name__ == "__main__":
    run_program(partial(typer.run, main))
