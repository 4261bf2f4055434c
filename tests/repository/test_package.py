"""The package as users meet it: installed from a checkout in a directory named K-Adapter, in either way."""

import ast
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from configparser import ConfigParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NOT_SHIPPED = {"tests", "benchmarks", "demo", "examples", "experiments", "docs", "recipes"}
# What a clone would not have: environments, caches, what builds and runs leave behind.
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "venv", ".*_cache", "__pycache__", "build", "*.egg-info", "runs", "out", "quickstart-*run"
)
SITE_PACKAGES = sysconfig.get_path("purelib")


def modules(root: Path) -> list[Path]:
    """All modules that the package holds, relative to the checkout."""
    found = (path.relative_to(root) for path in root.rglob("*.py"))
    hidden = (path for path in found if not any(part.startswith(".") for part in path.parts))
    return sorted(
        path
        for path in hidden
        if path.parts[0] not in NOT_SHIPPED | {"venv", "build", "quickstart-run", "quickstart-lm-run"}
    )


OF_EXTRAS = {"commands/_demo_page.py": "demo"}  # modules that nothing imports where the extra is not installed


def data_files(root: Path) -> list[Path]:
    """The recipes and the quickstart's corpora, relative to the checkout."""
    facts = ("quickstart/facts/*.txt", "quickstart/facts/*.tsv")
    facts += ("quickstart/people/*", "quickstart/towns/*")
    patterns = ("py.typed", "recipes/*.yaml", "recipes/*.jsonl", *facts, "quickstart/grammar/*.conllu")
    return sorted(path.relative_to(root) for pattern in patterns for path in root.glob(pattern))


