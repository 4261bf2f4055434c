"""Trains variants of one knowledge adapter, each changed in one thing, and tabulates what the change is worth.

    python experiments/ablations.py --recipe recipes/ablations_minilm.yaml --backbone DIR --data-dir DIR -o OUT
        [--task-data-dir DIR --exclude CORPUS=DIR] [-- FLAGS OF run_adapter.py FOR ALL]

The recipe says how all are pre-trained, which flags a variant changes, and on which downstream task they are put to
work, if its data is given: then OUT/report compares the variants there with the unchanged one, by the paired
bootstrap. OUT/ablations.md and OUT/ablations.json hold the results of pre-training. A killed run goes on where it
stopped.
"""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

import typer
import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from kadapter.reports.report import report
from kadapter.trainers import pretraining, run_adapter, run_task
from kadapter.trainers.common.arguments import parse_arguments
from kadapter.trainers.common.atomic_files import replace_file

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "ablations_minilm.yaml"
PARTS = ("pretraining", "downstream", "variants")
BASE = "base"


@dataclass(frozen=True)
class Variant:
    """One adapter: its group, its name in it, and the flags by which it differs."""

    group: str
    name: str
    changed: dict[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.group}: {self.name}" if self.group else self.name

    @property
    def folder(self) -> str:
        """The name of its directories."""
        return "".join(letter if letter.isalnum() else "-" for letter in str(self)).replace("--", "-")


def main(
    backbone: Annotated[str, typer.Option(help="The frozen encoder: Hub id or directory.")],
    data_dir: Annotated[Path, typer.Option(help="Corpus of the pre-training recipe.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Where adapters, runs and tables go.")],
    recipe: Annotated[Path, typer.Option(help="What is varied, and how.")] = RECIPE,
    task_data_dir: Annotated[Path | None, typer.Option(help="Corpus of the downstream task.")] = None,
    exclude: Annotated[str | None, typer.Option(help="CORPUS=DIR, whose sentences are left out of the task.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of pre-training; the task is run on the first.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Groups to run, such as layers; all by default.")] = None,
    more: Annotated[list[str] | None, typer.Argument(help="After --: flags of run_adapter.py for all.")] = None,
) -> None:
    """Pre-train all variants, put them to work if a task is given, and write the tables."""
    told = read_recipe(recipe)
    variants = variants_of(told["variants"], only, recipe)
    place = ["--backbone", backbone, "--data_dir", str(data_dir)]
    shared = [*flags_of(told["pretraining"], recipe.parent), *place]
    given = {one: [*shared, *flags_of(one.changed, recipe.parent), *(more or [])] for one in variants}
    for one, flags in given.items():
        check(one, [*flags, "--output_dir", str(output_dir)])
    results = pretrain_all(given, output_dir, range(seeds))
    metric = pretraining.load(parse_arguments([*shared, *(more or []), "--output_dir", "."])[1].objective).metric
    replace_file(output_dir / "ablations.md", markdown(drawn(given, results, metric)))
    Console().print(drawn(given, results, metric))
    if task_data_dir is not None:
        shared = flags_of(told["downstream"], recipe.parent)
        shared += [
            "--backbone",
            backbone,
            "--data_dir",
            str(task_data_dir),
            *(["--exclude", exclude] if exclude else []),
        ]
        for one in variants:
            put_to_work(one, shared, output_dir)
        report([output_dir / "task"], output_dir / "report", [BASE])


# ---- the recipe ---------------------------------------------------------------------------------------------------


def read_recipe(path: Path) -> dict[str, dict[str, Any]]:
    """Read which flags all variants have, and which each changes.

    Raises:
        ValueError: it can't be read, or lacks a part.
    """
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"recipe {str(path)!r} can't be read: {error}") from error
    for part in PARTS:
        if not isinstance(told, dict) or not isinstance(told.get(part), dict):
            raise ValueError(f"recipe {str(path)!r} must map {part!r} to flags and values, like {RECIPE.name}")
    return told


