"""Print a trainer's --help and refuse unknown flags within a second, by reading the sources without importing them.

The libraries that a training needs take seconds to import, which is too long for help on how to call it.
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
from .recipes import recipe_path

__all__ = ["answer"]

ROOT = Path(__file__).resolve().parents[2]
WIDTH, INDENT = 110, 34
PLUGINS = {
    "objective": "trainers/pretraining",
    "task": "trainers/tasks",
    "probe": "trainers/probes",
    "corpus": "data_builders",
}
PLURALS = {"objective": "objectives", "task": "tasks", "probe": "probes", "corpus": "corpora"}
PROGRAMS = {  # the dataclasses of each program, by file
    "run_adapter": {
        "common/arguments": ["AdapterArguments", "CorpusArguments", "RunArguments"],
        "feature_cache/options": ["CacheArguments"],
        "many_adapters/variants": ["VariantArguments"],
        "common/locality": ["LocalityArguments"],
    },
    "run_task": {"downstream/arguments": ["TaskArguments", "TaskCorpusArguments", "TaskRunArguments"]},
    "run_injection": {
        "injection/arguments": ["InjectionArguments"],
        "common/locality": ["LocalityArguments"],
        "common/arguments": ["RunArguments"],
    },
    "run_multitask": {
        "multitask/arguments": ["MultitaskArguments", "CorporaArguments"],
        "common/arguments": ["RunArguments"],
    },
    "run_probe": {"fact_probing/arguments": ["ProbeArguments"]},  # trains nothing
}
RECIPE = "YAML file of flags and values, or the name of one of kadapter's; other flags override it."


@dataclass
class Flag:
    """A flag as a dataclass of arguments declares it."""

    name: str
    value: str
    default: Any
    required: bool
    help: str
    choices: list[str]

    def __str__(self) -> str:
        notes = ["required"] * self.required
        if self.default not in (None, "", [], {}):
            notes.append(f"default {self.default}")
        text = f"{self.help} ({', '.join(notes)})" if notes else self.help
        return row(f"--{self.name} {'|'.join(self.choices) or self.value}", text)


def row(left: str, right: str) -> str:
    """Format a table row of two columns: the right one is wrapped, and starts below a left one that is too wide."""
    column = fill(right, WIDTH, initial_indent=" " * INDENT, subsequent_indent=" " * INDENT)
    return f"  {left:<{INDENT - 4}}  {column.lstrip()}" if len(left) < INDENT - 3 else f"  {left}\n{column}"


def answer(program: str, argv: list[str]) -> None:
    """Print the help of a trainer if it is requested, and refuse unknown flags and names of plug-ins, before all else.

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
    """Yield the help: the program, the available plug-ins, our flags by subject, and transformers' flags."""
    own = groups(program)
    yield ast.get_docstring(tree(ROOT / "trainers" / f"{program}.py")) or ""
    for plugin in chosen(own):
        yield f"\n{PLURALS[plugin]} (files of {PLUGINS[plugin]}/)"
        for name, path in discovery.files(ROOT / PLUGINS[plugin]).items():
            yield row(name, (ast.get_docstring(tree(path)) or "").partition("\n")[0])
    yield "\nflags\n" + str(Flag("recipe", "FILE", None, False, RECIPE, []))
    for subject, flags in own.items():
        yield f"\n{subject}"
        yield from map(str, flags.values())
    taken = {name for flags in own.values() for name in flags}
    others = [str(flag) for name, flag in theirs(program).items() if name not in taken]
    yield from ["\nand all of transformers' TrainingArguments:", *others] if others else []


def check(program: str, argv: list[str]) -> None:
    """Refuse mistakes that can be found without importing anything.

    Raises:
        ValueError: a required flag is missing, or a flag, an objective, a task or a corpus is unknown; the message
            names the closest, or lists all.
    """
    own, seen = groups(program), set()
    known = {name for flags in (*own.values(), theirs(program)) for name in flags} | {"recipe"}
    plugins = {name: plugin for plugin, plural in PLURALS.items() for name in (plugin, plural)}
    for position, argument in enumerate(argv):
        if not argument.startswith("--"):
            continue
        name, equals, value = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not {name, name.removeprefix("no_")} & known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '--{close[0]}'?" if close else "; --help lists all"
            raise ValueError(f"'--{name}' is no flag{hint}")
        seen.add(name)
        if name == "recipe" and (value or argv[position + 1 : position + 2]):
            recipe_path(value if equals else argv[position + 1])
        if name in plugins:
            following = takewhile(lambda text: not text.startswith("--"), argv[position + 1 :])
            for plugin_name in [value] if equals else following:
                discovery.check(plugins[name], plugin_name, list(discovery.files(ROOT / PLUGINS[plugins[name]])))
    required = [name for flags in own.values() for name, flag in flags.items() if flag.required and name not in seen]
    if required and not seen & {"recipe", "variants"}:  # whose files may hold them
        raise ValueError(f"{', '.join(f'--{name}' for name in required)} must be given; --help describes all flags")


