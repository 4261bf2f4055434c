"""What a probe writes: the rank of each fact, the description of the run, and results by relation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ... import metrics
from ...reports.relations import report_relations
from ...reports.runs import DESCRIPTION, PREDICTIONS, RESULTS
from ..common.atomic_files import replace_file
from ..downstream.model import random_names, row_name
from ..downstream.run_record import write_lines
from .arguments import ProbeArguments
from .facts import Asked
from .scoring import Answered

__all__ = ["write_results"]

METRIC, HEADLINE = "ranking", "macro_p_at_1"


def write_results(
    flags: ProbeArguments, model: Any, answered: Sequence[Answered], asked: Asked, split: str
) -> dict[str, float]:
    """Write predictions.jsonl, all_results.json, run.json and the files by relation, and return the results.

    Raises:
        OSError: they can't be written.
        ValueError: a run of `--against` can't be compared.
    """
    folder = Path(flags.output_dir)
    relations = sorted({each.fact.relation for each in answered})
    lines = [_line(each) for each in answered]
    gold, predictions = ([line[key] for line in lines] for key in ("gold", "prediction"))
    measured = metrics.load(METRIC).compute(predictions, gold, relations=relations)
    results = {f"eval_{name}": float(value) for name, value in measured.items()}
    counts = {"facts": asked.read.total(), "asked": len(answered), **asked.reasons()}
    write_lines(folder / PREDICTIONS, lines)
    replace_file(folder / RESULTS, json.dumps({**results, **counts}, indent=4, sort_keys=True))
    replace_file(folder / DESCRIPTION, json.dumps(_description(flags, model, relations, split, counts), indent=2))
    dropped = asked.read - Counter(each.fact.relation for each in answered)
    report_relations([folder, *map(Path, flags.against)], folder, dropped)
    return results


def _line(answered: Answered) -> dict[str, Any]:
    fact = answered.fact
    ranked = {"relation": fact.relation, "rank": answered.rank, "candidates": answered.candidates}
    probabilities = {"probability": answered.probability, "top": answered.top}
    return {
        "id": fact.id,
        "prompt": fact.prompts[0],
        "gold": {"relation": fact.relation, "rank": 1, "answers": list(fact.answers)},
        "prediction": {**ranked, **probabilities},
    }


def _description(
    flags: ProbeArguments, model: Any, relations: list[str], split: str, counts: dict[str, int]
) -> dict[str, Any]:
    names = list(model.base_model.adapters)
    return {
        "task": task_name(flags),
        "row": row_name(flags, names),
        "adapters": names,
        "random": random_names(flags, names),
        "fusion": model.config.fusion,
        "backbone": flags.backbone,
        "lm_head": flags.lm_head or "backbone",
        "freeze_backbone": True,
        "freeze_adapters": True,
        "train_fraction": 1.0,
        "seed": flags.seed,
        "split": split,
        "metric": {"name": METRIC, "key": HEADLINE, "settings": {"relations": relations}},
        "gates": model.base_model.fusion.gates(),
        "counts": counts,
    }


def task_name(flags: ProbeArguments) -> str:
    """Return the name of the probe with all that decides on what its results mean, which is a column of reports."""
    details = [f"{flags.prompts} prompts", f"{flags.candidates} candidates"]
    details += [f"answers {flags.multi_token}"] * (flags.multi_token != "skip")
    details += [f"without {name}" for name in flags.uhn]
    return f"{flags.probe} ({', '.join(details)})"
