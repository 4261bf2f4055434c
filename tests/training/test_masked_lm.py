"""Masked words as a pre-training objective: adapters through a frozen LM head, and new LM heads, from plain text."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from processes import run_processes
from tiny_runs import (
    NO_DROPOUT,
    backbone_tensors_in,
    flags,
    losses,
    results_alike,
    same_tensors,
    tensors,
    tokenizer_of,
    trainable_told,
    write_backbone,
    write_ground,
)
from transformers import AutoModelForMaskedLM, AutoTokenizer, RobertaForMaskedLM

from kadapter import KAdapterConfig, KAdapterForMaskedLM, KAdapterModel
from kadapter.trainers import run_adapter

pytestmark = pytest.mark.slow

QUIET = ("--report_to", "none", "--save_strategy", "no")
HEAD_ALONE = ("--without_adapter", "--lm_head", "transform")
RESUME = ("--resume_from_checkpoint", "last")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Corpora, a backbone with an LM head and one without, and what was trained on the latter: LM head and adapter."""
    ground = write_ground(tmp_path_factory.mktemp("ground"))
    write_backbone(ground / "with_head", model_class=RobertaForMaskedLM, initializer_range=0.2)
    run_adapter.main(flags(ground, "masked_lm", ground / "head", *QUIET, *HEAD_ALONE))
    run_adapter.main(flags(ground, "factual", ground / "fac", *QUIET))
    return ground


def train(ground, output, *more):
    return run_adapter.main(flags(ground, "masked_lm", output, *more))


def through_own_head(ground):
    return ("--backbone", str(ground / "with_head"))


def keys(folder):
    return {".".join(key.split(".")[:2]) for key in tensors(folder)}


def fallen(output):
    """By how much the mean loss of the first five steps is above that of the last ten."""
    curve = [loss for _, loss in sorted(losses(output).items())]
    return np.mean(curve[:5]) - np.mean(curve[-10:])


def without_training(given):
    return [flag for flag in given if flag != "--do_train"]


def test_texts_that_hold_adapters_back_have_masks_in_a_run_of_several_too(ground, tmp_path):
    held_back = ["--locality_weight", "3", "--locality_corpus", "trex", "--locality_data_dir", ground / "trex"]
    given = [*QUIET, *through_own_head(ground), *NO_DROPOUT, *held_back, "--max_steps", "3", "--data_seed", "42"]
    train(ground, tmp_path / "alone", *given)
    variants = tmp_path / "variants.yaml"
    variants.write_text("one: {}\ntwo: {learning_rate: 1.0e-4}\n", encoding="utf-8")
    several = flags(ground, "masked_lm", tmp_path / "several", *given, "--variants", variants)
    name = several[several.index("--adapter_name") + 1]
    run_adapter.main([one for one in several if one not in ("--adapter_name", name)])
    moved = [
        [entry["moved"] for entry in json.loads((folder / "trainer_state.json").read_text())["log_history"][:3]]
        for folder in (tmp_path / "alone", tmp_path / "several" / "one")
    ]
    assert moved[0] == pytest.approx(moved[1], rel=1e-3) and moved[0][-1] > 0


# ---- what trains and what is saved ----------------------------------------------------------------------------------


def test_a_new_lm_head_learns_with_everything_else_frozen_and_is_an_artifact_of_its_own(ground, tmp_path, capsys):
    more = (*QUIET, *HEAD_ALONE, *through_own_head(ground), "--num_train_epochs", "12")
    reached = train(ground, tmp_path / "out", *more)
    printed = capsys.readouterr().out
    assert fallen(tmp_path / "out") > 0.4
    assert reached["eval_perplexity"] == pytest.approx(math.exp(reached["eval_loss"]))
    assert 0 < reached["eval_accuracy"] < 1
    head = tmp_path / "out" / "pretraining_head"
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert keys(head) == {"head.dense", "head.layer_norm", "head.bias"}
    assert trainable_told(printed) == sum(tensor.numel() for tensor in tensors(head).values())
    assert f"load it by KAdapterForMaskedLM.from_pretrained('{head}'), or share it by lm_head='{head}'" in printed
    card = (head / "README.md").read_text(encoding="utf-8")
    assert "# Masked LM\n" in card and "Its LM head is new (`transform`)" in card and "AutoModelForMaskedLM" in card
    again = run_adapter.main(without_training(flags(ground, "masked_lm", tmp_path / "out", *more)))
    assert again["eval_loss"] == pytest.approx(reached["eval_loss"], abs=1e-6)


