"""What a trainer's --help says, and mistakes in its flags, within a second: read from the sources, importing none.

The libraries that a training needs take seconds to import, which nobody wants to wait for who asks how to call it.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from textwrap import fill
from typing import Any

from ... import discovery

__all__ = ["answer"]

ROOT = Path(__file__).resolve().parents[2]
WIDTH, INDENT = 110, 34
PLUGINS = {"objective": "trainers/pretraining", "task": "trainers/tasks", "corpus": "data_builders"}
PLURALS = {"objective": "objectives", "task": "tasks", "corpus": "corpora"}
PROGRAMS = {  # the dataclasses of each, by file
    "run_adapter": {
        "common/arguments": ["AdapterArguments", "CorpusArguments", "RunArguments"],
        "feature_cache/options": ["CacheArguments"],
        "many_adapters/variants": ["VariantArguments"],
    },
    "run_task": {"downstream/arguments": ["TaskArguments", "TaskCorpusArguments", "TaskRunArguments"]},
    "run_multitask": {
        "multitask/arguments": ["MultitaskArguments", "CorporaArguments"],
        "common/arguments": ["RunArguments"],
    },
}
RECIPE = "YAML file of flags and values; flags on the command line override it."


@dataclass
class Flag:
    """One flag as a dataclass of arguments declares it."""

    name: str
    kind: str
    default: Any
    required: bool
    help: str
    choices: list[str]

    def __str__(self) -> str:
        notes = ["required"] * self.required
        if self.default not in (None, "", [], {}):
            notes.append(f"default {self.default}")
        text = f"{self.help} ({', '.join(notes)})" if notes else self.help
        return row(f"--{self.name} {'|'.join(self.choices) or self.kind}", text)


def row(left: str, right: str) -> str:
    """Return a row of two columns, the right one wrapped, and below the left one where that is too wide."""
    column = fill(right, WIDTH, initial_indent=" " * INDENT, subsequent_indent=" " * INDENT)
    return f"  {left:<{INDENT - 4}}  {column.lstrip()}" if len(left) < INDENT - 3 else f"  {left}\n{column}"


def answer(program: str, argv: list[str]) -> None:
    """Print the help of a trainer if it is asked for, and refuse unknown flags and names of plug-ins, before all else.

    Raises:
        SystemExit: the help was printed, or a flag or a name is unknown.
    """
    if {"-h", "--help"} & set(argv):
        if os.environ.get("RANK", "0") == "0":
            print("\n".join(lines(program)))
        sys.exit(0)
    try:
        check(program, argv)
    except ValueError as error:
        sys.exit(f"{program}: {error}")


def lines(program: str) -> Iterator[str]:
    """Yield the help: the program, what there is to choose from, our flags by subject, and transformers' flags."""
    own = groups(program)
    yield ast.get_docstring(tree(ROOT / "trainers" / f"{program}.py"))
    for kind in chosen(own):
        yield f"\n{PLURALS[kind]} (files of {PLUGINS[kind]}/)"
        for name, path in discovery.files(ROOT / PLUGINS[kind]).items():
            yield row(name, (ast.get_docstring(tree(path)) or "").partition("\n")[0])
    yield "\nflags\n" + str(Flag("recipe", "FILE", None, False, RECIPE, []))
    for subject, flags in own.items():
        yield f"\n{subject}"
        yield from map(str, flags.values())
    yield "\nand all of transformers' TrainingArguments:"
    taken = {name for flags in own.values() for name in flags}
    yield from (str(flag) for name, flag in theirs().items() if name not in taken)


def check(program: str, argv: list[str]) -> None:
    """Refuse what can be known to be wrong without importing anything.

    Raises:
        ValueError: a flag, an objective, a task or a corpus is unknown; the sentence names the nearest, or all.
    """
    own = groups(program)
    known = {name for flags in (*own.values(), theirs()) for name in flags} | {"recipe"}
    kinds = {name: kind for kind, plural in PLURALS.items() for name in (kind, plural)}
    for place, argument in enumerate(argv):
        if not argument.startswith("--"):
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not {name, name.removeprefix("no_")} & known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '--{close[0]}'?" if close else "; --help lists all"
            raise ValueError(f"'--{name}' is no flag{hint}")
        if name in kinds:
            given = [value] if equals else takewhile(lambda one: not one.startswith("--"), argv[place + 1 :])
            for one in given:
                discovery.check(kinds[name], one, list(discovery.files(ROOT / PLUGINS[kinds[name]])))


