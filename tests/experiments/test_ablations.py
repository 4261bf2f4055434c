"""experiments/ablations.py: flags make every variant, finished runs are kept, and bad recipes are refused."""

import importlib.util
import json
import sys

import pytest
import yaml
from tiny_runs import ROOT, digest, write_ground
from tiny_tasks import run_of, write_corpus
from typer import Typer
from typer.testing import CliRunner

from kadapter.trainers import run_adapter
from kadapter.trainers.common.arguments import parse_arguments

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

RECIPE = ROOT / "recipes" / "ablations_minilm.yaml"
SMALL = {"adapter_hidden_size": 12, "adapter_intermediate_size": 16, "adapter_num_attention_heads": 2}
SMALL |= {"objective": "factual", "corpus": "trex", "adapter_name": "fac", "layers": [0, 2, 4], "max_length": 40}
SMALL |= {"do_train": True, "do_eval": True, "max_steps": 2, "report_to": "none", "disable_tqdm": True}
TASK = {"task": "relation_classification", "max_length": 40, "do_train": True, "do_eval": True, "max_steps": 2}
TASK |= {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seeds": [0]}
VARIANTS = {
    "inner width": {8: {"adapter_hidden_size": 8}},
    "inner depth": {"0, the sum of the taps": {"adapter_num_hidden_layers": 0}, 1: {"adapter_num_hidden_layers": 1}},
    "layers": {"early": {"layers": [0, 1]}},
    "fusion": {"gated": {"fusion": "gated"}},
    "mask padding": {"no": {"mask_padding": False}},
    "adapter": {"none": {"without_adapter": True}},
}


@pytest.fixture(scope="module")
def ablations():
    spec = importlib.util.spec_from_file_location("ablations", ROOT / "experiments" / "ablations.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["ablations"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = write_ground(tmp_path_factory.mktemp("ground"))
    write_corpus(folder / TASK["task"], TASK["task"])
    return folder


def write_recipe(folder, **changes):
    folder.mkdir(exist_ok=True)
    task = {**TASK, "states_dir": str(folder / "states")}
    told = {"pretraining": SMALL, "downstream": task, "variants": VARIANTS, **changes}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    return path


def command(ablations, ground, output, *more, recipe=None):
    """Run the command; returns what it printed."""
    app = Typer(pretty_exceptions_enable=False)
    app.command()(ablations.main)
    recipe = recipe or write_recipe(output.parent / "recipe")
    given = ["--backbone", ground / "backbone", "--data-dir", ground / "trex", "-o", output, "--recipe", recipe, *more]
    return CliRunner().invoke(app, [*map(str, given)], catch_exceptions=False).output


def test_every_variant_is_trained_put_to_work_and_compared(ablations, ground, tmp_path):
    output = tmp_path / "out"
    command(ablations, ground, output, "--task-data-dir", ground / TASK["task"])
    lines = (output / "ablations.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["what", "variant", "parameters", "micro_f1", "less base"]
    names = [("", "base"), *((group, str(name)) for group, named in VARIANTS.items() for name in named)]
    assert [(row[0], row[1]) for row in cells[2:]] == names
    size = {f"{row[0]} {row[1]}": int(row[2].replace(",", "")) for row in cells[2:]}
    assert size["inner depth 0, the sum of the taps"] == size["adapter none"] == 0
    assert size["inner width 8"] < size[" base"] and size["inner depth 1"] < size[" base"] == size["mask padding no"]
    runs = {run_of(path.parent)["row"]: run_of(path.parent) for path in (output / "task").rglob("run.json")}
    assert runs.keys() == {"base", *(f"{group}: {name}" for group, name in names[1:])}
    assert runs["fusion: gated"]["fusion"] == "gated" and runs["adapter: none"]["adapters"] == []
    told = (output / "report" / "report.md").read_text(encoding="utf-8")
    assert "less base" in told and all(row in told for row in runs)


def test_a_run_that_broke_off_goes_on_where_it_stopped(ablations, ground, tmp_path, monkeypatch):
    output, given, trained = tmp_path / "out", ["--only", "layers", "--only", "fusion", "--seeds", "2"], []
    train = run_adapter.main

    def dying(argv):
        if len(trained) == 3:
            raise OSError("no space is left")
        trained.append(argv[argv.index("--output_dir") + 1])
        return train(argv)

    monkeypatch.setattr(run_adapter, "main", dying)
    with pytest.raises(OSError, match="no space is left"):
        command(ablations, ground, output, *given)
    assert len(trained) == 3 and len(json.loads((output / "ablations.json").read_text())) == 3
    monkeypatch.setattr(run_adapter, "main", lambda argv: trained.append(argv) or train(argv))
    command(ablations, ground, output, *given)
    assert len(trained) == 6  # base, early and gated, with two seeds each
    assert "±" in (output / "ablations.md").read_text(encoding="utf-8")
    before = digest(output)
    command(ablations, ground, output, *given)
    assert len(trained) == 6 and digest(output) == before
    with pytest.raises(ValueError, match="holds 'base, seed 0' with different flags; choose another --output-dir"):
        command(ablations, ground, output, *given, "--", "--learning_rate", "1")


@pytest.mark.parametrize(
    ("changes", "more", "sentence"),
    [
        ({}, ["--only", "width"], r"--only 'width' is no group of .*; the groups are inner width, inner depth"),
        ({"variants": None}, [], r"must map 'variants' to flags and values"),
        ({"variants": {"layers": {"early": [0]}}}, [], r"layers: early must map flags to values, not \[0\]"),
        ({"variants": {"width": {8: {"adapter_width": 8}}}}, [], r"variant 'width: 8': '--adapter_width' is no flag"),
    ],
)
def test_bad_recipes_are_told_before_anything_is_trained(ablations, ground, tmp_path, changes, more, sentence):
    recipe = write_recipe(tmp_path / "recipe", **changes)
    with pytest.raises(ValueError, match=sentence):
        command(ablations, ground, tmp_path / "out", *more, recipe=recipe)
    assert not (tmp_path / "out").exists()


def test_the_recipe_varies_what_people_vary_by_flags_that_exist(ablations):
    told = ablations.read_recipe(RECIPE)
    assert set(told["variants"]) >= {*VARIANTS, "number of layers"}
    assert told["variants"]["layers"].keys() == {"early", "middle", "late", "spread"}
    place = ["--backbone", "x", "--data_dir", "x", "--output_dir", "x"]
    for one in ablations.variants_of(told["variants"], None, RECIPE):
        flags = ablations.flags_of({**told["pretraining"], **one.changed}, RECIPE.parent)
        _, adapter, _ = parse_arguments([*flags, *place])
        assert (
            adapter.objective == "factual" and adapter.adapter_hidden_size % adapter.adapter_num_attention_heads == 0
        )