def chosen(own: dict[str, dict[str, Flag]]) -> list[str]:
    """Return the plug-ins that a program's flags choose from."""
    names = {name for flags in own.values() for name in flags}
    return [plugin for plugin, plural in PLURALS.items() if {plugin, plural} & names]


def groups(program: str) -> dict[str, dict[str, Flag]]:
    """Return our flags of a program, by the first line of the docstring of their dataclass."""
    flags = {}
    for file, names in PROGRAMS[program].items():
        path = ROOT / "trainers" / f"{file}.py"
        for name in names:
            subject = (ast.get_docstring(classes(path)[name]) or "").partition("\n")[0]
            flags[subject.rstrip(".")] = flags_of(path, name)
    return flags


def theirs(program: str) -> dict[str, Flag]:
    """Return the flags of the installed transformers' TrainingArguments; none for a program that does not train."""
    if not any("Run" in name for names in PROGRAMS[program].values() for name in names):
        return {}
    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.origin is not None
    return flags_of(Path(spec.origin).parent / "training_args.py", "TrainingArguments")


def flags_of(path: Path, name: str) -> dict[str, Flag]:
    """Return the flags of a dataclass in a file, before those of its bases in this package."""
    flags: dict[str, Flag | None] = {}
    for node in classes(path)[name].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_":
            flags[node.target.id] = flag_of(path, node.target.id, node)
    for base in (node.id for node in classes(path)[name].bases if isinstance(node, ast.Name)):
        home = path if base in classes(path) else imported(path).get(base)
        if home is not None:
            flags |= {flag: value for flag, value in flags_of(home, base).items() if flag not in flags}
    return {name: flag for name, flag in flags.items() if flag is not None}


def flag_of(path: Path, name: str, node: ast.AnnAssign) -> Flag | None:
    """Return the flag for a field of a dataclass, None if the constructor does not take the field."""
    call = node.value if isinstance(node.value, ast.Call) else None
    options: dict[str | None, Any] = {key.arg: key.value for key in call.keywords} if call else {"default": node.value}
    if "init" in options:
        return None
    metadata = options.get("metadata")
    pairs = () if metadata is None else zip(metadata.keys, metadata.values, strict=True)
    values = {key.value: value for key, value in pairs}
    return Flag(
        name=name,
        value=ast.unparse(node.annotation).removesuffix(" | None").upper() if "nargs" not in values else "[VALUE]",
        default=constant(path, options.get("default")),
        required=node.value is None or not {"default", "default_factory"} & set(options),
        help=str(constant(path, values.get("help")) or ""),
        choices=list(constant(path, values.get("choices")) or []),
    )


def constant(path: Path, node: Any) -> Any:
    """Return the value of a literal expression, or of list(NAME) for a constant that the file has or imports."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "list":
        name = ast.unparse(node.args[0])
        home = imported(path).get(name, path)
        assignments = (statement for statement in tree(home).body if isinstance(statement, ast.Assign))
        return constant(home, next(each.value for each in assignments if ast.unparse(each.targets[0]) == name))
    try:
        return None if node is None else ast.literal_eval(node)
    except ValueError:  # the value depends on the machine
        return None


def imported(path: Path) -> dict[str, Path]:
    """Return the names that a file imports from files of this package, and those files."""
    files = {}
    for node in tree(path).body:
        if isinstance(node, ast.ImportFrom) and node.module and (node.level or node.module.startswith("kadapter.")):
            folder = path.parents[node.level - 1] if node.level else ROOT
            home = folder.joinpath(*node.module.removeprefix("kadapter.").split(".")).with_suffix(".py")
            files.update({alias.name: home for alias in node.names if home.is_file()})
    return files


def classes(path: Path) -> dict[str, ast.ClassDef]:
    """Return the classes of a file by name."""
    return {node.name: node for node in tree(path).body if isinstance(node, ast.ClassDef)}


@cache
def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))
