"""The graphs of which an exported model is made, and where they are found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    digest: str  # by which it is known under any name

    def fits(self, head: Head) -> bool:
        """Return whether a head was made for what the graph returns."""
        return self.features in ("either", head.entry["features"])


@dataclass(frozen=True)
class Head:
    """The graph of fusion and head, what the manifest says of them, and the adapters that it was exported with.

    `own` has the digests of these by the names that they have in the model; None for the active ones of the model.
    """

    name: str
    graph: Graph
    entry: dict[str, Any]
    own: Mapping[str, str] | None = None

    def usual(self, adapters: Mapping[str, Adapter], active: Sequence[str] | None) -> tuple[str, ...]:
        """Return the names of the adapters that a row goes through where none are named.

        Raises:
            ValueError: one of them was deleted, or its name is another's by now.
        """
        if self.own is None:
            return tuple(name for name in adapters if active is None or name in active)
        for name, digest in self.own.items():
            if name not in adapters or adapters[name].digest != digest:
                raise ValueError(
                    f"head {self.name!r} goes through adapter {name!r}, which was deleted since the head was added; "
                    "delete_head and add_head it again, or name others in adapter_names"
                )
        return tuple(name for name in adapters if name in self.own)

    def among(self, names: Mapping[str, str], adapters: Mapping[str, Adapter]) -> Head:
        """Return the head in a model that has its adapters by other names, of which its own are the keys."""
        fused = self.entry["adapters"]
        renamed = None if fused is None else [names.get(name, name) for name in fused]
        own = {name: adapters[name].digest for name in names.values()}
        return replace(self, entry={**self.entry, "adapters": renamed}, own=own)


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
