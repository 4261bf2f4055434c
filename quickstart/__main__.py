"""Train a factual and a linguistic adapter on the bundled corpora, compose them, and measure what each contributes.

    make quickstart
    python -m kadapter.quickstart [--backbone ID_OR_PATH] [--output-dir DIR]

Fresh heads for relations (micro-F1) and syntax (UAS) are trained on the frozen features of the backbone, of each
adapter and of both, and measured on held-out sentences. With the default encoder, downloaded once (84 MB), it takes
about two minutes on two cores.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Annotated

import matplotlib
import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm
from transformers import AutoTokenizer

from kadapter import KAdapterModel
from kadapter.quickstart.backbone import MINILM
from kadapter.trainers import run_adapter
from kadapter.trainers.probing import Probe

matplotlib.use("Agg")
from matplotlib import pyplot

HERE = Path(__file__).parent
PROBES = {
    "relation micro-F1": Probe("factual", "texts_and_triples", HERE / "facts"),
    "head UAS": Probe("linguistic", "conllu", HERE / "grammar"),
}
DATA = {"fac": HERE / "facts", "lin": HERE / "grammar"}


def main(
    backbone: Annotated[str | None, typer.Option(help="Hub id or directory; by default all-MiniLM-L6-v2.")] = None,
    output_dir: Annotated[Path, typer.Option(help="Directory of adapters and scores.")] = Path("quickstart-run"),
    max_steps: Annotated[int, typer.Option(help="Steps of each training; by default as in its recipe.")] = -1,
    seeds: Annotated[int, typer.Option(help="Number of seeds of the fresh heads.", min=1)] = 3,
) -> None:
    """Train fac, then lin, compose them, and compare fresh heads on the features of each."""
    console = Console()
    source = backbone or str(MINILM.folder())
    output_dir.mkdir(parents=True, exist_ok=True)
    for name, data_dir in DATA.items():
        console.rule(f"training the adapter {name}")
        flags = {"recipe": HERE.parent / "recipes" / f"quickstart_{name}.yaml", "backbone": source}
        flags.update(data_dir=data_dir, output_dir=output_dir / f"kadapter-{name}", overwrite_output_dir="true")
        flags.update(max_steps=max_steps)
        with TemporaryDirectory(prefix=".features-", dir=output_dir) as cache:  # the encoder reads each sentence once
            flags.update(cache_features=cache)
            run_adapter.main([str(word) for flag, value in flags.items() for word in (f"--{flag}", value)])
    console.rule("composing kadapter-fac+lin and training the same fresh head on each model")
    scores = compare(output_dir, source, range(seeds), max_steps)
    (output_dir / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    console.print(table(scores))
    plot(scores, output_dir / "scores.png")
    console.print(f"adapters, scores.json and scores.png are in {output_dir}")


def compare(
    output_dir: Path, source: str, seeds: Sequence[int], max_steps: int = -1
) -> dict[str, dict[str, list[float]]]:
    """Return the scores by seed of the same fresh head on the frozen features of each model, by model and task."""
    model = KAdapterModel.from_pretrained(f"{output_dir}/kadapter-fac+lin")
    tokenizer = AutoTokenizer.from_pretrained(source)
    subsets: tuple[list[str], ...] = ([], ["fac"], ["lin"], ["fac", "lin"])
    models = {"+ " + "+".join(names) if names else "backbone": names for names in subsets}
    scores: dict[str, dict[str, list[float]]] = {label: {} for label in models}
    for task, probe in PROBES.items():
        features = replace(probe, max_steps=max_steps).read(model, tokenizer, f"{task}: reading the held-out split")
        for label, names in tqdm(models.items(), desc=f"{task}: training heads on each model"):
            scores[label][task] = features.scores(names, seeds)
    return scores


def table(scores: dict[str, dict[str, list[float]]]) -> Table:
    """Return a table of the scores: a row for each model, a column for each task."""
    drawn = Table(title="a fresh head on frozen features, held-out part: mean over seeds ± standard deviation")
    drawn.add_column("model")
    for task in PROBES:
        drawn.add_column(task, justify="right")
    for label, by_task in scores.items():
        drawn.add_row(label, *(f"{mean(values):.3f} ± {spread(values):.3f}" for values in by_task.values()))
    return drawn


def spread(values: list[float]) -> float:
    """Return the standard deviation over seeds; zero for a single seed."""
    return stdev(values) if len(values) > 1 else 0.0


def plot(scores: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Write a bar chart of the scores, with a panel for each task."""
    figure, axes = pyplot.subplots(1, len(PROBES), figsize=(8, 3.2), layout="constrained")
    for axis, task in zip(axes, PROBES, strict=True):
        means = [mean(by_task[task]) for by_task in scores.values()]
        spreads = [spread(by_task[task]) for by_task in scores.values()]
        bars = axis.bar(list(scores), means, yerr=spreads, color=["#9aa5b1", "#2f6f9f", "#c2703d", "#5b8c5a"])
        axis.bar_label(bars, fmt="%.3f")
        axis.set(title=task, ylim=(0, 1))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        sys.exit(f"quickstart: {error}")