def variants_of(groups: dict[str, dict[Any, dict[str, Any]]], only: list[str] | None, path: Path) -> list[Variant]:
    """Return the unchanged adapter and the variants of the chosen groups.

    Raises:
        ValueError: a chosen group is not there, or a variant is no mapping.
    """
    if unknown := set(only or ()) - groups.keys():
        raise ValueError(f"--only {min(unknown)!r} is no group of {str(path)!r}; there are {', '.join(groups)}")
    variants = [Variant("", BASE, {})]
    for group, named in groups.items():
        for name, changed in (named or {}).items():
            if not isinstance(changed, dict):
                raise ValueError(f"recipe {str(path)!r}: {group}: {name} must map flags to values, not {changed!r}")
            if not only or group in only:
                variants.append(Variant(group, str(name), changed))
    return variants


def flags_of(values: dict[str, Any], folder: Path) -> list[str]:
    """Return values as flags; a recipe among them is looked for beside the recipe that names it."""
    flags = []
    for name, value in values.items():
        value = folder / value if name == "recipe" else value
        flags += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def check(variant: Variant, flags: list[str]) -> None:
    """Refuse, before anything is trained, flags that do not exist.

    Raises:
        ValueError: one does not, or a required one is missing.
    """
    try:
        parse_arguments(flags)
    except ValueError as error:
        raise ValueError(f"variant {str(variant)!r}: {error}") from error


# ---- the runs -----------------------------------------------------------------------------------------------------


def pretrain_all(given: dict[Variant, list[str]], output_dir: Path, seeds: range) -> dict[str, dict[str, Any]]:
    """Train what of the variants has not been trained, and return the results of all by variant and seed.

    Raises:
        ValueError: an earlier run in the directory had other flags.
    """
    file = output_dir / "ablations.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for one, flags in given.items():
        for seed in seeds:
            name = f"{one}, seed {seed}"
            if name in found and found[name]["flags"] != flags:
                raise ValueError(f"{str(file)!r} holds {name!r} by other flags; choose another --output-dir")
            if name not in found:
                print(f"== {name}", flush=True)
                folder = output_dir / "adapters" / one.folder / f"seed-{seed}"
                own = ["--output_dir", str(folder), "--seed", str(seed), "--resume_from_checkpoint", "last"]
                results = run_adapter.main([*flags, *own])
                found[name] = {"flags": flags, "parameters": parameters(folder), "results": results}
                replace_file(file, json.dumps(found, indent=2))
    return {name: found[name] for one in given for seed in seeds if (name := f"{one}, seed {seed}")}


def parameters(folder: Path) -> int:
    """Return the number of parameters of an adapter; 0 where none was saved."""
    path = folder / "model.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)


def put_to_work(variant: Variant, shared: list[str], output_dir: Path) -> None:
    """Train a task's head beside the variant, once with each seed, as far as that was not done."""
    adapter = output_dir / "adapters" / variant.folder / "seed-0"
    given = "none" if variant.changed.get("without_adapter") else str(adapter)
    flags = [*shared, "--adapters", given, "--fusion", variant.changed.get("fusion", "concat"), "--row", str(variant)]
    folder = output_dir / "task" / variant.folder
    run_task.main([*flags, "--output_dir", str(folder), "--resume_from_checkpoint", "last"])


# ---- the table ----------------------------------------------------------------------------------------------------


def drawn(given: dict[Variant, list[str]], results: dict[str, dict[str, Any]], metric: str) -> Table:
    """Return the table of pre-training: a row for each variant, the unchanged one first."""
    table = Table("what", "variant", "parameters", metric, f"less {BASE}", box=box.SIMPLE)
    means: dict[Variant, float] = {}
    for one in given:
        runs = [run for name, run in results.items() if name.rpartition(", seed ")[0] == str(one)]
        scores = [run["results"][f"eval_{metric}"] for run in runs]
        means[one] = fmean(scores)
        spread = f" ± {stdev(scores):.4f}" if len(scores) > 1 else ""
        less = f"{means[one] - next(iter(means.values())):+.4f}" if one.group else ""
        table.add_row(one.group, one.name, f"{runs[0]['parameters']:,}", f"{means[one]:.4f}{spread}", less)
    return table


def markdown(table: Table) -> str:
    """Return the table as Markdown."""
    table.box, file = box.MARKDOWN, io.StringIO()
    Console(file=file, width=200).print(table)
    return "\n".join(line.strip() for line in file.getvalue().splitlines() if line.strip())


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        sys.exit(f"ablations: {error}")
