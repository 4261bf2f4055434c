"""What a card tells of a run: its command, hardware and time, its results, and the curve of its training.

An artifact's configuration holds what makes it what it is. What is known of its making beside that is kept in
`card.json` next to it, so that its card can be written anew at any time, also by `kadapter card`.
"""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml
from safetensors import safe_open

from ...artifacts_kadapter import WEIGHTS
from ...cards_kadapter import CARD, as_text, is_generated, kept_metadata, model_card, report_kept
from ...configuration_kadapter import KAdapterConfig
from .atomic_files import replace_file
from .progress import readable, reported

__all__ = ["CURVE", "EVAL_RESULTS", "RECORD", "read_record", "results_of", "training_of", "update_card"]

RECORD, CURVE, EVAL_RESULTS = "card.json", "training_curve.png", ".eval_results"
LIBRARIES = ("kadapter", "torch", "transformers", "accelerate", "datasets")


# ---- what is recorded -----------------------------------------------------------------------------------------------


def training_of(trainer: Any, program: str) -> dict[str, Any]:
    """Return how a model was trained by one of the programs, as it is recorded."""
    run, state = trainer.args, trainer.state
    seconds = next((entry["train_runtime"] for entry in state.log_history if "train_runtime" in entry), None)
    curve = [(entry["step"], entry["loss"]) for entry in state.log_history if "loss" in entry]
    return {
        "command": shlex.join(["accelerate", "launch", f"trainers/{program}.py", *run.flags]),
        "versions": _versions(),
        "hardware": _hardware(run),
        "seconds": seconds,
        "seed": run.seed,
        "curve": curve,
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # a checkout that was not installed
            versions[name] = "of a checkout"
    return versions


def _hardware(run: Any) -> str:
    device = torch.cuda.get_device_name() if run.device.type == "cuda" else run.device.type.upper()
    machine = f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads"
    return f"{device} ({machine}), {run.world_size} process{'es' * (run.world_size > 1)}"


def results_of(
    task: str, dataset: str, split: str, results: Mapping[str, float], tag: str = "other"
) -> dict[str, Any]:
    """Return the results on a split as they are recorded."""
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    shown = {name: float(value) for name, value in reported(dict(results)).items()}
    return {"task": task, "dataset": dataset, "split": split, "tag": tag, "results": shown, "date": date}


def read_record(folder: Path) -> dict[str, Any]:
    """Return what is recorded beside an artifact, empty where nothing is.

    Raises:
        ValueError: the record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise TypeError(f"it holds a {type(record).__name__}")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is no record of a run ({error}); remove it, or train again") from error
    return record


# ---- the card -------------------------------------------------------------------------------------------------------


def update_card(folder: Path, **known: Any) -> bool:
    """Record what is known of an artifact's making and write its card anew, unless that is a person's by now.

    Args:
        folder: the artifact.
        known: `title`; `training`, as `training_of` returns it; `results`, a list of what `results_of` returns, each
            instead of earlier results on the same split; `comparison`, rows beside which it stands; `metadata`, as
            `model_card` takes it; `datasets`, the names that data sets have on the Hub.

    Returns:
        Whether the card was written.

    Raises:
        OSError: it can't be written; earlier files are untouched.
        ValueError: there is no artifact, or its record is damaged.
    """
    record = read_record(folder)
    if "results" in known:
        replaced = {(new["task"], new["split"]) for new in known["results"]}
        others = [old for old in record.get("results", []) if (old["task"], old["split"]) not in replaced]
        known["results"] = [*others, *known["results"]]
    record.update(known)
    record["metadata"] = {**kept_metadata(folder / CARD), **record.get("metadata", {})}
    replace_file(folder / RECORD, json.dumps(record, indent=1))
    curve = _draw_curve(folder, record.get("training", {}).get("curve", []))
    _write_eval_results(folder, record)
    card = folder / CARD
    if not is_generated(card):
        report_kept(card, str(card))
        return False
    text = model_card(
        KAdapterConfig.from_pretrained(folder),
        _parameters(folder),
        title=record.get("title"),
        sections=_sections(record, curve),
        metadata={**record["metadata"], **_model_index(record)},
    )
    replace_file(card, text.rstrip("\n"))
    return True


def _parameters(folder: Path) -> dict[str, int]:
    """Return the numbers of parameters of an artifact's adapters, by the header of its weights."""
    sizes: dict[str, int] = {}
    with safe_open(folder / WEIGHTS, framework="numpy") as weights:
        for key in weights.keys():  # noqa: SIM118 (not a dict)
            owner, _, rest = key.removeprefix("kadapter.").partition(".")
            if owner == "adapters":
                name = rest.partition(".")[0]
                sizes[name] = sizes.get(name, 0) + prod(weights.get_slice(key).get_shape())
    return sizes


def _sections(record: dict[str, Any], curve: bool) -> dict[str, str]:
    """Return the sections of a card that tell of results and training."""
    sections = {}
    for own in record.get("results", []):
        rows = [f"| {as_text(name)} | {value:.4f} |" for name, value in own["results"].items()]
        table = "\n".join(["| metric | value |", "|---|---|", *rows])
        sections[f"Results on {as_text(own['task'])}, {as_text(own['split'])}"] = table
    if comparison := record.get("comparison"):
        sections["Beside baseline and controls"] = _compared(comparison)
    if training := record.get("training"):
        sections["How it was trained"] = _trained(training, curve)
    return sections


def _compared(comparison: list[dict[str, Any]]) -> str:
    lines = ["| task | row | mean | standard deviation | seeds |", "|---|---|---|---|---|"]
    for row in comparison:
        deviation = "-" if row["deviation"] is None else f"{row['deviation']:.4f}"
        cells = (as_text(row["column"]), as_text(row["row"]), f"{row['mean']:.4f}", deviation, str(row["seeds"]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _trained(training: dict[str, Any], curve: bool) -> str:
    """Return command, versions, hardware, time and seed, and the curve as a picture."""
    command = training["command"].replace("```", "")
    versions = ", ".join(f"{name} {number}" for name, number in training["versions"].items())
    seconds = training.get("seconds")
    lines = ["```", command, "```", "", f"- versions: {as_text(versions)}"]
    lines += [f"- hardware: {as_text(training['hardware'])}"]
    lines += [] if seconds is None else [f"- time of training: {readable(seconds)}"]
    lines += [f"- seed: {as_text(training['seed'])}"]
    return "\n".join([*lines, *(["", f"![The curve of its training]({CURVE})"] if curve else [])])


def _draw_curve(folder: Path, curve: Sequence[Sequence[float]]) -> bool:
    """Draw the curve of a training, if it has one, and return whether there is one."""
    if len(curve) < 2:
        return False
    partial = folder / f".{CURVE}.partial"
    partial.write_bytes(_picture(tuple(map(tuple, curve))))
    partial.replace(folder / CURVE)
    return True


@lru_cache(maxsize=1)  # a training writes two artifacts, each with its curve
def _picture(curve: tuple[tuple[float, ...], ...]) -> bytes:
    """Return a curve of (step, loss) as a PNG file."""
    from matplotlib.figure import Figure  # half a second

    steps, losses = zip(*curve, strict=True)
    figure = Figure(figsize=(6, 2.6), dpi=120)
    axis = figure.add_subplot()
    figure.subplots_adjust(left=0.12, right=0.98, bottom=0.2, top=0.96)
    axis.plot(steps, losses, color="#30638e", linewidth=1.4)
    axis.set_xlabel("step")
    axis.set_ylabel("training loss")
    axis.spines[["top", "right"]].set_visible(False)
    picture = BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()


# ---- results in the Hub's forms -------------------------------------------------------------------------------------


def _hub_dataset(record: dict[str, Any], dataset: str) -> str | None:
    known = record.get("datasets", {})
    return known.get(dataset, known.get(""))


def _write_eval_results(folder: Path, record: dict[str, Any]) -> None:
    """Write the results on data sets of the Hub to `.eval_results`, a file for each task."""
    files: dict[str, list[EvalResultEntry]] = {}
    for own in record.get("results", []):
        if (dataset := _hub_dataset(record, own["dataset"])) is not None:
            beside = _in_notes(record, own["task"])
            files.setdefault(own["task"], []).extend(
                EvalResultEntry(dataset, own["task"], value, date=own["date"], notes=f"{name}, {own['split']}{beside}")
                for name, value in own["results"].items()
            )
    for task, entries in files.items():
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
        replace_file(folder / EVAL_RESULTS / f"{Path(task).name}.yaml", text.rstrip("\n"))


def _in_notes(record: dict[str, Any], task: str) -> str:
    rows = [row for row in record.get("comparison", []) if row["task"] == task]
    return "".join(f"; {row['row']} {row['mean']:.4f} ({row['column']}, {row['seeds']} seeds)" for row in rows)


def _model_index(record: dict[str, Any]) -> dict[str, Any]:
    """Return the results on data sets that are not on the Hub, in the form that needs no address of theirs."""
    results = [
        EvalResult(own["tag"], own["dataset"], own["task"], name, value, dataset_split=own["split"])
        for own in record.get("results", [])
        if _hub_dataset(record, own["dataset"]) is None
        for name, value in own["results"].items()
    ]
    return {"eval_results": results, "model_name": record.get("title") or "kadapter"} if results else {}