def test_an_adapter_learns_through_the_backbones_own_frozen_lm_head(ground, tmp_path, capsys):
    own = through_own_head(ground)
    reached = train(ground, tmp_path / "out", *QUIET, *own, "--num_train_epochs", "12")
    assert fallen(tmp_path / "out") > 0.4
    assert keys(tmp_path / "out") == {"adapters.mlm"}
    assert keys(tmp_path / "out" / "pretraining_head") == {"kadapter.adapters"}
    assert "load it by KAdapterModel.from_pretrained" in capsys.readouterr().out
    model = KAdapterForMaskedLM.from_pretrained(tmp_path / "out" / "pretraining_head")
    assert (model.config.fusion, model.config.lm_head) == ("delta", "backbone")
    training = KAdapterModel.from_pretrained(tmp_path / "out").config.adapters["mlm"]["training"]
    assert training["objective"] == "masked_lm" and training["results"]["accuracy"] == reached["eval_accuracy"]
    assert not backbone_tensors_in(tmp_path / "out", ground)
    tokenizer = AutoTokenizer.from_pretrained(ground / "with_head")
    inputs = tokenizer(["Mira Voss works in <mask> ."], return_tensors="pt")
    model.disable_adapters()
    with torch.no_grad():
        plain = AutoModelForMaskedLM.from_pretrained(ground / "with_head").eval()(**inputs).logits
        assert torch.equal(model(**inputs).logits, plain)


