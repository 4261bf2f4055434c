"""Flags that come from transformers' TrainingArguments do what they say, or are refused in a sentence at once."""

import pytest
import torch
from tiny_runs import flags, tensors, write_ground
from tiny_tasks import task_flags, write_task_ground

from kadapter.trainers import run_adapter, run_multitask, run_task
from kadapter.trainers.injection.arguments import parse_injection_arguments

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return write_task_ground(tmp_path_factory.mktemp("tasks"), "relation_classification", "entity_typing")


def run(ground, output, *more, objective="factual"):
    return run_adapter.main(flags(ground, objective, output, "--report_to", "none", *more))


def multitask(ground, output, *more, objectives=("factual", "linguistic"), corpora=("trex", "conllu")):
    given = ["--objectives", *objectives, "--corpora", *corpora, "--backbone", ground / "backbone"]
    given += ["--data_dirs", *(ground / corpus for corpus in corpora), "--output_dir", output, "--max_length", "40"]
    given += ["--do_train", "--report_to", "none", "--max_steps", "3", "--bf16", "false", *more]
    return run_multitask.main(list(map(str, given)))


def test_an_evaluation_counts_every_example_whatever_a_loader_drops(ground, tmp_path):
    every = run(ground, tmp_path / "all", "--save_strategy", "no")
    dropped = run(ground, tmp_path / "dropped", "--save_strategy", "no", "--dataloader_drop_last")
    for name in ("eval_loss", "eval_micro_f1", "eval_accuracy"):
        assert dropped[name] == every[name], name


