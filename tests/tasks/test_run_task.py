"""Runs of trainers/run_task.py from flags to artifacts: rows, kept states, resuming, processes, bad input."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from helpers import batch, shake, small_adapter
from processes import run_processes
from safetensors.torch import load_file
from tiny_runs import digest, losses, results, same_tensors, tensors, trainable_told
from tiny_tasks import predictions, run_of, task_flags, write_adapters, write_corpus, write_json, write_task_ground
from transformers import AutoModelForSequenceClassification, RobertaModel

from kadapter import KAdapterForEntityPairClassification, KAdapterModel
from kadapter.reports.comparison import Resampling
from kadapter.reports.report import report
from kadapter.trainers import run_task
from kadapter.trainers.common.encoding import column
from kadapter.trainers.common.entry_point import run_program
from kadapter.trainers.downstream.arguments import parse_task_arguments
from kadapter.trainers.downstream.model import new_model

pytestmark = pytest.mark.slow

TASK = "relation_classification"
ROWS = {
    "backbone": ("none",),
    "taps": ("taps",),
    "random": ("random", "fac", "lin"),
    "fac": ("fac",),
    "lin": ("lin",),
    "fac+lin": ("fac", "lin"),
    "fac+random_lin": ("fac", "random", "lin"),
    "fac+lin+random_fac": ("fac", "lin", "random", "fac"),
}
PARTS = {"concat": "projections", "gated": "sources", "gated_token": "sources"}  # of a fusion, one for each adapter
UNFROZEN = ("--freeze_backbone", "false", "--learning_rate", "1e-3")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_task_ground(tmp_path_factory.mktemp("ground"), TASK)


@pytest.fixture(scope="module")
def trained_and_model(ground, tmp_path_factory):
    """The output directory of a run, and the model that it trained as it stands in memory."""
    output, made = tmp_path_factory.mktemp("runs") / "out", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_task, "new_model", lambda *given: made.append(new_model(*given)) or made[-1])
        run_task.main(task_flags(ground, output))
    (model,) = made
    return output, model.eval()


@pytest.fixture(scope="module")
def trained(trained_and_model):
    return trained_and_model[0]


def without(given, *names):
    return [one for one in given if one not in names]


def model_of(ground, adapters, fusion, seed=0):
    given = task_flags(ground, ground / "unused", "--fusion", fusion, adapters=adapters)
    _, task, _ = parse_task_arguments(given)
    fields = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    return new_model(KAdapterForEntityPairClassification, task, fields, seed, torch.float32)


# --- rows


@pytest.mark.parametrize("row", ROWS)
def test_every_row_runs_and_says_what_it_is(ground, tmp_path, row, capsys):
    before = digest(ground / "backbone"), digest(ground / "fac")
    run_task.main(task_flags(ground, tmp_path / "out", "--fusion", "gated", adapters=ROWS[row]))
    run = run_of(tmp_path / "out")
    names = {"backbone": [], "random": ["fac", "lin"]}.get(row, row.split("+"))
    assert (run["row"], run["adapters"], list(run["gates"])) == (row, names, names)
    assert run["random"] == (names if row == "random" else [one for one in names if "random" in one])
    assert (run["seed"], run["train_fraction"], run["freeze_backbone"], run["freeze_adapters"]) == (
        42,
        1.0,
        True,
        True,
    )
    assert run["metric"] == {"name": "accuracy", "key": "accuracy", "settings": {"classes": ["P19", "P20", "P937"]}}
    assert (digest(ground / "backbone"), digest(ground / "fac")) == before
    trained = [one for key, one in tensors(tmp_path / "out").items() if not key.startswith("kadapter.adapters.")]
    assert trainable_told(capsys.readouterr().out) == sum(one.numel() for one in trained)


@pytest.mark.parametrize("fusion", ["concat", "gated"])
def test_head_and_fusion_start_alike_in_all_rows_of_one_seed(ground, fusion):
    models = {row: model_of(ground, adapters, fusion) for row, adapters in ROWS.items()}
    first = models.pop("fac+lin").state_dict()
    for row, model in models.items():
        own, order = model.state_dict(), list(model.base_model.adapters)
        assert all(torch.equal(own[key], one) for key, one in first.items() if key.startswith("head.")), row
        for ours, theirs in zip(order, ("fac", "lin"), strict=False):  # by their order, whatever their names
            parts = [key for key in first if f"fusion.{PARTS[fusion]}.{theirs}." in key]
            assert len(parts) >= 2
            assert all(torch.equal(own[key.replace(f".{theirs}.", f".{ours}.")], first[key]) for key in parts), row
    other = model_of(ground, ("fac", "lin"), fusion, seed=1).state_dict()
    assert not torch.equal(other["head.dense.weight"], first["head.dense.weight"])


def test_random_adapters_have_the_shapes_and_nothing_of_the_weights(ground):
    random, again, given = (model_of(ground, one, "add") for one in (*[ROWS["random"]] * 2, ROWS["fac+lin"]))
    ours, same, theirs = (one.base_model.adapters.state_dict() for one in (random, again, given))
    assert {key: one.shape for key, one in ours.items()} == {key: one.shape for key, one in theirs.items()}
    assert all(torch.equal(one, same[key]) for key, one in ours.items())
    down = ours["fac.layers.0.down_project.weight"]
    assert not torch.equal(down, theirs["fac.layers.0.down_project.weight"])
    assert (
        0.5 / 32**0.5 < down.abs().max() <= 1 / 32**0.5
    )  # torch's default for 32 inputs, not the small published one
    assert not any(one.requires_grad for one in random.base_model.adapters.parameters())


def test_taps_are_the_sum_of_the_tapped_states(ground):
    model = model_of(ground, ("taps",), "add")
    assert model.config.adapters["taps"]["layers"] == [0, 1, 2]
    assert sum(one.numel() for one in model.base_model.adapters.parameters()) == 0
    _, task, _ = parse_task_arguments(task_flags(ground, ground / "x", "--layers", "1", "4", adapters=("taps",)))
    chosen = new_model(KAdapterForEntityPairClassification, task, {}, 0, torch.float32)
    assert chosen.config.adapters["taps"]["layers"] == [1, 4]


# --- what trains


def test_frozen_parts_keep_every_bit_and_the_artifact_answers_alike(ground, trained_and_model):
    output, in_memory = trained_and_model
    ours, fac = tensors(output), tensors(ground / "fac")
    assert all(torch.equal(ours[f"kadapter.{key}"], one) for key, one in fac.items())
    assert not [key for key in ours if "backbone" in key]
    model = AutoModelForSequenceClassification.from_pretrained(output, trust_remote_code=True)
    assert model.config.id2label == {0: "P19", 1: "P20", 2: "P937"}
    inputs = {**batch(), "entity_positions": torch.tensor([[1, 4], [2, 3], [0, 2]])}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, in_memory(**inputs).logits)


def test_the_card_is_of_the_task_and_its_lines_load_the_head(trained):
    card = (trained / "README.md").read_text(encoding="utf-8")
    assert "\n# relation_classification: fac+lin\n" in card and "`KAdapterForEntityPairClassification`" in card
    lines = card.split("```python\n")[2].split("```")[0].replace("REPO_OR_DIRECTORY", str(trained))
    names = {}
    exec(lines, names)
    assert type(names["model"]).__name__ == "KAdapterForEntityPairClassification"


def test_an_unfrozen_backbone_trains_through_frozen_adapters_and_is_saved(ground, tmp_path):
    output = tmp_path / "out"
    trained = run_task.main(task_flags(ground, output, *UNFROZEN))
    ours, fac = tensors(output), tensors(ground / "fac")
    assert all(torch.equal(ours[f"kadapter.{key}"], one) for key, one in fac.items())
    before = RobertaModel.from_pretrained(ground / "backbone", add_pooling_layer=False).state_dict()
    assert any(not torch.equal(ours[f"kadapter.backbone.{key}"], one) for key, one in before.items() if "emb" in key)
    assert run_of(output)["freeze_backbone"] is False
    again = run_task.main(without(task_flags(ground, output), "--do_train"))
    assert again["eval_loss"] == pytest.approx(trained["eval_loss"], abs=1e-5)


def test_adapters_train_if_asked(ground, tmp_path):
    run_task.main(task_flags(ground, tmp_path / "out", "--freeze_adapters", "false", adapters=("fac",)))
    ours, fac = tensors(tmp_path / "out"), tensors(ground / "fac")
    assert any(not torch.equal(ours[f"kadapter.{key}"], one) for key, one in fac.items())
    assert run_of(tmp_path / "out")["freeze_adapters"] is False


# --- kept states


@pytest.mark.parametrize(("row", "fusion"), [("backbone", "concat"), ("fac+lin", "concat"), ("fac+lin", "delta")])
def test_training_on_kept_states_is_training_on_texts(ground, tmp_path, row, fusion):
    for name, keep in (("kept", "true"), ("read", "false")):
        given = ["--keep_states", keep, "--fusion", fusion]
        run_task.main(task_flags(ground, tmp_path / name, *given, adapters=ROWS[row]))
    kept, read = losses(tmp_path / "kept"), losses(tmp_path / "read")
    assert kept.keys() == read.keys() and len(kept) > 4
    assert max(abs(kept[step] - read[step]) for step in kept) < 1e-4  # with dropout in the head, drawn alike
    ours, theirs = tensors(tmp_path / "kept"), tensors(tmp_path / "read")
    assert all(torch.allclose(one, theirs[key], atol=1e-4) for key, one in ours.items())


@pytest.fixture
def encoded_now(ground, tmp_path, capsys):
    """Run a row with flags and return how many examples of the two splits had to be encoded."""

    def run(*more, adapters=("fac", "lin")):
        given = ["--states_dir", tmp_path / "s", "--overwrite_output_dir", *more]
        run_task.main(task_flags(ground, tmp_path / "out", *given, adapters=adapters))
        told = [line for line in capsys.readouterr().out.splitlines() if "states:" in line]
        return [int(line.split(",")[-1].split()[0]) for line in told]

    return run


@pytest.mark.thorough
def test_states_are_kept_for_other_rows_seeds_and_fractions_and_not_for_other_adapters(encoded_now, ground, tmp_path):
    all_of_them = encoded_now()
    assert min(all_of_them) > 0
    assert encoded_now("--seed", "3", "--train_fraction", "0.5", "--learning_rate", "1e-3") == [0, 0]
    assert encoded_now(adapters=("lin",)) == encoded_now(adapters=("none",)) == [0, 0]
    assert encoded_now("--bf16") == all_of_them
    write_adapters(tmp_path, ground / "backbone", "one", "two", "fac")
    others = str(tmp_path / "fac")
    assert encoded_now(adapters=(others,)) == all_of_them  # of the same name, with other weights
    assert encoded_now(adapters=(others,)) == [0, 0]


@pytest.mark.thorough
def test_states_that_another_fusion_reads_are_kept_apart(encoded_now):
    all_of_them = encoded_now("--fusion", "add")
    assert encoded_now("--fusion", "gated") == [0, 0]
    assert encoded_now("--fusion", "delta") == all_of_them
    assert encoded_now("--fusion", "delta") == encoded_now("--fusion", "concat") == [0, 0]
    assert encoded_now("--fusion", "delta", adapters=("none",)) == [0, 0]


def test_the_rounds_of_a_cross_validation_encode_each_example_once(encoded_now):
    first = encoded_now("--fold", "0", "--eval_split", "test")
    second = encoded_now("--fold", "1", "--eval_split", "test")
    third = encoded_now("--fold", "2", "--eval_split", "test")
    assert min(first) > 0 and sum(second) > 0  # round 0 never saw its validation part, which round 1 tests
    assert third == [0, 0]


def test_a_damaged_shard_of_kept_states_is_encoded_again(encoded_now, tmp_path):
    train, held_out = encoded_now()
    damaged = min((tmp_path / "s").glob("*/*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    again = encoded_now()
    assert again in ([train, 0], [0, held_out])
    assert encoded_now() == [0, 0]
    assert not list((tmp_path / "s").rglob("*partial*"))


def test_a_cache_that_cannot_be_written_costs_only_time(ground, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    run_task.main(task_flags(ground, tmp_path / "out", "--states_dir", tmp_path / "file"))
    assert "states could not be kept in" in capsys.readouterr().out


# --- evaluation


def evaluate(ground, output, *more, data=None):
    given = without(task_flags(ground, output, *more), "--do_train")
    if data is not None:
        given[given.index("--data_dir") + 1] = str(data)
    return run_task.main(given)


def test_predictions_do_not_depend_on_batches_order_padding_or_kept_states(ground, trained, tmp_path):
    output, data = tmp_path / "out", tmp_path / "data"
    shutil.copytree(trained, output)
    shutil.copytree(ground / TASK, data)
    records = json.loads((data / "dev.json").read_text(encoding="utf-8"))
    write_json(data / "dev.json", records[::-1])
    told = {one["id"]: one for one in predictions(trained)}
    for more in (
        ("--per_device_eval_batch_size", "1"),
        ("--keep_states", "false", "--per_device_eval_batch_size", "5"),
    ):
        found = evaluate(ground, output, *more, data=data)
        assert [one["id"] for one in predictions(output)] == [one["id"] for one in records[::-1]]
        for one in predictions(output):
            expected = told[one["id"]]
            assert (one["prediction"], one["gold"]) == (expected["prediction"], expected["gold"])
            assert one["scores"] == pytest.approx(expected["scores"], abs=1e-5)
        assert found["eval_loss"] == pytest.approx(results(trained)["eval_loss"], abs=1e-5)


@pytest.mark.parametrize("task", ["entity_typing", "multiple_choice", "searchqa"])
def test_answers_of_every_kind_do_not_depend_on_batches_or_kept_states(ground, tmp_path, task):
    output = tmp_path / "out"
    write_corpus(ground / task, task)
    trained = run_task.main(task_flags(ground, output, "--num_train_epochs", "1", task=task))
    told = predictions(output)
    for more in (
        ("--per_device_eval_batch_size", "1"),
        ("--keep_states", "false", "--per_device_eval_batch_size", "5"),
    ):
        found = run_task.main(without(task_flags(ground, output, *more, task=task), "--do_train"))
        assert found["eval_loss"] == pytest.approx(trained["eval_loss"], abs=1e-5)
        for one, expected in zip(predictions(output), told, strict=True):
            assert (one["id"], one["prediction"]) == (expected["id"], expected["prediction"])


@pytest.mark.parametrize("task", [TASK, "multiple_choice", "searchqa"])
def test_beside_an_adapter_that_attends_to_padding_answers_do_not_depend_on_batches_either(ground, tmp_path, task):
    if task != TASK:
        write_corpus(ground / task, task)
    model = KAdapterModel.from_backbone(str(ground / "backbone"), adapters={"fac": small_adapter(mask_padding=False)})
    shake(model).save_adapter(tmp_path / "official", "fac")
    found = {}
    for size, keep in ((1, "true"), (5, "false"), (8, "true")):
        output = tmp_path / f"{size}"
        more = ["--max_steps", "2", "--states_dir", tmp_path / f"states-{size}", "--keep_states", keep]
        more += ["--per_device_eval_batch_size", str(size)]
        run_task.main(task_flags(ground, output, *more, task=task, adapters=(str(tmp_path / "official"),)))
        found[size] = predictions(output)
    for size in (5, 8):
        for one, expected in zip(found[size], found[1], strict=True):
            assert one["prediction"] == expected["prediction"]
            assert one["scores"] == pytest.approx(expected["scores"], abs=1e-5)


def test_evaluation_alone_reads_the_other_split_and_leaves_the_model(ground, trained, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(trained, output)
    found = evaluate(ground, output, "--eval_split", "test")
    assert len(predictions(output)) == 11 == found["eval_records"]
    assert run_of(output)["split"] == "test" and same_tensors(output, trained)
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "Results on relation_classification, validation" in card and "relation_classification, test" in card


def test_records_that_do_not_fit_count_as_wrong(ground, tmp_path, capsys):
    output = tmp_path / "out"
    found = run_task.main(task_flags(ground, output, "--max_length", "11"))
    printed = capsys.readouterr().out
    lost = [one for one in predictions(output) if one["scores"] is None]
    assert 0 < len(lost) < 13 == found["eval_records"]
    assert all(one["prediction"] == "" for one in lost)
    right = sum(one["prediction"] == one["gold"] for one in predictions(output))
    assert found["eval_accuracy"] == pytest.approx(right / 13)
    assert f"validation: {len(lost)} records do not fit into --max_length 11 and count as wrong" in printed


def test_the_best_checkpoint_by_the_tasks_measure_is_kept_and_patience_ends_a_run(ground, tmp_path):
    output = tmp_path / "out"
    more = ["--early_stopping_patience", "1", "--eval_strategy", "epoch", "--num_train_epochs", "30"]
    more += ["--save_total_limit", "1"]
    reached = run_task.main(without(task_flags(ground, output, *more), "--save_strategy", "no"))
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    scores = [one["eval_accuracy"] for one in state["log_history"] if "eval_accuracy" in one]
    assert reached["eval_accuracy"] == state["best_metric"] == max(scores)
    assert len(scores) < 30
    kept = load_file(output / f"checkpoint-{state['best_global_step']}" / "model.safetensors")
    assert {key.split(".")[0] for key in kept} == {"head", "kadapter"}
    assert not [key for key in kept if "adapters" in key or "backbone" in key]  # nothing but what trains
    assert all(torch.equal(tensors(output)[key], one) for key, one in kept.items())


@pytest.mark.parametrize(
    ("more", "when"),
    [
        (("--eval_strategy", "epoch"), ("epoch", 500)),
        (("--eval_strategy", "steps", "--eval_steps", "3"), ("steps", 3)),
        (("--eval_strategy", "steps", "--logging_steps", "7"), ("steps", 7)),
        (("--eval_strategy", "steps", "--eval_steps", "3", "--save_steps", "6"), ("steps", 6)),
        (("--eval_strategy", "epoch", "--save_strategy", "best"), ("best", 500)),
        ((), ("epoch", 500)),
    ],
)
def test_patience_saves_when_it_evaluates_unless_told_otherwise(ground, tmp_path, more, when):
    given = without(task_flags(ground, tmp_path), "--save_strategy", "no", "--logging_steps", "1")
    run = parse_task_arguments([*given, "--early_stopping_patience", "2", *more])[2]
    assert (str(run.save_strategy.value), run.save_steps) == when
    assert run.load_best_model_at_end and run.eval_strategy.value in ("epoch", "steps")


def test_without_patience_saving_is_as_ever(ground, tmp_path):
    run = parse_task_arguments(without(task_flags(ground, tmp_path), "--save_strategy", "no"))[2]
    assert (run.save_strategy.value, run.save_steps, run.load_best_model_at_end) == ("steps", 500, False)


# --- resuming and sweeps


def killed_after(checkpoint, run, folder):
    """A copy of a run as it stood when it had written that checkpoint."""
    shutil.copytree(run, folder)
    for path in folder.iterdir():
        if path.name != checkpoint:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


@pytest.mark.parametrize("more", [(), UNFROZEN], ids=["frozen", "unfrozen"])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(ground, tmp_path, more):
    given = [*more, "--save_strategy", "epoch"]
    run_task.main(task_flags(ground, tmp_path / "whole", *given))
    killed = killed_after("checkpoint-4", tmp_path / "whole", tmp_path / "killed")
    resumed = task_flags(ground, killed, *given, "--resume_from_checkpoint", "last")
    again = run_task.main(resumed)
    assert same_tensors(tmp_path / "whole", killed)
    assert predictions(tmp_path / "whole") == predictions(killed)
    before = digest(killed)
    assert run_task.main(resumed)["eval_accuracy"] == again["eval_accuracy"]  # finished: left as it is
    assert digest(killed) == before


def test_a_run_on_kept_states_can_be_resumed_on_texts(ground, tmp_path):
    given = ["--save_strategy", "epoch", "--classifier_dropout", "0"]
    run_task.main(task_flags(ground, tmp_path / "whole", *given))
    killed = killed_after("checkpoint-4", tmp_path / "whole", tmp_path / "killed")
    run_task.main(task_flags(ground, killed, *given, "--resume_from_checkpoint", "last", "--keep_states", "false"))
    ours, theirs = tensors(killed), tensors(tmp_path / "whole")
    assert all(torch.allclose(one, theirs[key], atol=1e-4) for key, one in ours.items())


@pytest.mark.parametrize("other", [("--fusion", "gated"), UNFROZEN])
def test_a_run_is_not_resumed_by_other_flags(ground, tmp_path, other):
    given = ["--save_strategy", "epoch"]
    run_task.main(task_flags(ground, tmp_path / "whole", *given))
    killed = killed_after("checkpoint-4", tmp_path / "whole", tmp_path / "killed")
    with pytest.raises(
        ValueError, match=r"checkpoint-4' was made with other flags .*: --f.* was .* and is .*; resume with"
    ):
        run_task.main(task_flags(ground, killed, *given, *other, "--resume_from_checkpoint", "last"))


def test_a_sweep_runs_every_seed_and_rate_and_leaves_what_is_finished(ground, tmp_path, capsys):
    more = ["--seeds", "0", "1", "--learning_rates", "0.01", "0.003", "--save_artifact", "false"]
    run_task.main(task_flags(ground, tmp_path / "out", *more))
    trials = [f"lr-{rate}/seed-{seed}" for rate in ("0.01", "0.003") for seed in (0, 1)]
    runs = [run_of(tmp_path / "out" / one) for one in trials]
    assert [(one["learning_rate"], one["seed"]) for one in runs] == [(0.01, 0), (0.01, 1), (0.003, 0), (0.003, 1)]
    alone = task_flags(
        ground, tmp_path / "alone", "--seed", "1", "--learning_rate", "0.003", "--save_artifact", "false"
    )
    run_task.main(alone)
    assert predictions(tmp_path / "alone") == predictions(tmp_path / "out" / trials[3])
    assert not (tmp_path / "alone" / "model.safetensors").exists()
    shutil.rmtree(tmp_path / "out" / trials[1])
    before = digest(tmp_path / "out" / trials[3])
    run_task.main(task_flags(ground, tmp_path / "out", *more, "--resume_from_checkpoint", "last"))
    assert run_of(tmp_path / "out" / trials[1]) == runs[1]
    assert digest(tmp_path / "out" / trials[3]) == before
    with pytest.raises(ValueError, match=r"seed-0' holds another run"):
        run_task.main(task_flags(ground, tmp_path / "out", *more))


@pytest.mark.thorough
def test_two_processes_equal_one(ground, tmp_path):
    given = ["--classifier_dropout", "0", "--eval_strategy", "epoch"]
    run_task.main(task_flags(ground, tmp_path / "one", *given))
    halves = ["--per_device_train_batch_size", "4", "--per_device_eval_batch_size", "3"]
    run_processes(run_task.main, task_flags(ground, tmp_path / "two", *given, *halves), tmp_path / "printed", number=2)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys() and max(abs(one[step] - two[step]) for step in one) < 1e-4
    ours, theirs = predictions(tmp_path / "one"), predictions(tmp_path / "two")
    assert [(one["id"], one["prediction"]) for one in ours] == [(one["id"], one["prediction"]) for one in theirs]
    assert results(tmp_path / "two")["eval_records"] == 13  # no multiple of 2 x 3: each counts once
    assert results(tmp_path / "two")["eval_loss"] == pytest.approx(results(tmp_path / "one")["eval_loss"], abs=1e-4)


@pytest.mark.thorough
def test_two_processes_answer_every_question_as_one(ground, tmp_path):
    output = tmp_path / "out"
    write_corpus(ground / "searchqa", "searchqa")
    trained = run_task.main(task_flags(ground, output, "--max_steps", "1", task="searchqa"))
    told = predictions(output)
    given = without(task_flags(ground, output, "--per_device_eval_batch_size", "3", task="searchqa"), "--do_train")
    run_processes(run_task.main, given, tmp_path / "printed", number=2)
    assert [(one["id"], one["prediction"]) for one in predictions(output)] == [
        (one["id"], one["prediction"]) for one in told
    ]
    again = results(output)
    assert again["eval_records"] == 13 and again["eval_exact_match"] == trained["eval_exact_match"]
    assert again["eval_loss"] == pytest.approx(trained["eval_loss"], abs=1e-5)


def test_passages_that_a_flag_leaves_out_are_told(ground, tmp_path, capsys):
    write_corpus(ground / "searchqa", "searchqa")
    run_task.main(task_flags(ground, tmp_path / "out", "--max_steps", "1", "--max_passages", "1", task="searchqa"))
    printed = capsys.readouterr().out
    assert "validation: 13 questions lost passages to --max_passages 1, " in printed
    assert "validation: 13 examples kept, 0 dropped, 13 of the kept truncated" in printed


# --- fractions and episodes


def trained_on(ground, output, monkeypatch, *more):
    """The records that a run trains on, by id."""
    seen, build = [], run_task._trainer

    def watch(ground_, model, keep, splits, run):
        seen.append(splits["train"])
        return build(ground_, model, keep, splits, run)

    monkeypatch.setattr(run_task, "_trainer", watch)
    run_task.main(task_flags(ground, output, *more))
    monkeypatch.undo()
    (split,) = seen
    return {split.rows[int(record)]["id"]: split.rows[int(record)]["relation"] for record in column(split, "record")}


def test_a_fraction_has_its_share_of_every_label_drawn_by_the_seed(ground, tmp_path, monkeypatch, capsys):
    runs = {}
    for number, (fraction, seed) in enumerate(((0.5, 0), (0.25, 0), (0.25, 1), (0.01, 0))):
        more = ("--train_fraction", fraction, "--seed", seed)
        runs[fraction, seed] = trained_on(ground, tmp_path / str(number), monkeypatch, *more)
    counts = {key: np.unique([*one.values()], return_counts=True)[1].tolist() for key, one in runs.items()}
    assert counts == {(0.5, 0): [6, 6, 6], (0.25, 0): [3, 3, 3], (0.25, 1): [3, 3, 3], (0.01, 0): [1, 1, 1]}
    assert runs[0.01, 0].keys() < runs[0.25, 0].keys() < runs[0.5, 0].keys()
    last = run_of(tmp_path / "3")
    assert (last["train_fraction"], last["train_examples"], last["train_share"]) == (0.01, 3, pytest.approx(3 / 36))
    assert "train: 3 examples are trained on, 8.33% of all" in capsys.readouterr().out
    assert runs[0.25, 0].keys() != runs[0.25, 1].keys()


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A backbone, two adapters and a small FewRel."""
    return write_task_ground(tmp_path_factory.mktemp("few"), "fewrel")


