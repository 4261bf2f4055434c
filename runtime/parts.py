"""The graphs of which an exported model is made, and where they are found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .engines import Graph
from .manifest import MANIFEST, Export, read_export

__all__ = ["FUSIONS_OF", "Adapter", "Head", "adapters_at", "check_fused"]

FUSIONS_OF = {"adapters": "add", "contributions": "delta"}


@dataclass(frozen=True)
class Adapter:
    """The graph of an adapter, the hidden states that it reads, and what of it its output is."""

    graph: Graph
    layers: list[int]
    features: str  # "adapters" for its output, "contributions" for that without tapped states, "either" for both

    def fits(self, head: Head) -> bool:
        """Return whether a head was made for what the graph returns."""
        return self.features in ("either", head.entry["features"])


@dataclass(frozen=True)
class Head:
    """The graph of fusion and head, and what the manifest says of them."""

    graph: Graph
    entry: dict[str, Any]


def check_fused(head: Head, adapters: Mapping[str, Adapter], rows: Sequence[tuple[str, ...]]) -> None:
    """Refuse a row with adapters that do not go with the fusion, or for which one with weights was not trained.

    Raises:
        ValueError: there is such a row.
    """
    for name in dict.fromkeys(name for names in rows for name in names):
        if not adapters[name].fits(head):
            raise ValueError(
                f"adapter {name!r} was exported for its {adapters[name].features}, and the head's fusion reads "
                f"{head.entry['features']}; export it with --fusion {FUSIONS_OF[head.entry['features']]}"
            )
    fused, fusion = head.entry["adapters"], head.entry["fusion"]
    if fused is None:  # a fusion without weights takes any adapters
        return
    for row, names in enumerate(rows):
        unknown = [name for name in names if name not in fused]
        if unknown:
            raise ValueError(
                f"row {row} goes through {unknown[0]!r}, and fusion {fusion!r} was trained for {fused}; name others "
                "in adapter_names, or choose them by set_adapter"
            )
        if fusion == "concat" and names and not set(fused) <= set(names):
            raise ValueError(
                f"adapter_names[{row}] = {list(names)}, and fusion 'concat' was trained for all of {fused} together, "
                "so it has no weights for some alone; name all in this row, or '__base__'"
            )


def adapters_at(source: str | os.PathLike) -> tuple[Export, list[str]]:
    """Return the export and the names of the adapters of a directory, or of one graph in it.

    Raises:
        OSError: there is no such directory or graph, or it has no manifest.
        ValueError: the manifest knows no such graph, or no adapters.
    """
    path = os.path.abspath(os.path.expanduser(source))
    if os.path.isdir(path) or not os.path.exists(path):
        export = read_export(path)
        names = list(export.manifest["adapters"])
    else:
        folder = os.path.dirname(path)
        home = folder if os.path.isfile(os.path.join(folder, MANIFEST)) else os.path.dirname(folder)
        export = read_export(home)
        entries = export.manifest["adapters"].items()
        names = [name for name, entry in entries if os.path.join(home, entry["file"] or "") == path]
    if not names:
        raise ValueError(f"{str(source)!r} is no adapter that {export.directory / MANIFEST} knows; name another")
    return export, names
