"""The house keeps its shape: who imports whom, what travels to the Hub, how long things are."""

import ast
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from transformers.dynamic_module_utils import get_imports, get_relative_import_files, get_relative_imports

from kadapter import heads_kadapter, language_modeling_kadapter, map_kadapter, prenorm_kadapter, top_layers_kadapter
from kadapter.artifacts_kadapter import CODE
from kadapter.configuration_kadapter import RELEASE

REMOTE = sorted(ROOT.glob("*_kadapter.py"))
# Downward only: each file that travels to the Hub imports none but those before it.
ORDER = (
    *(
        "configuration",
        "backbone",
        "processing",
        "cards",
        "artifacts",
        "embeddings",
        "rows",
        "fusion",
        "modeling",
        "heads",
    ),
    *("language_modeling", "top_layers", "prenorm", "map", "pipelines", "several_heads"),
)
KINDS = ("map_kadapter.py", "prenorm_kadapter.py", "top_layers_kadapter.py")  # of plug-ins
HEADS = ("heads_kadapter.py", "language_modeling_kadapter.py")
LIBRARIES = {"torch", "transformers", "huggingface_hub", "safetensors", *sys.stdlib_module_names}
PLUGINS = ("data_builders", "graphs/formats", "metrics", "trainers/pretraining", "trainers/probes", "trainers/tasks")
LEFT = ("build", "dist", "quickstart-run", "quickstart-lm-run", "runs", "out")  # what builds and runs leave
CODE_FILES = [
    path
    for path in ROOT.rglob("*.py")
    if not {"tests", *LEFT} & set(path.relative_to(ROOT).parts)
    and not any(part.startswith((".", "venv")) for part in path.relative_to(ROOT).parts)
]


def short(path):
    return str(path.relative_to(ROOT))


def imports_of(path):
    """The modules that a file imports, absolute, with those of the house under the name kadapter."""
    parts = ["kadapter", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ([module] if node.module else [f"{module}.{one.name}" for one in node.names])


def outside(path):
    """The libraries that a file imports, without its own house and the language's own."""
    names = {name.partition(".")[0] for name in imports_of(path)}
    return names - set(sys.stdlib_module_names) - {"kadapter"}


@pytest.mark.parametrize("path", REMOTE, ids=short)
def test_files_that_travel_import_downward_and_only_what_every_hub_user_has(path):
    assert set(get_imports(path)) <= LIBRARIES
    rank = ORDER.index(path.stem.removesuffix("_kadapter"))
    assert {one.removesuffix("_kadapter") for one in get_relative_imports(path)} <= set(ORDER[:rank])


@pytest.mark.parametrize("path", REMOTE, ids=short)
def test_transformers_finds_the_imports_that_python_finds(path):
    found = {
        node.module
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level == 1
    }
    assert set(get_relative_imports(path)) == found  # it searches the text, so a docstring could mislead it


def test_ten_files_travel_and_a_model_without_a_head_reads_all_but_those_of_heads():
    assert {path.name for path in REMOTE} == {f"{name}_kadapter.py" for name in ORDER}
    # a table holds no code; the file of a kind of plug-ins travels with artifacts of that kind, pipelines with heads,
    # several heads with models that have them
    others = {"embeddings_kadapter.py", "pipelines_kadapter.py", "several_heads_kadapter.py", *KINDS}
    assert {path.name for path in REMOTE} - set(CODE) == others
    of_pipelines = {Path(path).name for path in get_relative_import_files(ROOT / "pipelines_kadapter.py")}
    assert of_pipelines <= set(CODE)
    read = {Path(path).name for path in get_relative_import_files(ROOT / "modeling_kadapter.py")}
    assert read | {"modeling_kadapter.py"} == set(CODE) - set(HEADS)
    with_heads = {Path(path).name for path in get_relative_import_files(ROOT / "heads_kadapter.py")}
    assert with_heads | {"heads_kadapter.py"} == set(CODE) - {"language_modeling_kadapter.py"}
    with_lm_heads = {Path(path).name for path in get_relative_import_files(ROOT / "language_modeling_kadapter.py")}
    assert with_lm_heads | {"language_modeling_kadapter.py"} == set(CODE)


@pytest.mark.parametrize("number", range(len(KINDS)), ids=KINDS)
def test_the_auto_classes_find_all_heads_in_the_file_of_a_kind(number):
    kind = (map_kadapter, prenorm_kadapter, top_layers_kadapter)[number]
    others = set(KINDS[number + 1 :])  # whose artifact may hold these kinds too
    assert {Path(path).name for path in get_relative_import_files(kind.__file__)} == set(CODE) | others
    heads = {*heads_kadapter.__all__, *language_modeling_kadapter.__all__}
    assert {name for name in heads if name.startswith("KAdapterFor")} <= set(dir(kind))


def test_the_configuration_names_the_release_that_all_travelling_files_make():
    # transformers would run the first of two equally named artifacts' code for both if this file's text were the same
    digest = runpy.run_path(str(ROOT / ".ci" / "renew_release.py"))["digest"]
    assert digest() == RELEASE, "run make style, which renews it"


def test_no_file_uses_a_private_name_of_another():
    for path in CODE_FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("kadapter")):
                private = [one.name for one in node.names if re.fullmatch("_[a-z].*", one.name)]
                modules = [name for name in private if list(path.parent.glob(f"{name}.py"))]
                assert private == modules, f"{short(path)} imports {private}"