def run_episodes(few, output, *more, adapters=("fac",)):
    given = task_flags(few, output, "--way", "3", "--shot", "2", *more, task="fewrel", adapters=adapters)
    return run_task.main(without(given, "--do_train"))


def test_episodes_are_answered_by_the_nearest_prototype_without_training(few, tmp_path):
    found = run_episodes(few, tmp_path / "out", "--episodes", "20", "--seed", "1")
    told = predictions(tmp_path / "out")
    assert len(told) == 60 and all(len(one["scores"]) == 3 for one in told)
    assert all(one["prediction"] == max(one["scores"], key=one["scores"].get) for one in told)
    assert found["eval_accuracy"] == pytest.approx(np.mean([one["prediction"] == one["gold"] for one in told]))
    run = run_of(tmp_path / "out")
    assert (run["row"], run["task"], run["seed"], run["fusion"]) == ("fac", "fewrel 3-way 2-shot", 1, "none")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    run_episodes(few, tmp_path / "again", "--episodes", "20", "--seed", "1")
    assert predictions(tmp_path / "again") == told
    with pytest.raises(ValueError, match="3 classes have more than 2 examples, and an episode needs 5; lower --way"):
        run_episodes(few, tmp_path / "out", "--episodes", "20", "--way", "5")


def test_episodes_ask_the_same_in_every_row_and_seed_so_that_the_report_pairs_them(few, tmp_path):
    for row in ("backbone", "fac", "fac+lin"):
        run_episodes(few, tmp_path / row, "--episodes", "30", "--seeds", "0", "1", "2", adapters=ROWS[row])
    told = [predictions(tmp_path / "fac" / f"seed-{seed}") for seed in range(3)]
    assert len({tuple((one["id"], one["gold"]) for one in run) for run in told}) == 1
    assert len({tuple(tuple(one["scores"].values()) for one in run) for run in told}) == 3  # other labelled examples
    (cells,) = report([tmp_path], tmp_path / "report", None, Resampling(resamples=200), log=print).values()
    assert {row.name: sorted(cell.runs) for row, cell in cells.items()} == {
        row: [0, 1, 2] for row in ("backbone", "fac", "fac+lin")
    }
    assert all(cell.against["backbone"] for row, cell in cells.items() if row.name != "backbone")


