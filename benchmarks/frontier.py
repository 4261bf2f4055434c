"""Compare quality at equal CPU time: our adapters beside a frozen encoder, LoRA in it, and training it as a whole.

    python benchmarks/frontier.py --data-dir FEWREL --backbone DIR --budget 600 --rounds 3 --plot frontier.svg
    python benchmarks/frontier.py --objective linguistic --data-dir TREEBANK --backbone DIR --budget 600

"ours-published", "ours-lean" and "ours-top-K" (copies of the encoder's last K blocks) learn on hidden states that are
kept once they were read; with "-uncached" the encoder reads in every epoch. "lora-R" has LoRA weights of rank R in all
Linears of the blocks, "full" trains all of the encoder. All have the same head, batches and optimizer, one thread and
float32. Each has its own best of three rates: that with the best score on half of what is held out, after one run; the
other half is reported, for as many seeds as there are rounds. The rate falls to zero with the budget. Reading counts,
measuring does not.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Literal

import _commands as commands
import typer
from _plots import Curves, draw
from _rounds import Results, play
from _tables import report, write_json

RATES = {
    "ours": (3e-4, 5e-4, 1e-3),
    "ours-top": (2e-4, 3e-4, 5e-4),
    "lora": (5e-4, 1e-3, 2e-3),
    "full": (5e-5, 1e-4, 2e-4),
}
NAMES = {
    "ours-top": r"ours-top-[123](-uncached)?",
    "ours": r"ours-(published|lean)(-uncached)?",
    "lora": r"lora-[1-9]\d*",
    "full": "full",
}
ALL = ["ours-top-2", "ours-lean", "ours-published", "lora-16", "full"]
CORPORA = {"factual": "fewrel", "linguistic": "conllu"}


def main(
    data_dir: Annotated[Path, typer.Option(help="Corpus: the JSON files of FewRel, or a treebank in CoNLL-U.")],
    backbone: Annotated[str, typer.Option(help="Encoder: Hub id or directory.")],
    objective: Annotated[Literal["factual", "linguistic"], typer.Option(help="What is learned.")] = "factual",
    corpus: Annotated[str | None, typer.Option(help="Its format.", show_default="fewrel or conllu")] = None,
    contestants: Annotated[list[str], typer.Option(help="Names as above.")] = ALL,
    rates: Annotated[list[float] | None, typer.Option(help="Rates of all; by default of each its own.")] = None,
    sentences: Annotated[int, typer.Option(min=2, help="Sentences to train on.")] = 6000,
    held_out: Annotated[int, typer.Option(min=4, help="Held-out sentences, half to choose by.")] = 2000,
    budget: Annotated[float, typer.Option(min=0.1, help="CPU seconds of each run.")] = 600,
    batch: commands.Batch = 16,
    max_length: commands.MaxLength = 128,
    rounds: commands.Rounds = 3,
    device: commands.Device = "cpu",
    threads: commands.Threads = 1,
    json_file: commands.Json = None,
    markdown: commands.Markdown = None,
    plot: commands.Plot = None,
) -> None:
    """Train every contestant at each of its rates, and at its best rate with further seeds."""
    shared = {
        "objective": objective,
        "corpus": corpus or CORPORA[objective],
        "data_dir": str(data_dir),
        "backbone": backbone,
    }
    shared |= {"sentences": sentences, "held_out": held_out, "budget": budget, "batch": batch, "longest": max_length}
    shared |= {"device": device, "threads": threads}
    contest = partial(commands.contest_in, "_frontier")
    tried = {
        f"{name} {rate:g}": {**shared, "contestant": name, "rate": rate, "seed": 0}
        for name, family in {name: family_of(name) for name in contestants}.items()
        for rate in rates or RATES[family]
    }
    first = play(contest, tried, 1, device, lambda results: _write(json_file, results))
    chosen = [best(name, first) for name in contestants]
    results = more_seeds(contest, {name: tried[name] for name in chosen}, first, rounds)
    _write(json_file, {**first, **results})
    title = f"Quality at equal CPU time, {objective}, {sentences} sentences, {rounds} seeds"
    report(title, table(results), device, threads, markdown)
    if plot is not None:
        draw([[Curves("CPU seconds", lines(results), "score on held-out sentences")]], plot)


def more_seeds(contest: Any, jobs: dict[str, dict[str, Any]], first: Results, seeds: int) -> Results:
    """Run jobs with further seeds, and return the results of all their seeds."""
    results = {name: list(first[name]) for name in jobs}
    for seed in range(1, seeds):
        seeded = {name: {**job, "seed": seed} for name, job in jobs.items()}
        device = next(iter(jobs.values()))["device"]
        for name, runs in play(contest, seeded, 1, device, lambda results: None).items():
            results[name].extend(runs)
    return results


def family_of(contestant: str) -> str:
    """Return the key of a contestant's rates.

    Raises:
        typer.BadParameter: there is no such contestant.
    """
    for family, name in NAMES.items():
        if re.fullmatch(name, contestant):
            return family
    raise typer.BadParameter(
        f"no contestant {contestant!r}; there are ours-published, ours-lean, ours-top-1 to ours-top-3, each perhaps "
        "with -uncached, lora-RANK and full"
    )


def best(contestant: str, results: Results) -> str:
    """Return the name of the run of a contestant that ended with the best score on the half for choosing."""
    own = {
        name: runs[0]["points"][-1]["validation"]
        for name, runs in results.items()
        if name.startswith(f"{contestant} ")
    }
    return max(own, key=lambda name: own[name])


def table(results: Results) -> list[dict[str, str]]:
    """Return a row for each contestant: its scores at the fifths of the budget, in the mean of its seeds."""
    rows = []
    for name, runs in results.items():
        contestant, _, rate = name.partition(" ")
        scores = [[point["test"] for point in run["points"]] for run in runs]
        seconds = [mean(run["points"][at]["seconds"] for run in runs) for at in range(len(scores[0]))]
        row = {"contestant": contestant, "rate": rate}
        for at, spent in enumerate(seconds):
            row[f"point {at + 1}"] = f"{mean(each[at] for each in scores):.3f} at {spent:.0f} s"
        last = [each[-1] for each in scores]
        row["lowest to highest"] = f"{min(last):.3f} to {max(last):.3f}"
        row["epochs"] = f"{mean(run['epochs'] for run in runs):.1f}"
        row["trained"] = f"{runs[0]['trained'] / 1e6:.2f} M"
        row["anonymous MiB"] = f"{max(run['peak_anonymous_mib'] for run in runs):.0f}"
        rows.append(row)
    return rows


def lines(results: Results) -> dict[str, dict[float, list[float]]]:
    """Return of each contestant the scores of its seeds by CPU seconds."""
    found: dict[str, dict[float, list[float]]] = {}
    for name, runs in results.items():
        for at in range(len(runs[0]["points"])):
            spent = mean(run["points"][at]["seconds"] for run in runs)
            found.setdefault(name.partition(" ")[0], {})[spent] = [run["points"][at]["test"] for run in runs]
    return found


def _write(path: Path | None, results: Results) -> None:
    write_json(path, {name: {"runs": runs} for name, runs in results.items()})


if __name__ == "__main__":
    commands.start(main)