def test_corpora_import_datasets_and_metrics_numpy_and_nothing_else_heavy():
    for path in (ROOT / "data_builders").glob("*.py"):
        assert not outside(path) & {"torch", "transformers", "accelerate", "evaluate"}, path
        assert {name for name in imports_of(path) if name.startswith("kadapter.")} <= {
            f"kadapter.data_builders.{one.stem}" for one in (ROOT / "data_builders").glob("_*.py")
        } | {"kadapter.data_builders", "kadapter.discovery"}, path
    for path in (ROOT / "metrics").glob("*.py"):
        assert outside(path) <= {"numpy", "evaluate", "datasets"}, path


@pytest.mark.parametrize("folder", [one for one in PLUGINS if (ROOT / one).is_dir()])
def test_plugins_of_one_folder_do_not_import_each_other(folder):
    plugins = {path.stem for path in (ROOT / folder).glob("*.py") if not path.stem.startswith("_")}
    dotted = f"kadapter.{folder.replace('/', '.')}"
    for path in (ROOT / folder).glob("[!_]*.py"):
        assert {f"{dotted}.{one}" for one in plugins} & set(imports_of(path)) == set(), path


def test_nothing_below_imports_the_trainers_or_the_hub():
    below = [*REMOTE, *(ROOT / "data_builders").glob("*.py"), *(ROOT / "metrics").glob("*.py")]
    upper = ("kadapter.trainers", "kadapter.hub", "kadapter.quickstart")
    assert [short(path) for path in below if any(name.startswith(upper) for name in imports_of(path))] == []
    assert [short(path) for path in (ROOT / "hub").glob("*.py") if "kadapter.trainers" in set(imports_of(path))] == []


def lines_of(function):
    """The lines of a function's signature and code, without its docstring."""
    documented = ast.get_docstring(function) is not None
    told = function.body[0].end_lineno - function.body[0].lineno + 1 if documented else 0
    return function.end_lineno - function.lineno + 1 - told


def test_files_and_functions_are_short():
    long, lengths = [], []
    for path in CODE_FILES:
        text = path.read_text(encoding="utf-8")
        limit = 1400 if path in REMOTE else 400  # a file is as long as its subject: nothing is cut to meet a number
        if text.count("\n") > limit:
            long.append(f"{short(path)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lengths.append(lines_of(node))
                if lengths[-1] > 42:
                    long.append(f"{short(path)}: {node.name} has {lengths[-1]} lines")
    assert long == []
    lengths.sort()
    assert len(lengths) > 1000
    assert lengths[len(lengths) // 2] <= 8 and lengths[len(lengths) * 95 // 100] <= 23


def test_no_file_has_the_name_by_which_peft_claims_a_model():
    written = [path for path in CODE_FILES if "adapter_config.json" in path.read_text(encoding="utf-8")]
    assert written == [] and not list(ROOT.rglob("adapter_config.json"))


@pytest.mark.slow
def test_tests_are_collected_in_a_checkout_of_any_name(tmp_path):
    checkout = tmp_path / "a b.c"  # the least like a module's; test_package has one of the usual name
    (checkout / "tests").mkdir(parents=True)
    shutil.copy(ROOT / "__init__.py", checkout)
    (checkout / "tests" / "test_one.py").write_text("def test_one():\n    assert True\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(checkout), "tests"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_experiment_ends_an_expected_error_with_its_sentence():
    programs = sorted((ROOT / "experiments").glob("[!_]*.py"))
    assert programs
    assert [path.name for path in programs if "    run_program(" not in path.read_text(encoding="utf-8")] == []


@pytest.mark.thorough
def test_an_experiment_without_its_recipe_says_so():
    others = [f"--{name}=x" for name in ("data-dir", "backbone", "map", "table")]
    flags = ["--recipe", "nowhere.yaml", *others, "-o", "x"]
    command = [sys.executable, str(ROOT / "experiments" / "map_tuning.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("map_tuning: there is no recipe 'nowhere.yaml'")
    assert "Traceback" not in done.stderr