# --- bad input


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--task", "relation_clasification"], r"no task 'relation_clasification'; .* did you mean 'relation_classif"),
        (["--corpus", "conllu"], r"corpus 'conllu' has dependency records, and this objective needs relation records"),
        (["--adapters", "none", "taps"], r"--adapters none taps: none stands alone"),
        (["--adapters", "random"], r"--adapters random: random takes the shapes of the artifacts named after it"),
        (["--train_fraction", "0"], r"--train_fraction 0\.0 must lie in \(0, 1\]"),
        (["--train_fraction", "1.5"], r"--train_fraction 1\.5 must lie in \(0, 1\]"),
        (["--shot", "0"], r"--shot 0 must be at least 1"),
        (["--fold", "7"], r"fold is 7 but must be one of 0 to 4"),
        (["--exclude", "fewrel"], r"--exclude 'fewrel' must be CORPUS=DIR"),
        (["--max_length", "61"], r"--max_length 61 is more than the 60 tokens"),
        (["--max_length", "4"], r"every train example was dropped: .* --max_length 4.*; raise it"),
        (["--resume_from_checkpoint", "nowhere"], r"'nowhere' is no complete checkpoint"),
        (["--train_fractoin", "0.1"], r"'--train_fractoin' is no flag; did you mean '--train_fraction'"),
        (["--do_predict", "nowhere.json"], r"nowhere\.json is no file"),
        (["--episodes", "9"], r"--do_train can't be combined with --episodes, in which nothing is trained"),
        (
            ["--episodes", "9", "--do_train", "0", "--do_predict", "x.json"],
            r"--do_predict can't be combined with",
        ),
        (["--episodes", "9", "--do_train", "0", "--fusion", "add"], r"--fusion add can't be combined with --episodes"),
        (["--do_train", "false", "--do_eval", "false"], r"there is nothing to do; give --do_train"),
    ],
)
def test_bad_flags_are_told_before_anything_is_written(ground, tmp_path, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_task.main(task_flags(ground, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_backbone_or_that_is_not_there_is_told(ground, tmp_path):
    write_task_ground(tmp_path / "other")
    shutil.rmtree(tmp_path / "other" / "lin")
    model = RobertaModel.from_pretrained(ground / "backbone", add_pooling_layer=False)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.add_(1)
    model.save_pretrained(tmp_path / "other" / "backbone")
    given = task_flags(ground, tmp_path / "out", "--backbone", tmp_path / "other" / "backbone")
    with pytest.raises(ValueError, match="was made for another backbone"):
        run_task.main(given)
    with pytest.raises(OSError, match=r"no config\.json of a K-Adapter artifact at"):
        run_task.main(task_flags(ground, tmp_path / "out", adapters=(str(tmp_path / "other" / "lin"),)))


def test_a_label_that_training_does_not_have_is_named_with_its_record(ground, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(ground / TASK, data)
    records = json.loads((data / "dev.json").read_text(encoding="utf-8"))
    records[3]["relation"] = "P999"
    write_json(data / "dev.json", records)
    with pytest.raises(ValueError, match=f"^{data}, validation: record '{records[3]['id']}' has the relation 'P999'"):
        run_task.main(task_flags(ground, tmp_path / "out", "--data_dir", data))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda path: path.unlink(), "--eval_split test needs 'test', which is missing or empty"),
        (lambda path: path.write_text("[]"), r"test\.json, record 1: the file is empty or holds no record at all"),
    ],
)
def test_a_split_that_is_missing_or_empty_is_told(ground, tmp_path, spoil, sentence):
    data = tmp_path / "data"
    shutil.copytree(ground / TASK, data)
    spoil(data / "test.json")
    with pytest.raises(ValueError, match=sentence):
        run_task.main(task_flags(ground, tmp_path / "out", "--data_dir", data, "--eval_split", "test"))


def test_evaluation_alone_refuses_what_was_not_trained(ground, trained, tmp_path):
    with pytest.raises(ValueError, match=r"there is no trained model in .*; train it with --do_train"):
        evaluate(ground, tmp_path / "none")
    with pytest.raises(ValueError, match=r"was trained for the task 'relation_classification', not 'wiki80'"):
        evaluate(ground, trained, "--task", "wiki80", "--corpus", TASK)
    with pytest.raises(ValueError, match=r"holds another run"):
        run_task.main(task_flags(ground, trained))


@pytest.mark.parametrize(
    ("adapters", "asked"),
    [
        (("none",), "none"),
        (("fac",), "fac"),
        (("lin", "fac"), r"lin \+ fac"),
        (("random", "fac", "lin"), r"random fac \+ random lin"),
        (("fac", "random", "lin"), r"fac \+ random random_lin"),
        (("taps",), "taps"),
    ],
)
def test_evaluation_alone_refuses_adapters_that_the_model_has_not(ground, trained, adapters, asked):
    sentence = rf"was trained with the adapters fac \+ lin, and --adapters names {asked}; leave --adapters out"
    with pytest.raises(ValueError, match=sentence):
        run_task.main(without(task_flags(ground, trained, adapters=adapters), "--do_train"))


def test_evaluation_alone_refuses_adapters_of_other_weights_and_another_fusion(ground, trained, tmp_path):
    write_adapters(tmp_path, ground / "backbone", "other", "fac")
    given = task_flags(ground, trained, adapters=(str(tmp_path / "fac"), "lin"))
    with pytest.raises(ValueError, match="another adapter 'fac' than the one that --adapters names"):
        run_task.main(without(given, "--do_train"))
    with pytest.raises(ValueError, match="was trained with --fusion concat, not gated; leave --fusion out"):
        run_task.main(without(task_flags(ground, trained, "--fusion", "gated"), "--do_train"))


def test_evaluation_alone_needs_no_word_on_adapters_and_fusion(ground, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "out")
    given = without(task_flags(ground, tmp_path / "out", adapters=()), "--do_train", "--adapters")
    assert run_task.main(given)["eval_accuracy"] == results(trained)["eval_accuracy"]
    assert run_of(tmp_path / "out")["row"] == "fac+lin"


def test_the_command_says_bad_input_in_one_sentence(ground, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run_task.py", *task_flags(ground, tmp_path, "--fold", "9")])
    with pytest.raises(SystemExit, match="run_task: fold is 9"):
        run_program(run_task.main)