@pytest.mark.parametrize(
    ("objective", "more", "sentence"),
    [
        ("factual", ["--neftune_noise_alpha", "5"], r"--neftune_noise_alpha 5.0 adds noise .* this one is frozen"),
        ("linguistic", ["--label_smoothing_factor", "0.1"], r"0.1 smooths .* one class each, .*DependencyParsing"),
        ("factual", ["--label_smoothing_factor", "1.5"], r"--label_smoothing_factor 1.5 must lie in \[0, 1\)"),
        ("factual", ["--gradient_accumulation_steps", "0"], r"--gradient_accumulation_steps 0 must be at least 1"),
        ("factual", ["--per_device_eval_batch_size", "0"], r"--per_device_eval_batch_size 0 must be at least 1"),
        ("factual", ["--num_train_epochs", "0"], r"--num_train_epochs 0 trains nothing; give a number above 0"),
        ("factual", ["--max_train_samples", "0"], r"--max_train_samples 0 must be at least 1"),
        ("factual", ["--max_eval_samples", "-3"], r"--max_eval_samples -3 must be at least 1"),
        ("factual", ["--optim_args", "eps=0.1"], r"--optim_args 'eps=0.1' names 'eps', which .* adamw_torch_fused"),
        ("factual", ["--optim", "sgd", "--optim_args", "momentum=0.9,nestrov=true"], r"names 'nestrov', which .* sgd"),
        ("factual", ["--remove_unused_columns", "true"], r"--remove_unused_columns .* the collator chooses"),
        ("factual", ["--batch_eval_metrics"], r"--batch_eval_metrics .* from all predictions together"),
        ("factual", ["--use_liger_kernel"], r"--use_liger_kernel .* models of transformers alone"),
        ("factual", ["--report_to", "wanddb"], r"--report_to wanddb is none of those that are installed \(.*tensorb"),
    ],
)
def test_what_would_fail_later_or_have_no_effect_is_refused_at_once(ground, tmp_path, objective, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(ground, tmp_path / "out", *more, objective=objective)
    assert not (tmp_path / "out").exists()


def test_a_result_that_is_to_decide_and_is_none_is_named_with_those_there_are(ground, tmp_path):
    best = ("--load_best_model_at_end", "--eval_strategy", "epoch", "--save_strategy", "epoch")
    with pytest.raises(ValueError, match=r"--metric_for_best_model 'f1' is no result .* has accuracy, .*micro_f1"):
        run(ground, tmp_path / "out", *best, "--metric_for_best_model", "f1")


def test_smoothed_labels_teach_a_head_alike_on_kept_states_and_in_the_whole_model(tasks, tmp_path):
    smoothed = ("--label_smoothing_factor", "0.3")
    kept = run_task.main(task_flags(tasks, tmp_path / "kept", *smoothed))
    whole = run_task.main(task_flags(tasks, tmp_path / "whole", *smoothed, "--keep_states", "false"))
    plain = run_task.main(task_flags(tasks, tmp_path / "plain"))
    assert kept["eval_loss"] == pytest.approx(whole["eval_loss"], abs=1e-5)
    assert kept["eval_loss"] != pytest.approx(plain["eval_loss"], abs=1e-4)


def test_a_task_refuses_to_smooth_labels_that_are_sets_and_noise_on_a_frozen_encoder(tasks, tmp_path):
    with pytest.raises(ValueError, match=r"smooths labels that are one class each, .*EntityClassification are not"):
        run_task.main(task_flags(tasks, tmp_path / "a", "--label_smoothing_factor", "0.1", task="entity_typing"))
    noise = ("--neftune_noise_alpha", "5")
    with pytest.raises(ValueError, match="this one is frozen"):
        run_task.main(task_flags(tasks, tmp_path / "b", *noise))
    assert run_task.main(task_flags(tasks, tmp_path / "c", *noise, "--freeze_backbone", "false"))["eval_records"] == 13


def test_noise_and_smoothed_labels_change_what_a_whole_encoder_learns(ground, tmp_path):
    multitask(ground, tmp_path / "plain", objectives=["factual"], corpora=["trex"])
    for name, more in (("noise", ["--neftune_noise_alpha", "5"]), ("smooth", ["--label_smoothing_factor", "0.3"])):
        multitask(ground, tmp_path / name, *more, objectives=["factual"], corpora=["trex"])
        plain, changed = tensors(tmp_path / "plain"), tensors(tmp_path / name)
        assert any((plain[key] != changed[key]).any() for key in plain), name


def test_activations_that_are_computed_twice_change_no_result_of_tasks_and_whole_encoders(ground, tasks, tmp_path):
    twice = "--activation_checkpointing"
    plain, again = (run_task.main(task_flags(tasks, tmp_path / f"t{n}", *more)) for n, more in ((0, ()), (1, [twice])))
    assert again["eval_loss"] == plain["eval_loss"]
    for name, more in (
        ("once", ()),
        ("twice", (twice, "--activation_checkpointing_kwargs", '{"use_reentrant": false}')),
    ):
        multitask(ground, tmp_path / name, *more)
    once, changed = tensors(tmp_path / "once"), tensors(tmp_path / "twice")
    assert all(torch.equal(once[key], changed[key]) for key in once)


def test_a_trial_that_is_named_twice_is_refused(tasks, tmp_path):
    for flag, given in (("--seeds", ("0", "0")), ("--learning_rates", ("1e-3", "0.001"))):
        with pytest.raises(ValueError, match=rf"{flag} .* names a trial twice; name each once"):
            run_task.main(task_flags(tasks, tmp_path / "out", flag, *given))
    assert not (tmp_path / "out").exists()


def test_an_objective_with_an_lm_head_is_none_of_the_multitask_baseline(ground, tmp_path):
    with pytest.raises(ValueError, match=r"--objectives masked_lm learns through an LM head.* choose factual and lin"):
        multitask(ground, tmp_path / "out", objectives=("factual", "masked_lm"), corpora=("trex", "trex"))


def test_an_injection_refuses_what_only_some_of_its_rows_could_follow(tmp_path):
    facts = [
        "--corpus",
        "lama_trex",
        "--data_dir",
        "facts",
        "--templates",
        "templates.jsonl",
        "--backbone",
        "encoder",
        "--output_dir",
        str(tmp_path / "out"),
    ]
    for flag in ("--neftune_noise_alpha", "--label_smoothing_factor"):
        with pytest.raises(ValueError, match=rf"{flag} 0.5 "):
            parse_injection_arguments([*facts, flag, "0.5"])
