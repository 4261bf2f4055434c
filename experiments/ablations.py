"""Train variants of a knowledge adapter that each change a single setting, and tabulate the effect of each change.

    python experiments/ablations.py --recipe recipes/ablations_minilm.yaml --backbone DIR --data-dir DIR -o OUT
        [--task-data-dir DIR --exclude CORPUS=DIR] [-- FLAGS OF run_adapter.py FOR ALL]

The recipe sets how all variants are pre-trained, which flags each variant changes, and on which downstream task they
are compared. OUT/ablations.md and OUT/ablations.json hold the results of pre-training. With the task's data,
OUT/report compares the variants on the task with the unchanged adapter, by the paired bootstrap. The default recipe
takes about two hours on one core. An interrupted run resumes where it stopped.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
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

from kadapter.reports.report import report, text_of
from kadapter.trainers import pretraining, run_adapter, run_task
from kadapter.trainers.common.arguments import parse_arguments
from kadapter.trainers.common.atomic_files import replace_file
from kadapter.trainers.common.entry_point import run_program

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "ablations_minilm.yaml"
SECTIONS = ("pretraining", "downstream", "variants")
BASE = "base"


@dataclass(frozen=True)
class Variant:
    """A variant of the adapter: its group, its name in the group, and the flags that it changes."""

    group: str
    name: str
    changed: dict[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.group}: {self.name}" if self.group else self.name

    @property
    def folder(self) -> str:
        """The name of the variant's directories."""
        return "".join(letter if letter.isalnum() else "-" for letter in str(self)).replace("--", "-")


def main(
    backbone: Annotated[str, typer.Option(help="The frozen encoder: Hub id or directory.")],
    data_dir: Annotated[Path, typer.Option(help="Directory of the pre-training corpus.")],
    output_dir: Annotated[Path, typer.Option("--output-dir", "-o", help="Directory for adapters, runs and tables.")],
    recipe: Annotated[Path, typer.Option(help="Recipe of the variants.")] = RECIPE,
    task_data_dir: Annotated[Path | None, typer.Option(help="Directory of the downstream task's corpus.")] = None,
    exclude: Annotated[str | None, typer.Option(help="CORPUS=DIR whose sentences are left out of the task.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of pre-training seeds; the task uses the first.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Groups to run, such as layers; all by default.")] = None,
    more: Annotated[list[str] | None, typer.Argument(help="After --: flags of run_adapter.py for all.")] = None,
) -> None:
    """Pre-train all variants, train them on the task if its data is there, and write the tables."""
    content = read_recipe(recipe)
    variants = variants_of(content["variants"], only, recipe)
    shared = [*flags_of(content["pretraining"], recipe.parent), "--backbone", backbone, "--data_dir", str(data_dir)]
    flags = {variant: [*shared, *flags_of(variant.changed, recipe.parent), *(more or [])] for variant in variants}
    for variant in variants:
        check(variant, [*flags[variant], "--output_dir", str(output_dir)])
    results = pretrain_all(flags, output_dir, range(seeds))
    metric = pretraining.load(parse_arguments([*shared, *(more or []), "--output_dir", "."])[1].objective).metric
    table = table_of(variants, results, metric)
    Console().print(table)
    replace_file(output_dir / "ablations.md", text_of(table, box.MARKDOWN))
    if task_data_dir is not None:
        shared = flags_of(content["downstream"], recipe.parent)
        shared += ["--backbone", backbone, "--data_dir", str(task_data_dir)]
        shared += ["--exclude", exclude] if exclude else []
        for variant in variants:
            train_on_task(variant, shared, output_dir)
        report([output_dir / "task"], output_dir / "report", [BASE])


# ---- the recipe ---------------------------------------------------------------------------------------------------


