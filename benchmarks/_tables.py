"""Write the results of a benchmark: a Markdown table under a description of the machine, and JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

MEMORY = ("peak_rss_mib", "peak_anonymous_mib")
LIBRARIES = ("torch", "transformers", "peft")
SMALLEST_SHARE = 0.01  # of the time; operations below it share a table row


def write_json(path: Path | None, results: Mapping[str, Any]) -> None:
    """Write results as JSON, if there is a path."""
    if path is not None:
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def report(title: str, rows: Sequence[Mapping[str, str]], device: str, threads: int, path: Path | None) -> None:
    """Print a Markdown table with the machine that it was measured on, and write it to a path, if there is one."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, *(list(row.values()) for row in rows))]
    lines.insert(1, "|" + "---|" * len(columns))
    text = "\n".join([f"**{title}**", "", machine(device, threads), "", *lines])
    print(text)
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")


def machine(device: str, threads: int) -> str:
    """Return a sentence that names processor, libraries and date."""
    libraries = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    return f"{_processor(device)}, {threads} threads; {libraries}; {datetime.date.today().isoformat()}."


def _processor(device: str) -> str:
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def times(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the ratio of values to others: the median over rounds, since the speed of a machine varies."""
    return median(value / other for value, other in zip(values, others, strict=True))


def extremes(values: Sequence[float], others: Sequence[float]) -> str:
    """Return the lowest and the highest ratio of values to others within a round."""
    ratios = [value / other for value, other in zip(values, others, strict=True)]
    return f"{min(ratios):.2f}x to {max(ratios):.2f}x"


def gathered(
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    by_round: Sequence[str],
    medians: Sequence[str] = (),
    highest: Sequence[str] = MEMORY,
) -> dict[str, dict[str, Any]]:
    """Return of each contestant that ran its values by round, medians, and highest values, each by its name."""
    return {
        name: {
            **{key: [run[key] for run in runs] for key in by_round},
            **{key: median(run[key] for run in runs) for key in medians},
            **{key: max(run[key] for run in runs) for key in highest},
        }
        for name, runs in results.items()
        if runs
    }


def by_operation(shares: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    """Return a table row for each operation that takes a noticeable share of a contestant's time, largest first."""
    largest: dict[str, float] = {}
    for operations in shares.values():
        for name, share in operations.items():
            largest[name] = max(share, largest.get(name, 0))
    named = sorted((name for name in largest if largest[name] >= SMALLEST_SHARE), key=lambda name: -largest[name])
    rows = {name: [operations.get(name, 0) for operations in shares.values()] for name in named}
    rows["all others"] = [1 - sum(column) for column in zip(*rows.values(), strict=True)]
    return [
        {"operation": name, **{who: f"{share:.1%}" for who, share in zip(shares, row, strict=True)}}
        for name, row in rows.items()
    ]
