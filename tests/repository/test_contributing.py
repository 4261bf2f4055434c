"""CONTRIBUTING.md is followed to the letter in a copy of the house: a corpus and an objective, one file each."""

import json
import re
import shutil

import pytest
from helpers import ROOT, run_python
from tiny_runs import write_backbone

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks():
    """The files that the page tells to add: their paths and texts."""
    paths = re.findall(r"put it into `([\w/]+\.py)`", TEXT)
    return dict(zip(paths, re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL), strict=True))


def run(house, code, *arguments):
    """What code prints in a process of its own, whose package is the copy."""
    return run_python(code, house / "kadapter", *arguments, package=True, PYTHONPATH=str(house)).stdout


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """The folder that holds the copy, as the package `kadapter`."""
    folder = tmp_path_factory.mktemp("house")
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "quickstart-*run", "__pycache__", "golden")
    shutil.copytree(ROOT, folder / "kadapter", ignore=left_out, symlinks=True)
    for path, text in blocks().items():
        (folder / "kadapter" / path).write_text(text, encoding="utf-8")
    return folder


def test_the_page_adds_a_corpus_and_an_objective():
    assert list(blocks()) == ["data_builders/bracketed.py", "trainers/pretraining/order.py"]


@pytest.mark.thorough
@pytest.mark.slow
def test_the_shared_tests_find_the_new_corpus_and_it_holds_their_contract(house):
    code = "import pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    tests = "tests/data/test_data_builders.py"
    printed = run(house, code, "-q", "-p", "no:cacheprovider", tests, "-k", "bracketed")
    assert int(re.search(r"(\d+) passed", printed)[1]) > 10


@pytest.mark.thorough
@pytest.mark.slow
def test_the_new_objective_trains_an_adapter_on_the_new_corpus(house, tmp_path):
    write_backbone(tmp_path / "backbone")
    (tmp_path / "data").mkdir()
    lines = [f"[Mira Voss] wrote {number} letters to [Kell]\twrites" for number in range(12)]
    lines += [f"In [Kell] rested {number} times [Mira Voss]\trests" for number in range(12)]
    for name in ("train", "dev"):
        (tmp_path / "data" / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    flags = [
        "--objective",
        "order",
        "--corpus",
        "bracketed",
        "--data_dir",
        tmp_path / "data",
        "--do_train",
        "--do_eval",
    ]
    flags += ["--backbone", tmp_path / "backbone", "--output_dir", tmp_path / "out", "--max_length", "40"]
    run(
        house,
        "from kadapter.trainers import run_adapter\nrun_adapter.main()",
        *flags,
        "--adapter_name",
        "order",
        "--num_train_epochs",
        "1",
        "--bf16",
        "False",
    )
    written = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    (adapter,) = written["adapters"].values()
    assert adapter["training"]["objective"] == "order" and "accuracy" in adapter["training"]["results"]


def test_everything_that_the_page_names_is_there():
    for name in re.findall(r"`([\w./]+\.py)`", TEXT):
        if name not in blocks() and "KIND" not in name:
            folders = ("", "trainers/", "trainers/tasks/")
            assert any((ROOT / folder / name).exists() for folder in folders), name
