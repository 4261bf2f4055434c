"""`recipes/publish/adapters.py` builds adapters ready to be pushed: tiny ones here, by the code of the large ones."""

import importlib.util
import json
import random
import re
import sys

import pytest
from helpers import ROOT
from tiny_runs import PEOPLE, PLACES, relation_record, sentence, tokenizer_of, write_backbone
from tiny_tasks import fewrel
from typer.testing import CliRunner

import kadapter
from kadapter.commands import app

pytestmark = [pytest.mark.slow, pytest.mark.thorough]


def program():
    path = ROOT / "recipes" / "publish" / "adapters.py"
    spec = importlib.util.spec_from_file_location("adapters_to_publish", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("corpora"), random.Random(0)
    (folder / "fewrel").mkdir()
    (folder / "treebank").mkdir()
    records = [{**relation_record(number, rng), "id": str(number)} for number in range(60)]
    (folder / "fewrel" / "relations_a.json").write_text(json.dumps(fewrel(records)), encoding="utf-8")
    for name in ("train", "dev"):
        trees = "".join(sentence(f"{name}-{number}", rng) for number in range(20))
        (folder / "treebank" / f"{name}.conllu").write_text(trees, encoding="utf-8")
    texts = [f" {name} works born died in @ # ." for name in (*PEOPLE, *PLACES)]
    write_backbone(folder / "backbone", tokenizer_of(texts * 3), num_hidden_layers=6, longest=128)
    return folder


def flags(corpora, output):
    return {
        "fewrel": corpora / "fewrel",
        "treebank": corpora / "treebank",
        "backbone": str(corpora / "backbone"),
        "output_dir": output,
        "owner": "org",
        "seed": 0,
        "max_train_samples": 24,
        "max_eval_samples": 8,
        "max_steps": 2,
    }


@pytest.fixture(scope="module")
def built(corpora, tmp_path_factory):
    """The folder that was built, what was printed, and what a second call printed."""
    from contextlib import redirect_stdout
    from io import StringIO

    folder, printed = tmp_path_factory.mktemp("published") / "out", []
    for _ in range(2):
        with redirect_stdout(StringIO()) as output:
            program().main(**flags(corpora, folder))
        printed.append(output.getvalue())
    return folder, *printed


@pytest.mark.parametrize("name", ["fac", "lin", "mlm"])
def test_an_adapter_is_an_artifact_with_a_card_and_results(built, name):
    where = built[0] / f"kadapter-{name}"
    shown = CliRunner().invoke(app, ["inspect", str(where), "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["adapters"][name]["training"]["results"]
    assert CliRunner().invoke(app, ["verify", str(where)]).exit_code == 0
    assert "---" in (where / "README.md").read_text(encoding="utf-8")


def test_results_stand_beside_those_of_the_same_head_without_an_adapter(built):
    results = json.loads((built[0] / "results.json").read_text(encoding="utf-8"))
    assert {name: len(values) for name, values in results.items()} == {"fac": 2, "lin": 2, "lm-head": 1, "mlm": 1}
    assert all(0 <= value <= 1 for values in results.values() for value in values)
    table = (built[0] / "results.md").read_text(encoding="utf-8")
    assert table in built[1] and f"{results['lin'][1]:.4f}" in table


def test_what_was_built_is_not_trained_again_and_gives_the_same(built):
    assert "training:" in built[1] and "training:" not in built[2]
    assert re.findall(r"^\| .*$", built[1], re.MULTILINE) == re.findall(r"^\| .*$", built[2], re.MULTILINE)


def test_the_commands_that_push_name_artifacts_and_their_owner(built):
    commands = re.findall(r"^kadapter push (\S+) (\S+)$", built[1], re.MULTILINE)
    assert [name for _, name in commands] == [
        f"org/kadapter-{name}-minilm" for name in ("fac", "lin", "lm-head", "mlm")
    ]
    for where, _ in commands:
        assert CliRunner().invoke(app, ["inspect", where]).exit_code == 0
    assert "build with a Hub id before pushing" in built[1] and "roberta-large" in built[1]


def test_the_first_lines_of_the_readme_work_with_what_was_built(built, tmp_path, monkeypatch):
    (tmp_path / "org").mkdir()
    for name in ("fac", "lin"):
        (tmp_path / "org" / f"kadapter-{name}").symlink_to(built[0] / f"kadapter-{name}")
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## First lines")[1].split("\n## ")[0]
    namespace = {}
    for code in re.findall("```python\n(.*?)```", section, flags=re.DOTALL):
        exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["head"].shape == namespace["tail"].shape == (32,)
    assert isinstance(namespace["model"], kadapter.KAdapterModel)


def test_a_corpus_that_is_not_there_ends_it_in_a_sentence_before_anything_is_trained(corpora, tmp_path):
    with pytest.raises(OSError, match=r"there is no directory '.*nowhere'; name the one that holds the corpus"):
        program().main(**{**flags(corpora, tmp_path / "out"), "treebank": tmp_path / "nowhere"})
    assert not (tmp_path / "out").exists()
