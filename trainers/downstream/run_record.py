"""Files that a downstream run writes: predictions, and a description of the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...reports.runs import DESCRIPTION, PREDICTIONS, read_description
from ..common.atomic_files import replace_file
from .arguments import TaskArguments
from .knowledge import describe_knowledge, stage
from .model import RANDOM, random_names, row_name

__all__ = [
    "PREDICTED",
    "PREDICTIONS",
    "describe",
    "read_results",
    "read_run",
    "trained_folder",
    "write_lines",
]

PREDICTED = "predicted.jsonl"


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    replace_file(path, "\n".join(json.dumps(record, ensure_ascii=False) for record in records))


def trained_folder(flags: TaskArguments, run: Any) -> Path:
    """Return where the trained model is with which a trial begins: in its own output directory, or another run's.

    That is --trained_model itself or, if it is a sweep, its trial of the same seed.
    """
    if flags.trained_model is None:
        return Path(run.output_dir)
    folder = Path(flags.trained_model)
    of_seed = folder / f"seed-{run.seed}"
    return of_seed if (of_seed / DESCRIPTION).is_file() and not (folder / DESCRIPTION).is_file() else folder


def describe(context: Any, model: Any, run: Any) -> dict[str, Any]:
    """Describe a run for reports; one that trains nothing is described as the run that trained its model was."""
    flags, task, names = context.flags, context.task, list(model.base_model.adapters)
    known = {} if flags.trained_model is None else read_run(trained_folder(flags, run))
    changed = {
        "adapters": names,
        "random": list(dict.fromkeys([*known.get("random", []), *random_names(flags, names)])),
        **({} if flags.trained_model is None else {"trained_model": flags.trained_model}),
        **({} if task.knowledge is None else {"knowledge": describe_knowledge(task.knowledge)}),
    }
    changed["row"] = _row(flags, changed, known, bool(run.do_train))
    if known and not run.do_train:
        return {**known, **changed, "split": context.corpus.eval_split}
    return {
        "task": flags.task,
        **changed,
        "fusion": flags.fusion,
        "backbone": flags.backbone,
        "freeze_backbone": flags.freeze_backbone and known.get("freeze_backbone", True),
        "freeze_adapters": flags.freeze_adapters and known.get("freeze_adapters", True),
        "train_fraction": context.corpus.train_fraction,
        "learning_rate": run.learning_rate,
        "seed": run.seed,
        "fold": context.corpus.fold,
        "split": context.corpus.eval_split,
        "metric": {"name": task.metric, "key": task.headline, "settings": task.settings},
        "gates": model.base_model.fusion.gates(),
    }


def _row(flags: TaskArguments, changed: dict[str, Any], known: dict[str, Any], trains: bool) -> str:
    """Return the name of a row: its adapters and, of a knowledge map, how it came to the head and whose vectors."""
    if flags.row or "knowledge" not in changed:
        return flags.row or (known["row"] if known and not trains else row_name(flags, changed["adapters"]))
    shuffled = ["shuffled table"] if changed["knowledge"]["shuffled"] is not None else []
    if known and not trains and changed["adapters"] == known["adapters"]:
        return ", ".join([known["row"], *shuffled])
    at_random = set(known.get("random", []))
    names = [
        f"{RANDOM}_{name}" if name in at_random and not name.startswith(f"{RANDOM}_") else name
        for name in changed["adapters"]
    ]
    return ", ".join([row_name(flags, names), stage(flags, trains), *shuffled])


def read_run(folder: Path) -> dict[str, Any]:
    """Read the description of an earlier run in a folder.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    try:
        return read_description(folder)
    except (OSError, ValueError) as error:
        trials = sorted(str(run.parent.relative_to(folder)) for run in folder.rglob(DESCRIPTION))
        remedy = (
            f"name the --seeds and --learning_rates of its trials {trials}" if trials else "train it with --do_train"
        )
        raise ValueError(f"there is no trained model in {str(folder)!r} ({error}); {remedy}") from error


def read_results(folder: Path) -> dict[str, float]:
    """Read the results of a finished run, empty if it did not evaluate."""
    path = folder / "all_results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
