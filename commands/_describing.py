"""Write the card of an artifact anew, with what its owner says of it and results beside baseline and controls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub.utils import validate_repo_id

from ..artifacts_kadapter import read_artifact
from ..reports.comparison import Resampling, label, tabulate
from ..reports.runs import find_runs
from ..trainers.common.cards import read_record, update_card

__all__ = ["describe"]


def describe(
    folder: Path, runs: Sequence[Path], license_name: str | None, languages: Sequence[str], datasets: Sequence[str]
) -> bool:
    """Write the card of an artifact and its results in the Hub's form, and return whether the card was written.

    Raises:
        OSError: there is no artifact, or no run.
        ValueError: the artifact or a run is damaged, or a data set has no possible name.
    """
    read_artifact(folder).check()
    record, known = read_record(folder), _names(datasets)
    metadata: dict[str, Any] = dict(record.get("metadata", {}))
    if license_name is not None:
        metadata["license"] = license_name
    if languages:
        metadata["language"] = list(languages)
    if known:
        metadata["datasets"] = sorted(set(known.values()))
    changes: dict[str, Any] = {"metadata": metadata, "datasets": {**record.get("datasets", {}), **known}}
    if runs:
        changes["comparison"] = _compared(runs)
    return update_card(folder, **changes)


def _names(datasets: Sequence[str]) -> dict[str, str]:
    """Return the names of data sets on the Hub by the names of corpora, "" for the only one."""
    known = {}
    for entry in datasets:
        corpus, _, name = entry.rpartition("=")
        validate_repo_id(name)
        known[corpus] = name
    return known


def _compared(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the rows of runs: mean and deviation of each over seeds, controls first."""
    table = tabulate(find_runs(runs), (), Resampling(1))
    return [
        {
            "task": column.task,
            "column": str(column),
            "row": label(row, cells),
            "mean": cell.mean,
            "deviation": cell.deviation,
            "seeds": len(cell.runs),
        }
        for column, cells in table.items()
        for row, cell in cells.items()
    ]