def test_an_adapter_learns_through_a_trained_lm_head_which_is_referred_to_and_not_copied(ground, tmp_path):
    shared = ground / "head" / "pretraining_head"
    before = tensors(shared)
    train(ground, tmp_path / "out", "--report_to", "none", "--lm_head", shared, "--save_steps", "5")
    for folder in ("pretraining_head", "checkpoint-5"):
        assert keys(tmp_path / "out" / folder) == {"kadapter.adapters"}
    config = KAdapterConfig.from_pretrained(tmp_path / "out" / "pretraining_head")
    assert config.lm_head == "transform" and config.lm_head_source["name_or_path"] == str(shared)
    model = KAdapterForMaskedLM.from_pretrained(tmp_path / "out" / "pretraining_head")
    after = model.head.state_dict()
    assert all(torch.equal(after[key.removeprefix("head.")], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("lm_head", ["linear", "transform"])
def test_a_new_lm_head_is_trained_on_top_of_frozen_adapters_as_in_the_paper(ground, tmp_path, lm_head):
    more = (*QUIET, "--without_adapter", "--lm_head", lm_head, "--frozen_adapters", ground / "fac")
    reached = train(ground, tmp_path / "out", *more)
    head = tmp_path / "out" / "pretraining_head"
    model = KAdapterForMaskedLM.from_pretrained(head)
    assert model.active_adapters() == ["fac"] and model.config.lm_head == lm_head
    frozen = KAdapterModel.from_pretrained(ground / "fac").get_adapter_state_dict("fac")
    assert all(torch.equal(frozen[key], tensor) for key, tensor in model.get_adapter_state_dict("fac").items())
    again = run_adapter.main(without_training(flags(ground, "masked_lm", tmp_path / "out", *more)))
    assert again["eval_loss"] == pytest.approx(reached["eval_loss"], abs=1e-6)


def test_plain_text_and_treebanks_teach_too_and_mentions_can_be_masked(ground, tmp_path, capsys):
    (tmp_path / "text").mkdir()
    for name in ("train", "dev"):
        records = json.loads((ground / "trex" / f"{name}.json").read_text(encoding="utf-8"))
        lines = "".join(" ".join(record["token"]) + "\n" for record in records)
        (tmp_path / "text" / f"{name}.txt").write_text(lines, encoding="utf-8")
    own = (*QUIET, *through_own_head(ground), "--num_train_epochs", "1")
    train(ground, tmp_path / "a", *own, "--corpus", "text", "--data_dir", tmp_path / "text")
    train(ground, tmp_path / "b", *own, "--corpus", "conllu", "--data_dir", ground / "conllu")
    train(ground, tmp_path / "c", *own, "--mask_mentions", "1", "--mask_probability", "0.9")
    train(ground, tmp_path / "d", *own)
    assert capsys.readouterr().out.count("train: 40 examples kept, 0 dropped") == 4
    assert losses(tmp_path / "c") != losses(tmp_path / "d") == losses(tmp_path / "a")  # the same sentences


# ---- the same run ---------------------------------------------------------------------------------------------------


def resumed_within_an_epoch(whole, folder, step):
    """A copy of a run as a kill left it after so many steps."""
    shutil.copytree(whole / f"checkpoint-{step}", folder / f"checkpoint-{step}")
    return folder


def test_a_run_that_is_resumed_within_an_epoch_masks_the_same_tokens_to_the_bit(ground, tmp_path):
    more = ("--report_to", "none", *through_own_head(ground), "--save_steps", "7", "--mask_mentions", "0.5")
    train(ground, tmp_path / "whole", *more)
    killed = resumed_within_an_epoch(tmp_path / "whole", tmp_path / "killed", 7)
    train(ground, killed, *more, *RESUME)
    assert same_tensors(tmp_path / "whole", killed) and losses(tmp_path / "whole") == losses(killed)
    assert results_alike(tmp_path / "whole", killed)
    other = ("--overwrite_output_dir", "--mask_probability", "0.3", *RESUME)
    with pytest.raises(ValueError, match=re.escape("--mask_probability was 0.15 and is 0.3")):
        train(ground, resumed_within_an_epoch(tmp_path / "whole", tmp_path / "other", 7), *more, *other)


def test_each_epoch_masks_other_tokens_and_each_seed_too(ground, tmp_path):
    still = ("--learning_rate", "0", *NO_DROPOUT, *QUIET, *through_own_head(ground))
    still += ("--per_device_train_batch_size", "40", "--logging_steps", "1")
    train(ground, tmp_path / "a", *still)
    train(ground, tmp_path / "b", *still, "--seed", "7")
    one, other = losses(tmp_path / "a"), losses(tmp_path / "b")
    assert one.keys() == {1, 2} and one[1] != one[2] and not set(one.values()) & set(other.values())


@pytest.mark.thorough
@pytest.mark.slow
def test_two_processes_train_as_one_and_go_on_bit_for_bit(ground, tmp_path):
    more = ("--report_to", "none", *through_own_head(ground), *NO_DROPOUT, "--learning_rate", "1e-3")
    train(ground, tmp_path / "one", *more)
    halves = [*more, "--per_device_train_batch_size", "4", "--save_steps", "7"]
    run_processes(run_adapter.main, flags(ground, "masked_lm", tmp_path / "two", *halves), tmp_path / "printed", 2)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert one.keys() == two.keys() and max(abs(one[step] - two[step]) for step in one) < 1e-4
    assert results_alike(tmp_path / "one", tmp_path / "two")
    killed = resumed_within_an_epoch(tmp_path / "two", tmp_path / "killed", 7)
    run_processes(run_adapter.main, flags(ground, "masked_lm", killed, *halves, *RESUME), tmp_path / "printed", 2)
    assert same_tensors(tmp_path / "two", killed) and two == losses(killed)


@pytest.mark.thorough
def test_several_adapters_learn_at_once_through_one_lm_head_as_each_does_alone(ground, tmp_path):
    (tmp_path / "variants.yaml").write_text("slow: {learning_rate: 1.0e-3}\nfast: {seed: 3}\n", encoding="utf-8")
    for name, head in (("own", through_own_head(ground)), ("shared", ("--lm_head", ground / "head/pretraining_head"))):
        more = (*QUIET, *head, "--num_train_epochs", "1")
        train(ground, tmp_path / name, *more, "--variants", tmp_path / "variants.yaml")
        alone = (*more, "--learning_rate", "1e-3", "--adapter_name", "slow")
        train(ground, tmp_path / f"{name}-alone", *alone)
        assert same_tensors(tmp_path / name / "slow", tmp_path / f"{name}-alone")
        assert not same_tensors(tmp_path / name / "fast", tmp_path / name / "slow")
        model = KAdapterForMaskedLM.from_pretrained(tmp_path / name / "fast" / "pretraining_head")
        assert model.active_adapters() == ["fast"] and keys(tmp_path / name / "fast") == {"adapters.fast"}


# ---- bad input ------------------------------------------------------------------------------------------------------


BAD = {
    "without an LM head": ((), r"has no complete LM head: its checkpoint lacks 'lm_head.bias' .* lm_head='transform'"),
    "nothing to train": (("--without_adapter",), "has no complete LM head"),
    "a cache": ((*HEAD_ALONE, "--cache_features"), "masks other words of them in each epoch; leave it out"),
    "workers": (
        (*HEAD_ALONE, "--dataloader_persistent_workers", "--dataloader_num_workers", "1"),
        "would keep the masks of the first epoch",
    ),
    "no share": ((*HEAD_ALONE, "--mask_probability", "0"), "the probability of a mask is 0.0"),
    "no LM head": (("--lm_head", "{ground}/fac"), "holds no LM head of its own"),
    "no path": (("--lm_head", "transfrom"), "'transfrom'"),
    "no texts": ((*HEAD_ALONE, "--corpus", "cosmosqa"), "this objective needs text records; choose another objective"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_can_not_be_trained_is_told_in_a_sentence(ground, tmp_path, name):
    more, sentence = BAD[name]
    with pytest.raises((ValueError, OSError), match=sentence):
        train(ground, tmp_path / "out", *QUIET, *(str(flag).format(ground=ground) for flag in more))


def test_a_frozen_lm_head_alone_leaves_nothing_to_train(ground, tmp_path):
    with pytest.raises(ValueError, match="--without_adapter with --lm_head 'backbone' leaves nothing to train"):
        train(ground, tmp_path / "out", *QUIET, *through_own_head(ground), "--without_adapter")


def test_a_model_is_evaluated_with_the_lm_head_that_it_was_trained_with(ground):
    given = flags(ground, "masked_lm", ground / "head", *QUIET, "--without_adapter", "--lm_head", "linear")
    with pytest.raises(
        ValueError, match="the trained model has the LM head 'transform', and these flags ask for 'lin"
    ):
        run_adapter.main(without_training(given))


def test_a_tokenizer_without_a_mask_and_an_lm_head_of_another_vocabulary_are_refused(ground, tmp_path):
    tokenizer = tokenizer_of(["ada wrote to paris"])
    other = write_backbone(tmp_path / "other", tokenizer)
    with pytest.raises(ValueError, match=r"has a vocabulary of \d+ tokens, and this backbone one of \d+"):
        train(ground, tmp_path / "a", *QUIET, "--backbone", other, "--lm_head", ground / "head" / "pretraining_head")
    tokenizer.mask_token = None
    without = write_backbone(tmp_path / "without", tokenizer)
    with pytest.raises(ValueError, match="has no mask token, so its model can't learn to fill one"):
        train(ground, tmp_path / "b", *QUIET, *HEAD_ALONE, "--backbone", without)
