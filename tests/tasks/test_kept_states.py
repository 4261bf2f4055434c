"""The kept states of run_task.py: trusted only as they were written, and the same warm as cold to the last bit."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file
from tiny_runs import same_tensors
from tiny_tasks import predictions, task_flags, write_task_ground

from kadapter.trainers import run_task

pytestmark = pytest.mark.slow

TASK = "relation_classification"


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A corpus of which some sentences occur twice, in training and in validation."""
    folder = write_task_ground(tmp_path_factory.mktemp("ground"), TASK)
    for name in ("train", "dev"):
        path = folder / TASK / f"{name}.json"
        records = json.loads(path.read_text(encoding="utf-8"))
        again = [{**one, "id": f"{one['id']}-again"} for one in records[2:7]]
        path.write_text(json.dumps([*records, *again]), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def cold(ground, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cold")
    train(ground, folder / "out", folder / "states")
    return folder


def train(ground, output, states):
    return run_task.main(task_flags(ground, output, "--states_dir", states))


def assert_same(one, other):
    assert same_tensors(one, other)
    assert predictions(one) == predictions(other)  # with their scores


def test_a_warm_run_equals_a_cold_one_though_examples_occur_twice(ground, cold, tmp_path, capsys):
    train(ground, tmp_path / "out", cold / "states")
    assert "41 examples, 33 of them different of" in capsys.readouterr().out
    assert_same(tmp_path / "out", cold / "out")


def evaluated(output):
    return json.loads((output / "all_results.json").read_text(encoding="utf-8"))["eval_loss"]


def zeroed(path):
    shard = load_file(path)
    save_file({**shard, "states": shard["states"] * 0}, path)


def not_a_number(path):
    shard = load_file(path)
    shard["states"][0, 0, 0] = float("nan")
    save_file(shard, path)


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-9] ^= 64
    path.write_bytes(bytes(data))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def of_another_source(path):
    others = [one for one in path.parent.parent.iterdir() if one != path.parent]
    path.unlink()
    for shard in others[0].glob("*.safetensors"):
        shutil.copy(shard, path.parent)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [zeroed, not_a_number, flipped, cut, of_another_source])
def test_a_shard_that_was_changed_is_named_and_its_examples_are_encoded_again(ground, cold, tmp_path, capsys, harm):
    states = shutil.copytree(cold / "states", tmp_path / "states")
    for folder in sorted(states.iterdir()):
        for path in sorted(folder.glob("*.safetensors")):
            harm(path)
    train(ground, tmp_path / "out", states)
    printed = capsys.readouterr().out
    assert "is not used: it was" in printed and "its examples are encoded again" in printed
    assert_same(tmp_path / "out", cold / "out")
    train(ground, tmp_path / "again", states)
    assert "is not used" not in capsys.readouterr().out
    assert_same(tmp_path / "again", cold / "out")


def test_an_encoder_that_gives_nan_is_told_as_such(ground, tmp_path):
    backbone = shutil.copytree(ground / "backbone", tmp_path / "backbone")
    weights = load_file(backbone / "model.safetensors")
    weights["embeddings.LayerNorm.weight"][3] = float("nan")
    save_file(weights, backbone / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"the states of 'backbone' hold NaN or infinite values .* look at its weights"
    ):
        run_task.main(task_flags(ground, tmp_path / "out", "--backbone", backbone, adapters=("none",)))


def test_what_exceeds_the_budget_is_encoded_each_time_and_not_kept(ground, cold, tmp_path, capsys):
    budget = ("--states_dir", tmp_path / "states", "--cache_budget", "10KB")
    run_task.main(task_flags(ground, tmp_path / "first", *budget))
    assert "others have taken the room; raise --cache_budget for the next run" in capsys.readouterr().out
    run_task.main(task_flags(ground, tmp_path / "second", *budget))
    assert "33 encoded now" in capsys.readouterr().out
    expected = evaluated(cold / "out")
    for output in ("first", "second"):  # not to the bit: without room an example is encoded once in each split
        assert evaluated(tmp_path / output) == pytest.approx(expected, rel=1e-3)
    files = [path for path in (tmp_path / "states").rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= 10_000
    with pytest.raises(ValueError, match=r"--cache_budget '50 gigs' is no size; give a number with its unit"):
        run_task.main(task_flags(ground, tmp_path / "out", "--cache_budget", "50 gigs"))
