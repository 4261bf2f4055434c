"""Compares rows of the downstream results table: one grid for all, chosen on validation, then read once on test.

    python benchmarks/study.py --task wiki80 --data-dir DIR --backbone DIR --fac OUT_FAC --lin OUT_LIN -o OUT
    kadapter report OUT/test

Each row and share of the training data runs the grid of learning rates with the first seed; the rate with the best
mean on validation is written to OUT/chosen.json and runs with all seeds on test. A killed study goes on where it
stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from kadapter.trainers import run_task
from kadapter.trainers.outputs import replace_file

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SEEDS, GRID_SEEDS = range(5), range(1)
LEARNING_RATES = ("3e-4", "1e-3", "3e-3")
EPOCHS = {0.1: 40, 1.0: 15}  # so many passes train every row to the end


def main(
    task: Annotated[str, typer.Option(help="Task; recipes/study_TASK.yaml has what all its runs share.")],
    data_dir: Annotated[Path, typer.Option(help="The task's corpus.")],
    backbone: Annotated[str, typer.Option(help="The adapters' frozen encoder.")],
    fac: Annotated[Path, typer.Option(help="Artifact of the factual adapter.")],
    lin: Annotated[Path, typer.Option(help="Artifact of the linguistic adapter.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Where all runs go.")],
    exclude: Annotated[str | None, typer.Option(help="CORPUS=DIR, whose sentences are left out of the task.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Rows to run, such as fac+lin.gated; all by default.")] = None,
) -> None:
    """Run the grid and then the test runs of every row and share."""
    shared = ["--recipe", RECIPES / f"study_{task}.yaml", "--data_dir", data_dir, "--backbone", backbone]
    shared += ["--exclude", exclude] if exclude else []
    chosen_file = output_dir / "chosen.json"
    chosen = json.loads(chosen_file.read_text(encoding="utf-8")) if chosen_file.is_file() else {}
    for share, epochs in EPOCHS.items():
        for name, flags in rows(fac, lin):
            if only and name not in only:
                continue
            place = f"{share:g}/{name}"
            given = [*shared, *flags, "--train_fraction", share, "--num_train_epochs", epochs]
            if place not in chosen:
                grid = output_dir / "grid" / place
                run(given, grid, GRID_SEEDS, "--eval_split", "validation", "--learning_rates", *LEARNING_RATES)
                chosen[place] = best(grid)
                replace_file(chosen_file, json.dumps(chosen, indent=2))
            final = output_dir / "test" / place
            run(given, final, SEEDS, "--eval_split", "test", "--learning_rate", chosen[place]["learning_rate"])


def rows(fac: Path, lin: Path) -> Iterator[tuple[str, list]]:
    """Yield every row of the table: its name, and its adapters and fusion as flags."""
    alone = {"backbone": ["none"], "taps": ["taps"], "random": ["random", fac, lin]}
    known = {"fac": [fac], "lin": [lin], "fac+lin": [fac, lin]}
    third = {"fac+lin+random": [fac, lin, "random", fac]}
    for fusion, several in (("concat", alone | known), ("gated", alone | known | third)):
        for name, adapters in several.items():
            yield f"{name}.{fusion}", ["--fusion", fusion, "--adapters", *adapters]


def run(given: list, output_dir: Path, seeds: range, *more: object) -> None:
    """Run what of a sweep has not finished yet."""
    flags = [*given, "--seeds", *seeds, "--output_dir", output_dir, "--resume_from_checkpoint", "last", *more]
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
