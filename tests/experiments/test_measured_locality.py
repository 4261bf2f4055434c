"""experiments/locality.py: what it measures, on features worked out by hand, and the table of a whole run."""

import importlib.util
import json
import sys

import pytest
import torch
from helpers import make_model
from tiny_runs import ROOT, write_ground
from typer import Typer
from typer.testing import CliRunner


@pytest.fixture
def locality(monkeypatch):
    spec = importlib.util.spec_from_file_location("locality", ROOT / "experiments" / "locality.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "locality", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = write_ground(tmp_path_factory.mktemp("ground"))
    for name in ("fac", "lin"):
        make_model(str(folder / "backbone"), name).save_adapter(folder / name, name)
    return folder


def command(locality, ground, output, *more):
    app = Typer(pretty_exceptions_enable=False)
    app.command()(locality.main)
    given = [ground / "fac", ground / "lin", "--backbone", ground / "backbone", "--corpus", "trex"]
    given += ["--data-dir", ground / "trex", "-o", output, "--texts", 20, "--probe-texts", 20, "--seeds", 2, *more]
    return CliRunner().invoke(app, [str(one) for one in given])


def angles(*degrees):
    turned = torch.tensor(degrees, dtype=torch.double) * torch.pi / 180
    return torch.stack([turned.cos(), turned.sin()], dim=1)


def test_neighbours_and_ranks_worked_out_by_hand(locality):
    before = angles(0, 10, 30, 70)  # nearest: 1, 0, 1, 2
    assert locality.kept(before, before * 3, 1) == 1.0 and locality.rank_correlation(before, before * 3) == 1.0
    assert locality.kept(before, angles(0, 50, 31, 70), 1) == pytest.approx(1 / 4)  # nearest: 2, 2, 1, 1
    assert locality.kept(before, angles(0, 50, 31, 70), 3) == 1.0  # all others
    # distances of the pairs 01 02 03 12 13 23: before 10 30 70 20 60 40, after 49 30 70 19 21 40
    ranks = (torch.tensor([0, 2, 5, 1, 4, 3.0]), torch.tensor([4, 2, 5, 0, 1, 3.0]))
    expected = 1 - 6 * (ranks[0] - ranks[1]).square().sum().item() / (6 * 35)
    assert locality.rank_correlation(before, angles(0, 49, 30, 70)) == pytest.approx(expected)


def test_a_mean_leaves_padding_out(locality):
    states = torch.tensor([[[2.0], [4.0], [90.0]]])
    assert locality.pool(states, torch.tensor([[1, 1, 0]])).tolist() == [[3.0]]


def test_one_command_measures_all_fusions_and_adapters(locality, ground, tmp_path):
    done = command(locality, ground, tmp_path)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "locality.json").read_text(encoding="utf-8"))["results"]
    assert list(results) == ["add", "concat", "gated", "gated_token", "delta", "max"]
    rows = ["new adapter", "new adapter of zeros", "fac", "lin", "fac + lin"]
    assert all(list(by_row) == rows for by_row in results.values())
    for run in results["delta"]["new adapter of zeros"]:
        assert (run["neighbours"], run["moved"], run["lost"]) == (1.0, 0.0, 0.0) and run["rank"] == pytest.approx(1.0)
    for run in results["delta"]["new adapter"]:
        assert run["neighbours"] > 0.9 and 0 < run["moved"] < 1e-4
    assert all(run["moved"] > 0.5 for runs in results["add"].values() for run in runs)
    assert results["delta"]["fac"][0] == results["delta"]["fac"][1]  # nothing there depends on the seed
    assert results["concat"]["fac"][0] != results["concat"]["fac"][1]
    table = (tmp_path / "locality.md").read_text(encoding="utf-8").splitlines()
    assert len(table) == 2 + 6 * 5 and table[0].split(" | ")[2:] == ["neighbours", "rank", "moved", "probe", "lost |"]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--fusion", "deltas"], "--fusion deltas is none of add, concat, gated, gated_token, delta, max"),
        (["--neighbours", "20"], "--neighbours 20 needs more than the 20 texts there are"),
        (["--split", "tests"], "has no split 'tests', only train, validation"),
    ],
)
def test_what_can_not_be_measured_is_refused(locality, ground, tmp_path, more, sentence):
    done = command(locality, ground, tmp_path / "out", *more)
    assert done.exit_code == 2 and sentence in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()