def chosen(own: dict[str, dict[str, Flag]]) -> list[str]:
    """Return the kinds of plug-ins of which a program's flags choose."""
    names = {name for flags in own.values() for name in flags}
    return [kind for kind, plural in PLURALS.items() if {kind, plural} & names]


def groups(program: str) -> dict[str, dict[str, Flag]]:
    """Return our flags of a program, by the first line of the docstring of their dataclass."""
    found = {}
    for file, names in PROGRAMS[program].items():
        path = ROOT / "trainers" / f"{file}.py"
        for name in names:
            subject = ast.get_docstring(classes(path)[name]).splitlines()[0]
            found[subject.rstrip(".")] = flags_of(path, name)
    return found


def theirs() -> dict[str, Flag]:
    """Return the flags of transformers' TrainingArguments as installed."""
    folder = Path(importlib.util.find_spec("transformers").origin).parent
    return flags_of(folder / "training_args.py", "TrainingArguments")


def flags_of(path: Path, name: str) -> dict[str, Flag]:
    """Return the flags of a dataclass in a file, after those of its bases in this house."""
    found: dict[str, Flag] = {}
    for base in (one.id for one in classes(path)[name].bases if isinstance(one, ast.Name)):
        home = path if base in classes(path) else imported(path).get(base)
        if home is not None:
            found.update(flags_of(home, base))
    for node in classes(path)[name].body:
        if isinstance(node, ast.AnnAssign) and not node.target.id.startswith("_"):
            flag = flag_of(path, node)
            found.pop(node.target.id, None)
            found.update({} if flag is None else {flag.name: flag})
    return found


def flag_of(path: Path, node: ast.AnnAssign) -> Flag | None:
    """Return the flag that a field of a dataclass stands for, None if its constructor takes none of it."""
    call = node.value if isinstance(node.value, ast.Call) else None
    given = {one.arg: one.value for one in call.keywords} if call else {"default": node.value}
    if "init" in given:
        return None
    metadata = given.get("metadata")
    told = (
        {} if metadata is None else {key.value: one for key, one in zip(metadata.keys, metadata.values, strict=True)}
    )
    return Flag(
        name=node.target.id,
        kind=ast.unparse(node.annotation).removesuffix(" | None").upper() if "nargs" not in told else "[VALUE]",
        default=constant(path, given.get("default")),
        required=node.value is None or not {"default", "default_factory"} & set(given),
        help=str(constant(path, told.get("help")) or ""),
        choices=list(constant(path, told.get("choices")) or []),
    )


def constant(path: Path, node: ast.expr | None) -> Any:
    """Return the value of an expression that is plain, or list(NAME) of a constant that the file imports."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "list":
        name = node.args[0].id
        home = imported(path)[name]
        values = (one.value for one in tree(home).body if isinstance(one, ast.Assign) and one.targets[0].id == name)
        return constant(home, next(values))
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:  # it depends on the machine
        return None


def imported(path: Path) -> dict[str, Path]:
    """Return the names that a file imports from files of this house, and these files."""
    found = {}
    for node in tree(path).body:
        if isinstance(node, ast.ImportFrom) and node.module and (node.level or node.module.startswith("kadapter.")):
            folder = path.parents[node.level - 1] if node.level else ROOT
            home = folder.joinpath(*node.module.removeprefix("kadapter.").split(".")).with_suffix(".py")
            found.update({one.name: home for one in node.names if home.is_file()})
    return found


def classes(path: Path) -> dict[str, ast.ClassDef]:
    """Return the classes of a file by name."""
    return {node.name: node for node in tree(path).body if isinstance(node, ast.ClassDef)}


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))
