"""A run says what it will cost before most of it is spent, shows its loss early and often, and where the result is."""

import re

import pytest
from tiny_runs import flags, losses, write_ground

from kadapter import KAdapterModel
from kadapter.trainers import run_adapter
from kadapter.trainers.common.progress import readable

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


def without(argv, name):
    place = argv.index(name)
    return argv[:place] + argv[place + 2 :]


def test_a_run_says_its_cost_shows_its_loss_and_ends_with_how_its_result_is_loaded(ground, tmp_path, capsys):
    argv = flags(ground, "factual", tmp_path / "out", "--report_to", "none", "--max_steps", "40")
    run_adapter.main([*without(argv, "--logging_steps"), "--save_strategy", "no"])
    lines = capsys.readouterr().out.splitlines()
    cost = [line for line in lines if line.startswith("training: ")]
    assert cost[0] == "training: 40 examples, 40 steps; the first ones will show how long it takes"
    assert re.fullmatch(r"training: \S+ seconds a step, so the other 36 steps take about \d+ seconds", cost[1])
    first_loss = next(place for place, line in enumerate(lines) if line.startswith("{'loss'"))
    assert lines.index(cost[0]) < first_loss < lines.index(cost[1])
    assert list(losses(tmp_path / "out")) == [1, *range(2, 41, 2)]
    path = re.match(r"saved to \S+; load it by KAdapterModel.from_pretrained\('(.+?)'\), or without", lines[-1])[1]
    assert KAdapterModel.from_pretrained(path).active_adapters() == ["fac"]


def test_each_of_several_adapters_says_its_cost_under_its_name(ground, tmp_path, capsys):
    path = tmp_path / "variants.yaml"
    path.write_text("one: {seed: 1}\ntwo: {seed: 2}\n", encoding="utf-8")
    argv = without(
        flags(ground, "factual", tmp_path / "out", "--report_to", "none", "--max_steps", "6"), "--adapter_name"
    )
    run_adapter.main([*argv, "--save_strategy", "no", "--variants", str(path)])
    said = re.findall(r"^(\w+): 40 examples, 6 steps", capsys.readouterr().out, re.MULTILINE)
    assert sorted(said) == ["one", "two"]


@pytest.mark.parametrize(("seconds", "text"), [(4, "4 seconds"), (600, "10 minutes"), (9000, "2.5 hours")])
def test_a_time_is_told_in_the_unit_that_a_reader_wants(seconds, text):
    assert readable(seconds) == text
