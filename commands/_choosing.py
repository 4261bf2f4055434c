"""Which head is asked, and which adapters each text goes through: as the command line or the text's record says.

Mistakes are found before torch is imported, and the sentence names the file and the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ._texts import Asked

__all__ = ["chosen_adapters", "chosen_head", "refusal_of"]

BASE = "__base__"  # as `rows_kadapter`, which needs torch, calls no adapter at all
SEVERAL = "KAdapterModelWithHeads"
FIRST = ("text 0", "sentence 0")  # as an exported model calls a text that it reads alone


def chosen_head(artifact: str, config: dict[str, Any], head: str | None) -> dict[str, Any]:
    """Return the configuration of an artifact, or of the head that is chosen of several.

    Raises:
        ValueError: it holds several and none is chosen, or there is none of this name.
    """
    several = (config.get("architectures") or [None])[0] == SEVERAL
    heads = (config.get("heads") or {}) if several else {}
    if not several and head is None:
        return config
    if head not in heads:
        chosen = f"--head {head} is none of them" if head is not None else "choose by --head"
        raise ValueError(
            f"{artifact} holds the heads {list(heads)}; {chosen}"
            if several
            else f"{artifact} holds no heads by name; leave out --head"
        )
    record = heads[head]
    return {**record, "architectures": [record["architecture"]]}


def chosen_adapters(
    asked: Sequence[Asked], flags: Sequence[str], artifact: str, known: Sequence[str], active: Sequence[str] | None
) -> list[list[str]] | None:
    """Return the names of the adapters of each text, which are its own, else the flags', else the active ones.

    Args:
        asked: the texts.
        flags: adapters for all texts, or for each of them, as "fac", "fac+lin", or "__base__" for none.
        artifact: whose adapters they are.
        known: the names of its adapters.
        active: the names of those that are used where none are named, None for all.

    Returns:
        For each text a list of names; None where no adapters are named at all.

    Raises:
        TypeError: a record names adapters by something else than a name or a list of names.
        ValueError: there are more or fewer flags than texts, or an adapter is unknown or named twice.
    """
    if len(flags) not in (0, 1, len(asked)):
        raise ValueError(
            f"--adapters is there {len(flags)} times, and there are {len(asked)} texts; give it once for all of them, "
            "or once for each"
        )
    if not flags and all(text.adapter_names is None for text in asked):
        return None
    usual = [_names(flag, "--adapters", artifact, known) for flag in flags] or [
        list(known if active is None else active)
    ]
    usual = usual * len(asked) if len(usual) == 1 else usual
    return [
        others if text.adapter_names is None else _names(text.adapter_names, text.where, artifact, known)
        for text, others in zip(asked, usual, strict=True)
    ]


def _names(entry: Any, where: str, artifact: str, known: Sequence[str]) -> list[str]:
    """Return the names of an entry, "fac+lin" or a list."""
    names = entry.split("+") if isinstance(entry, str) else entry
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{where}: adapter_names is {entry!r}; give a name, {BASE!r} for none, or a list of names")
    for name in names:
        if name not in (*known, BASE):
            raise ValueError(f"{where} names the adapter {name!r}, and {artifact} has {[*known, BASE]}")
    if len(set(names)) < len(names) or (BASE in names and len(names) > 1):
        raise ValueError(f"{where} names {names}; name each adapter once, and {BASE!r} alone, since it means none")
    return [BASE] if names == [BASE] else [name for name in known if name in names]


def refusal_of(error: Exception, where: str) -> ValueError:
    """Return the error of a model that refuses a text, or the adapters of it, with the place of this text."""
    said = str(error).removeprefix("adapter_names[0] = ")
    numbered = next((start for start in FIRST if said.startswith(start)), None)  # as the model counts, from 0
    return ValueError(f"{where}: {said}" if numbered is None else f"{where}{said.removeprefix(numbered)}")
