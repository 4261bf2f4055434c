"""Several adapters trained at once are bit for bit those of runs of their own, and the backbone reads once."""

import json
import re
import shutil

import pytest
import yaml
from tiny_runs import flags, losses, results, results_alike, same_tensors, sentences_read, write_ground

from kadapter import KAdapterModel
from kadapter.trainers import run_adapter
from kadapter.trainers.common.checkpoints import last_complete_checkpoint

pytestmark = pytest.mark.slow

QUIET = ("--report_to", "none", "--save_strategy", "no")
ORDER = ("--data_seed", "7")
VARIANTS = {
    "plain": {"seed": 1, "max_grad_norm": 0.1},
    "narrow": {"layers": [1, 3], "adapter_hidden_size": 8, "learning_rate": "3e-3", "seed": 2, "adapter_dropout": 0.3},
    "head-only": {"without_adapter": True, "seed": 3, "weight_decay": 0.1, "warmup_steps": 3},
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def read():
    with sentences_read() as sizes:
        yield sizes


def run_together(ground, output, *more, variants=VARIANTS, objective="linguistic", order=ORDER):
    file = output.parent / f"{output.name}.yaml"
    file.write_text(variants if isinstance(variants, str) else yaml.safe_dump(variants), encoding="utf-8")
    return run_adapter.main(flags(ground, objective, output, *QUIET, *order, "--variants", file, *more))


def run_alone(ground, output, name, *more, variants=VARIANTS, objective="linguistic"):
    own = [
        part
        for key, value in variants[name].items()
        for part in (f"--{key}", *(value if isinstance(value, list) else [value]))
    ]
    run_adapter.main(flags(ground, objective, output, *QUIET, *ORDER, "--adapter_name", name, *own, *more))
    return output


@pytest.fixture(scope="module")
def alone(ground, read, tmp_path_factory):
    """The outputs of lone runs by name, and in how many batches the backbone read in the first."""
    folder, start = tmp_path_factory.mktemp("alone"), len(read)
    outputs = {}
    for name in VARIANTS:
        outputs[name] = run_alone(ground, folder / name, name)
        outputs.setdefault("reads", len(read) - start)
    return outputs


@pytest.fixture(scope="module")
def together(ground, read, alone, tmp_path_factory):
    """One run of all with checkpoints: its output, what it returned, and in how many batches the backbone read."""
    output, start = tmp_path_factory.mktemp("together") / "out", len(read)
    returned = run_together(ground, output, "--save_strategy", "steps", "--report_to", "tensorboard")
    return output, returned, len(read) - start


def told(path):
    """The text of a file; of a card without its mark, and without what says how long a run took on which command."""
    text = path.read_text(encoding="utf-8")
    return re.sub("<!--.*?-->|## How it was trained.*?(?=\n## )", "", text, flags=re.DOTALL)


def assert_same_run(one, other):
    assert losses(one) == losses(other) and len(losses(one)) >= 10
    assert same_tensors(one / "pretraining_head", other / "pretraining_head")
    for file in ("config.json", "pretraining_head/config.json", "README.md"):
        if (other / file).exists():
            assert told(one / file) == told(other / file), file
    assert (one / "model.safetensors").exists() == (other / "model.safetensors").exists()
    assert not (other / "model.safetensors").exists() or same_tensors(one, other)
    assert results_alike(one, other)


# ---- the same bits, and the backbone's work done once ---------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_each_adapter_is_bit_for_bit_what_a_run_of_its_own_trains(together, alone, name):
    assert_same_run(together[0] / name, alone[name])


def test_the_backbone_reads_each_batch_once_for_all(together, alone):
    assert together[2] == alone["reads"] == 2 * 5 + 2  # 5 steps in each of two epochs, and two batches of evaluation


@pytest.mark.thorough
def test_the_cache_holds_what_any_of_them_taps_and_changes_no_bit(ground, alone, read, tmp_path, capsys):
    cache = ["--cache_features", tmp_path / "features"]
    start = len(read)
    run_together(ground, tmp_path / "first", *cache)
    assert sum(read[start:]) == 40 + 13
    printed = capsys.readouterr().out
    assert "hidden states [0, 1, 2, 3, 4] in" in printed and printed.count("the backbone leaves memory") == 1
    run_together(ground, tmp_path / "second", *cache)
    assert sum(read[start:]) == 40 + 13
    for name in VARIANTS:
        assert_same_run(tmp_path / "first" / name, alone[name])
        assert_same_run(tmp_path / "second" / name, alone[name])


def test_accumulated_steps_and_evaluation_in_between_share_batches_too(ground, read, tmp_path):
    variants = {"one": {"seed": 1}, "two": {"seed": 2, "fusion": "gated", "layers": [1, 4]}}
    more = ["--gradient_accumulation_steps", "2", "--per_device_train_batch_size", "4", "--eval_strategy", "epoch"]
    given = {"variants": variants, "objective": "factual"}
    start = len(read)
    run_alone(ground, tmp_path / "alone", "two", *more, **given)
    middle = len(read)
    run_together(ground, tmp_path / "out", *more, **given)
    assert len(read) - middle == middle - start == 2 * 10 + 3 * 2
    assert_same_run(tmp_path / "out" / "two", tmp_path / "alone")


def test_without_a_data_seed_the_common_seed_orders_the_examples(ground, together, tmp_path):
    one = {"plain": VARIANTS["plain"]}
    run_together(ground, tmp_path / "out", variants=one, order=("--seed", "7"))
    assert_same_run(tmp_path / "out" / "plain", together[0] / "plain")


# ---- what a run leaves ----------------------------------------------------------------------------------------------


def test_results_are_written_for_each_and_for_all_by_name(together):
    output, returned, _ = together
    assert json.loads((output / "all_results.json").read_text(encoding="utf-8")) == returned
    for name in VARIANTS:
        assert returned[f"{name}/eval_uas"] == results(output / name)["eval_uas"]
        assert {"train_loss", "eval_loss"} <= results(output / name).keys()
        assert list((output / name / "runs").rglob("events.out.tfevents*"))
    assert list(KAdapterModel.from_pretrained(output / "narrow").config.adapters) == ["narrow"]


def test_a_run_that_was_cut_short_goes_on_bit_for_bit_though_one_was_ahead(ground, alone, together, tmp_path):
    output = shutil.copytree(together[0], tmp_path / "out")
    for name, kept in (("plain", 4), ("narrow", 6), ("head-only", 2)):
        for path in [*(output / name).iterdir()]:
            step = path.name.removeprefix("checkpoint-")
            if not step.isdigit() or int(step) > kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert last_complete_checkpoint(output / name).endswith(f"-{kept}")
    run_together(ground, output, "--save_strategy", "steps", "--resume_from_checkpoint", "last")
    for name in VARIANTS:
        assert_same_run(output / name, alone[name])


def test_an_adapter_that_diverges_ends_alone(ground, alone, tmp_path, capsys):
    wild = {"learning_rate": "1e37", "max_grad_norm": 0}
    variants = {"wild": wild, "narrow": VARIANTS["narrow"]}
    with pytest.raises(
        FloatingPointError, match="of 2 adapters 1 did not end well; wild: the loss was NaN or infinite"
    ):
        run_together(ground, tmp_path / "out", variants=variants)
    assert_same_run(tmp_path / "out" / "narrow", alone["narrow"])
    assert "narrow/eval_uas" in json.loads((tmp_path / "out" / "all_results.json").read_text(encoding="utf-8"))
    assert not list((tmp_path / "out" / "wild").rglob("model.safetensors"))
    assert "narrow: {'loss'" in capsys.readouterr().out


def test_any_other_failure_ends_all(ground, tmp_path, monkeypatch):
    def fail(*given):
        raise OSError("the disk is full")

    monkeypatch.setattr(run_adapter, "_write_adapter", fail)
    with pytest.raises(OSError, match="the disk is full"):
        run_together(ground, tmp_path / "out")


def test_evaluation_alone_evaluates_each(ground, together, tmp_path):
    output = shutil.copytree(together[0], tmp_path / "out")
    file = together[0].parent / "out.yaml"
    given = flags(ground, "linguistic", output, *QUIET, "--variants", file)
    again = run_adapter.main([one for one in given if one != "--do_train"])
    assert all(again[f"{name}/eval_uas"] == together[1][f"{name}/eval_uas"] for name in VARIANTS)


# ---- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"variants '.*out\.yaml' must be a mapping of adapter names to their flags, .* and holds nothing"),
        ("[a, b]", r"must be a mapping of adapter names to their flags, .* and holds list"),
        ("a: [1", r"variants '.*out\.yaml' can't be read: "),
        ("a: {seed: 1}\na: {seed: 2}", r"can't be read: 'a' is there twice"),
        ("a: {seed: 1, seed: 2}", r"can't be read: 'seed' is there twice"),
        ("a.b: {seed: 1}", r"adapter name 'a\.b' may hold only letters"),
        ("1: {seed: 1}", r"an adapter name is a string, not int \(1\)"),
        ("a: 3", r"adapter 'a': its flags must be a mapping, not int"),
        ("a: {layres: [0]}", r"adapter 'a': 'layres' is no flag; did you mean 'layers'\?"),
        (
            "a: {max_length: 9}",
            r"adapter 'a': 'max_length' is the same for all adapters of a run; give --max_length on",
        ),
        ("a: {data_seed: 9}", r"'data_seed' is the same for all adapters of a run"),
        ("a: {layers: [0, 9]}", r"adapter 'a': layers=\[0, 9\] must lie in 0\.\.4"),
    ],
)
def test_a_bad_file_is_told_in_a_sentence_before_anything_is_written(ground, tmp_path, text, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_together(ground, tmp_path / "out", variants=text)
    assert not (tmp_path / "out").exists()


def test_flags_that_can_not_be_meant_for_several_are_refused(ground, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"variants '.*none\.yaml' can't be read: .*No such file"):
        run_adapter.main(flags(ground, "linguistic", tmp_path / "out", "--variants", tmp_path / "none.yaml"))
    with pytest.raises(ValueError, match=r"--resume_from_checkpoint 'x' belongs to one adapter; with --variants say"):
        run_together(ground, tmp_path / "out", "--resume_from_checkpoint", "x")
    there = "kadapter.trainers.common.usable.get_available_reporting_integrations"
    monkeypatch.setattr(there, lambda: ["tensorboard", "wandb"])  # as where it is installed
    with pytest.raises(ValueError, match="--report_to wandb allows one run in a process; with --variants give tensor"):
        run_together(ground, tmp_path / "out", "--report_to", "wandb")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("variants: some.yaml\n", encoding="utf-8")
    with pytest.raises(ValueError, match="variants is no flag of a recipe; give --variants on the command line"):
        run_adapter.main(flags(ground, "linguistic", tmp_path / "out", "--recipe", recipe))
    (tmp_path / "out" / "head-only").mkdir(parents=True)
    (tmp_path / "out" / "head-only" / "mine").touch()
    with pytest.raises(ValueError, match=r"adapter 'head-only': --output_dir '.*head-only' holds 'mine', which no"):
        run_together(ground, tmp_path / "out")


@pytest.mark.thorough
def test_an_adapter_that_attends_to_padding_learns_beside_one_that_does_not_as_it_does_alone(ground, tmp_path):
    variants = {"masked": {"seed": 1}, "official": {"seed": 2, "mask_padding": False}}
    run_together(ground, tmp_path / "both", variants=variants)
    for name in variants:
        output = run_alone(ground, tmp_path / name, name, variants=variants)
        assert same_tensors(output, tmp_path / "both" / name) and losses(output) == losses(tmp_path / "both" / name)