def pip_install(*options: str, cwd: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", *options]
    done = subprocess.run(command, check=False, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in a directory whose name is no Python identifier."""
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("copy") / "K-Adapter", ignore=LEFT_OUT))


@pytest.fixture(scope="module")
def regular(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which `pip install .` put the package."""
    target = tmp_path_factory.mktemp("regular")
    pip_install(".", "--target", str(target), cwd=checkout)
    return target


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which `pip install -e .` put its link to the checkout."""
    prefix = tmp_path_factory.mktemp("editable")
    pip_install("-e", ".", "--ignore-installed", "--prefix", str(prefix), cwd=checkout)
    return Path(sysconfig.get_path("purelib", vars={"base": str(prefix)}))


@pytest.fixture(params=["regular", "editable"])
def installed(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """Where the package was installed, and the folder that it is then imported from."""
    where = request.getfixturevalue(request.param)
    return where, where / "kadapter" if request.param == "regular" else request.getfixturevalue("checkout")


def answer(code: str, where: Path, cwd: Path) -> object:
    """What the code prints, as JSON, in a fresh process that sees this installation and no other of kadapter."""
    # Without `site` (-S) the environment's own link to a checkout is not followed; the rest of it is added plainly.
    prelude = f"import json, site, sys; site.addsitedir({str(where)!r}); sys.path.append({SITE_PACKAGES!r})\n"
    command = [sys.executable, "-S", "-P", "-c", prelude + code]
    done = subprocess.run(command, check=False, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_regular_install_holds_exactly_our_modules_corpora_and_recipes(checkout: Path, regular: Path) -> None:
    files = (path.relative_to(regular / "kadapter") for path in (regular / "kadapter").rglob("*") if path.is_file())
    held = sorted(path for path in files if path.suffix != ".pyc")
    expected = sorted(modules(checkout) + data_files(checkout))
    assert held == expected
    assert {"recipes", "quickstart", "trainers", "data_builders"} <= {path.parts[0] for path in held}


def test_a_regular_install_puts_nothing_beside_the_package(regular: Path) -> None:
    names = {path.name for path in regular.iterdir()}
    assert names == {"kadapter", "bin", f"kadapter-{importlib.metadata.version('kadapter')}.dist-info"}
    assert sorted(path.name for path in (regular / "bin").iterdir()) == ["hf-kadapter", "kadapter"]
    assert next(regular.glob("*.dist-info")).joinpath("licenses", "LICENSE").read_text().count("Apache License") > 0


def test_importing_the_package_brings_neither_torch_nor_transformers(
    installed: tuple[Path, Path], tmp_path: Path
) -> None:
    where, home = installed
    code = "import kadapter; print(json.dumps([kadapter.__file__, kadapter.__version__, sorted(sys.modules)]))"
    file, version, loaded = answer(code, where, tmp_path)
    assert Path(file) == home / "__init__.py"
    assert version == importlib.metadata.version("kadapter")
    assert not {"torch", "transformers", "datasets", "huggingface_hub", "numpy"} & set(loaded)


def test_importing_a_model_registers_the_auto_classes(installed: tuple[Path, Path], tmp_path: Path) -> None:
    where, home = installed
    code = """
from kadapter import KAdapterModel
import transformers
config = transformers.AutoConfig.for_model("kadapter")
print(json.dumps([sys.modules[KAdapterModel.__module__].__file__, type(config).__module__, type(config).__name__,
    [each.__name__ for each in transformers.MODEL_MAPPING[type(config)]]]))
"""
    file, module, name, classes = answer(code, where, tmp_path)
    assert Path(file) == home / "modeling_kadapter.py"
    assert (module, name) == ("kadapter.configuration_kadapter", "KAdapterConfig")
    assert classes == ["KAdapterModel", "KAdapterModelWithHeads"]


def test_recipes_and_the_files_they_name_are_found_far_from_a_checkout(regular: Path, tmp_path: Path) -> None:
    code = """
from pathlib import Path
from kadapter.trainers.common.recipes import data_file, recipe_path
recipe = recipe_path("injection_minilm")
print(json.dumps([str(recipe), data_file("recipes/phrasings_wikidata.jsonl", recipe)]))
"""
    recipes = regular / "kadapter" / "recipes"
    assert answer(code, regular, tmp_path) == [
        str(recipes / "injection_minilm.yaml"),
        str(recipes / "phrasings_wikidata.jsonl"),
    ]


@pytest.mark.thorough
def test_every_module_can_be_imported_from_a_regular_install(regular: Path, checkout: Path, tmp_path: Path) -> None:
    paths = [path for path in modules(checkout) if path.name != "__main__.py" and path.as_posix() not in OF_EXTRAS]
    names = [".".join(("kadapter", *path.with_suffix("").parts)).removesuffix(".__init__") for path in paths]
    code = f"""
import contextlib, importlib, io
with contextlib.redirect_stdout(io.StringIO()):
    files = [importlib.import_module(name).__file__ for name in {names}]
print(json.dumps(files))
"""
    files = answer(code, regular, tmp_path)
    assert [Path(file).relative_to(regular / "kadapter") for file in files] == paths


def test_the_tests_are_collected_in_a_directory_named_k_adapter(checkout: Path) -> None:
    # A relative import at the top of the root __init__.py would stop pytest there, and only there.
    command = [sys.executable, "-P", "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    command += ["tests/repository/test_package.py"]  # one file says what all would
    done = subprocess.run(command, check=False, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ tests collected", done.stdout, flags=re.MULTILINE)
    assert "test_package.py::test_the_tests_are_collected" in done.stdout


def test_the_package_under_test_is_this_checkout() -> None:
    import kadapter

    assert Path(kadapter.__file__).resolve().parent == ROOT, (
        "install the checkout that the tests stand in: make install"
    )


# --- what setup.cfg and constraints.txt declare


def declared() -> dict[str, list[Requirement]]:
    """The requirements of setup.cfg: those of the package under "", those of the extras under their names."""
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    groups = {"": parser["options"]["install_requires"], **parser["options.extras_require"]}
    return {name: [Requirement(line) for line in text.split("\n") if line] for name, text in groups.items()}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_every_requirement_is_pinned_to_a_version_that_it_allows() -> None:
    pins = pinned()
    requirements = [one for group in declared().values() for one in group]
    assert len(requirements) > 15
    assert [str(one) for one in requirements if not one.specifier.contains(pins.get(one.name, "0"))] == []


def imported(path: Path, at_its_top: bool = False) -> set[str]:
    """The top-level names of what a file imports, anywhere or at its top alone."""
    names, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if at_its_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def undeclared(path: Path) -> set[str]:
    """What a module imports that neither Python, setup.cfg nor the project itself provides, or an extra at its top."""
    names = {group: {one.name.replace("-", "_") for one in requirements} for group, requirements in declared().items()}
    projects = names[""] | names.get(OF_EXTRAS.get(path.as_posix(), ""), set())
    optional = names["quantization"] | names["graphs"] | names["benchmarks"] | names["demo"]
    other_names = {"pyyaml": "yaml", "scikit_learn": "sklearn"}
    provided = {other_names.get(name, name) for name in projects} | set(sys.stdlib_module_names)
    needed = imported(ROOT / path) - (optional - imported(ROOT / path, at_its_top=True))
    return needed - provided - {"kadapter", "_bootstrap"}


def test_everything_that_a_module_imports_is_declared() -> None:
    assert {str(path): names for path in modules(ROOT) if (names := undeclared(path))} == {}
