"""Bodies of facts in an experiment: their names, and what its results are of, so that it goes on with no others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from kadapter.trainers.common.atomic_files import replace_file
from kadapter.trainers.common.recipes import recipe_path

OTHERS = ("frozen", "states")  # the row without adapters, and what trainings of a seed share
SETTINGS = "settings.json"


def parted(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Return the directories of the bodies, and the flags after them.

    Raises:
        ValueError: two have the same name, and would be one adapter, or one has that of other results.
    """
    first = next((number for number, word in enumerate(arguments) if word.startswith("--")), len(arguments))
    bodies = [Path(word) for word in arguments[:first]]
    names = [body.name for body in bodies]
    for name in names:
        if names.count(name) > 1 or name in OTHERS:
            why = "is the name of other results" if name in OTHERS else "is the name of two directories"
            raise ValueError(f"{name!r} {why}, and the directory of a body names its adapter; rename one")
    return bodies, arguments[first:]


def described_by(
    bodies: Sequence[Path], recipe: Path, backbone: str, more: Sequence[str], asked: Sequence[tuple]
) -> dict[str, str]:
    """Return what results depend on, files and questions by a hash, since a path may hold others by now."""
    files = {body.name: [path.read_bytes() for path in sorted(body.iterdir()) if path.is_file()] for body in bodies}
    return {
        "--recipe": _hash(recipe_path(str(recipe)).read_bytes()),
        "--backbone": backbone,
        "what follows --": " ".join(more),
        **{f"the body {name}": _hash(*own) for name, own in files.items()},
        "what is asked": _hash(repr(asked).encode()),
    }


def claim(folder: Path, settings: dict[str, str]) -> None:
    """Note in a directory what its results, by seed, are of, if there are none yet.

    Raises:
        ValueError: it holds results of other settings, or some that do not say what they are of.
    """
    file = folder / SETTINGS
    if not file.is_file() and not any(folder.glob("seed-*")):
        replace_file(file, json.dumps(settings, indent=1))
    held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    names = [name for name in {**settings, **held} if held.get(name) != settings.get(name)]
    if names:
        changed = ", ".join(f"{name} was {held.get(name)!r} and is {settings.get(name)!r}" for name in names)
        what = f"of another run: {changed}" if held else f"that do not say in {SETTINGS} what they are of"
        raise ValueError(f"{str(folder)!r} holds results {what}; choose another --output-dir (-o), or delete it")


def _hash(*pieces: bytes) -> str:
    total = blake2b(digest_size=8)
    for piece in pieces:
        total.update(len(piece).to_bytes(8, "little") + piece)
    return total.hexdigest()
