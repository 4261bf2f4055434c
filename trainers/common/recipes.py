"""Recipes by path or name, those that come with the package among them; nothing heavy is imported."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

__all__ = ["data_file", "recipe_path"]

PACKAGED = Path(__file__).resolve().parents[2] / "recipes"


def recipe_path(name: str) -> Path:
    """Return the file of a recipe: a path that exists, or else one of the package's, `recipes/NAME.yaml`.

    Raises:
        ValueError: there is neither; the message lists near names.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    packaged = {own.stem: own for own in PACKAGED.glob("*.yaml")}
    stem = path.name.removesuffix(".yaml")
    if path.parent in (Path(), Path("recipes")) and stem in packaged:
        return packaged[stem]
    near = difflib.get_close_matches(stem, packaged, n=3, cutoff=0.5)
    of_ours = f"near ones are {near}" if near else f"there are {sorted(packaged)}"
    raise ValueError(f"there is no recipe {name!r}, and no file of that name; of kadapter's own {of_ours}")


def data_file(value: Any, recipe: Path) -> Any:
    """Return a recipe's value, which becomes the path of a file beside the recipe if there is none to begin with.

    A path is relative to the working directory first, and then to the recipe's folder or the one above it, as in
    `recipes/phrasings_wikidata.jsonl`.
    """
    if not isinstance(value, str) or not Path(value).suffix or Path(value).exists():
        return value
    beside = (folder / value for folder in (recipe.parent, recipe.parent.parent))
    return next((str(path) for path in beside if path.is_file()), value)
