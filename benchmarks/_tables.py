"""What a benchmark writes: a Markdown table under a line about the machine, and JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "peft")


def write_json(path: Path | None, results: Mapping[str, Any]) -> None:
    """Write results as JSON, if there is a path."""
    if path is not None:
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def tell(title: str, rows: Sequence[Mapping[str, str]], device: str, threads: int, path: Path | None) -> None:
    """Print a Markdown table with the machine it was measured on, and write it to a path, if there is one."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, *(list(row.values()) for row in rows))]
    lines.insert(1, "|" + "---|" * len(columns))
    text = "\n".join([f"**{title}**", "", machine(device, threads), "", *lines])
    print(text)
    if path is not None:
        path.write_text(text + "\n", encoding="utf-8")


def machine(device: str, threads: int) -> str:
    """Return a sentence about processor, libraries and date."""
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