def read_recipe(path: Path) -> dict[str, dict[str, Any]]:
    """Read the flags that all variants share, and the flags that each of them changes.

    Raises:
        ValueError: it can't be read, or has no such section.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"recipe {str(path)!r} can't be read: {error}") from error
    for section in SECTIONS:
        if not isinstance(content, dict) or not isinstance(content.get(section), dict):
            raise ValueError(f"recipe {str(path)!r} must map {section!r} to flags and values, like {RECIPE.name}")
    return content


def variants_of(groups: dict[str, dict[Any, dict[str, Any]]], only: list[str] | None, path: Path) -> list[Variant]:
    """Return the unchanged adapter and the variants of the chosen groups.

    Raises:
        ValueError: a chosen group does not exist, or a variant is not a mapping.
    """
    if unknown := set(only or ()) - groups.keys():
        raise ValueError(f"--only {min(unknown)!r} is no group of {str(path)!r}; the groups are {', '.join(groups)}")
    variants = [Variant("", BASE, {})]
    for group, named in groups.items():
        for name, changed in (named or {}).items():
            if not isinstance(changed, dict):
                raise ValueError(f"recipe {str(path)!r}: {group}: {name} must map flags to values, not {changed!r}")
            if not only or group in only:
                variants.append(Variant(group, str(name), changed))
    return variants


def flags_of(values: dict[str, Any], folder: Path) -> list[str]:
    """Return values as flags; the path of a recipe among them is relative to the recipe that names it."""
    flags = []
    for name, value in values.items():
        value = folder / value if name == "recipe" else value
        flags += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return flags


def check(variant: Variant, flags: list[str]) -> None:
    """Check the flags of a variant before anything is trained.

    Raises:
        ValueError: a flag does not exist, or a required flag is missing.
    """
    try:
        parse_arguments(flags)
    except ValueError as error:
        raise ValueError(f"variant {str(variant)!r}: {error}") from error


# ---- the runs -----------------------------------------------------------------------------------------------------


def pretrain_all(flags: dict[Variant, list[str]], output_dir: Path, seeds: range) -> dict[str, dict[str, Any]]:
    """Train the variants that have not been trained yet, and return the results of all by variant and seed.

    Raises:
        ValueError: an earlier run in the directory had different flags.
    """
    file = output_dir / "ablations.json"
    runs = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for variant in flags:
        for seed in seeds:
            name = f"{variant}, seed {seed}"
            if name in runs and runs[name]["flags"] != flags[variant]:
                raise ValueError(f"{str(file)!r} holds {name!r} with different flags; choose another --output-dir")
            if name not in runs:
                print(f"== {name}", flush=True)
                folder = output_dir / "adapters" / variant.folder / f"seed-{seed}"
                own = ["--output_dir", str(folder), "--seed", str(seed), "--resume_from_checkpoint", "last"]
                results = run_adapter.main([*flags[variant], *own])
                runs[name] = {"flags": flags[variant], "parameters": parameters(folder), "results": results}
                replace_file(file, json.dumps(runs, indent=2))
    return {name: runs[name] for variant in flags for seed in seeds if (name := f"{variant}, seed {seed}")}


def parameters(folder: Path) -> int:
    """Return the number of parameters of an adapter; 0 if no adapter was saved."""
    path = folder / "model.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, "pt") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 (no mapping)


def train_on_task(variant: Variant, shared: list[str], output_dir: Path) -> None:
    """Train a head for the task on the variant, with each seed that has not been run yet."""
    adapter = output_dir / "adapters" / variant.folder / "seed-0"
    adapters = "none" if variant.changed.get("without_adapter") else str(adapter)
    fusion = variant.changed.get("fusion", "concat")
    flags = [*shared, "--adapters", adapters, "--fusion", fusion, "--row", str(variant)]
    folder = output_dir / "task" / variant.folder
    run_task.main([*flags, "--output_dir", str(folder), "--resume_from_checkpoint", "last"])


# ---- the table ----------------------------------------------------------------------------------------------------


def table_of(variants: list[Variant], results: dict[str, dict[str, Any]], metric: str) -> Table:
    """Return the table of pre-training: a row for each variant, the unchanged adapter first."""
    table = Table("what", "variant", "parameters", metric, f"less {BASE}", box=box.SIMPLE)
    base = 0.0
    for variant in variants:
        runs = [run for name, run in results.items() if name.rpartition(", seed ")[0] == str(variant)]
        scores = [run["results"][f"eval_{metric}"] for run in runs]
        mean = fmean(scores)
        base = base if variant.group else mean
        spread = f" ± {stdev(scores):.4f}" if len(scores) > 1 else ""
        less = f"{mean - base:+.4f}" if variant.group else ""
        table.add_row(variant.group, variant.name, f"{runs[0]['parameters']:,}", f"{mean:.4f}{spread}", less)
    return table


if __name__ == "__main__":
    run_program(partial(typer.run, main))
