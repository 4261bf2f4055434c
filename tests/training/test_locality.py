"""The locality term: what it is, that it holds an adapter back, and that nothing else about a run changes."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers import make_model, shake
from processes import run_processes
from tiny_decoders import small_prenorm
from tiny_runs import NO_DROPOUT, flags, losses, same_tensors, sentences_read, write_ground
from transformers import AutoTokenizer

from kadapter import KAdapterForMaskedLM, KAdapterModel, PreNormAdapterConfig
from kadapter.trainers import run_adapter
from kadapter.trainers.common.arguments import RunArguments
from kadapter.trainers.common.kept_texts import KeptTexts, keep_texts
from kadapter.trainers.common.locality import Locality, read_texts

OTHER = {"factual": "conllu", "linguistic": "trex"}


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


def held_back(ground, objective, output, *more, weight="3"):
    """The flags of a run with a locality term on the corpus of the other objective."""
    corpus = OTHER[objective]
    term = ["--locality_weight", weight, "--locality_corpus", corpus, "--locality_data_dir", ground / corpus]
    return flags(ground, objective, output, *term, "--report_to", "none", *more)


def logged(folder):
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    return {entry["step"]: entry["moved"] for entry in state["log_history"] if "moved" in entry}


def kept(ground, tmp_path, number=7, adapter=None):
    """A model with large random weights, texts, and their kept states."""
    model = make_model(str(ground / "backbone"), *(["fac"] if adapter is None else []))
    if adapter is not None:
        model.add_adapter("fac", adapter)
        shake(model.adapters).eval()
    texts = read_texts("trex", str(ground / "trex"), "train", number)
    tokenizer = AutoTokenizer.from_pretrained(ground / "backbone")
    run = RunArguments(output_dir=str(tmp_path), bf16=False, per_device_eval_batch_size=3, report_to="none")
    return model, texts, tokenizer, keep_texts(model, tokenizer, texts, 40, run)


def test_the_term_is_the_mean_squared_contribution_relative_to_that_of_the_backbone(ground, tmp_path):
    model, texts, tokenizer, states = kept(ground, tmp_path)
    squares, moved, tokens = 0.0, 0.0, 0
    with torch.no_grad():
        for text in texts:  # alone, so without padding
            inputs = tokenizer(text, return_tensors="pt")
            last, contributions = model.contributions(**inputs)
            squares += last.double().square().sum().item()
            moved += contributions["fac"].double().square().sum().item()
            tokens += last.shape[1]
        term = Locality(states, 1.0, 7, 0).share(model, step=0, share=0, shares=1)
    assert states.mean_square == pytest.approx(squares / (tokens * 32), rel=1e-5)
    assert term.item() == pytest.approx(moved / squares, rel=1e-4) and term.item() > 0.01


def sizes_heard(model, inputs):
    """The root mean square of what an adapter adds at each token of a text."""
    return model.contributions(**inputs)[1]["fac"].square().mean(-1).sqrt()


def test_of_a_term_counts_only_what_an_adapter_does_not_leave_out_after_training(ground, tmp_path):
    model, texts, tokenizer, states = kept(ground, tmp_path, adapter=PreNormAdapterConfig(silent_below=0.5))
    adapter, over, tokens = model.adapters["fac"], 0.0, 0
    locality = Locality(states, 1.0, 7, 0)
    locality.tell(model)
    assert adapter.backbone_rms.item() == pytest.approx(states.mean_square**0.5)
    with torch.no_grad():
        for text in texts:
            inputs = tokenizer(text, return_tensors="pt")
            heard, tokens = sizes_heard(model, inputs), tokens + inputs.input_ids.shape[1]
            adapter.backbone_rms.fill_(0)
            shares = sizes_heard(model, inputs) / states.mean_square**0.5  # of all that it says
            adapter.backbone_rms.fill_(states.mean_square**0.5)
            assert torch.equal(heard > 0, shares > 0.5)
            over += (shares - 0.5).clamp(min=0).square().sum().item()
        adapter.train()
        term = locality.share(model, step=0, share=0, shares=1)
    assert term.item() == pytest.approx(over / tokens, rel=1e-4) and term.item() > 0.01


def test_what_is_frozen_beside_an_adapter_is_not_held_back_through_it(ground, tmp_path):
    model, _, _, states = kept(ground, tmp_path)
    locality = Locality(states, 1.0, 4, 0)
    with torch.no_grad():
        alone = locality.share(model, 0, 0, 1)
        small = PreNormAdapterConfig(layers=model.tapped(), hidden_size=8, num_attention_heads=2)
        model.add_adapter("old", small)
        shake(model.adapters["old"]).eval()
        model.train_adapter("fac")
        beside = locality.share(model.eval(), 0, 0, 1)
    assert {"fac", "old"} == set(model.adapters) and alone > 0
    assert torch.equal(beside, alone)


@pytest.mark.slow
def test_a_run_measures_below_what_its_adapter_is_silent_and_goes_on_with_it(ground, tmp_path):
    silent = ["--adapter_kind", "prenorm", "--silent_below", "0.3"]
    run_adapter.main(held_back(ground, "linguistic", tmp_path / "whole", *silent))
    model = KAdapterModel.from_pretrained(tmp_path / "whole")
    (adapter,) = model.adapters.values()
    assert adapter.config.silent_below == adapter.config.training["locality"]["silent_below"] == 0.3
    texts = read_texts("trex", str(ground / "trex"), "train", 1000)
    tokenizer, run = AutoTokenizer.from_pretrained(tmp_path / "whole"), RunArguments(str(tmp_path), bf16=False)
    assert adapter.backbone_rms.item() ** 2 == pytest.approx(keep_texts(model, tokenizer, texts, 40, run).mean_square)
    again = held_back(
        ground, "linguistic", tmp_path / "whole", *silent[:-1], "0.2", "--resume_from_checkpoint", "last"
    )
    with pytest.raises(ValueError, match=r"--silent_below was 0\.3 and is 0\.2"):
        run_adapter.main(again)


@pytest.mark.parametrize("shares", [2, 3, 5])
def test_the_shares_of_processes_add_up_to_the_term_even_where_some_are_empty(ground, tmp_path, shares):
    model, _, _, states = kept(ground, tmp_path)
    locality = Locality(states, 1.0, 4, 0)
    with torch.no_grad():
        whole = locality.share(model, 5, 0, 1)
        parts = [locality.share(model, 5, share, shares) for share in range(shares)]
    torch.testing.assert_close(sum(parts), whole)
    assert shares < 5 or parts[-1] == 0


def test_a_model_that_fills_in_masks_is_held_back_at_masks(ground, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ground / "backbone")
    model = KAdapterForMaskedLM.from_backbone(
        str(ground / "backbone"), lm_head="linear", adapters={"fac": small_prenorm()}, fusion="delta"
    ).eval()
    texts = [*read_texts("trex", str(ground / "trex"), "train", 4), f"Mira Voss {tokenizer.mask_token} in Tarnstad."]
    run = RunArguments(output_dir=str(tmp_path), bf16=False, report_to="none")
    states, first = keep_texts(model, tokenizer, texts, 40, run, masked=True), 0
    masks = []
    for text, length in zip(texts, states.lengths, strict=True):
        kept, first = {layer: own[first : first + length] for layer, own in states.states.items()}, first + length
        ids = tokenizer(text, return_tensors="pt").input_ids
        for place in range(1, length - 1):
            masked = ids.clone()
            masked[0, place] = tokenizer.mask_token_id
            read = model.base_model.tap(masked, torch.ones_like(masked))
            if all(torch.allclose(kept[layer], read[layer][0], atol=1e-5) for layer in kept):
                masks.append((masked == tokenizer.mask_token_id).sum().item())
    assert masks == [1] * 5


def test_each_pass_takes_every_text_once_in_an_order_of_its_own():
    locality = Locality(KeptTexts({}, np.full(12, 5), 1.0), 1.0, 4, seed=1)
    passes = [np.concatenate([locality.indices(3 * number + step) for step in range(3)]) for number in range(2)]
    assert all(sorted(taken) == list(range(12)) for taken in passes)
    assert not np.array_equal(*passes)
    few = Locality(KeptTexts({}, np.full(3, 5), 1.0), 1.0, 8, seed=1)
    assert sorted(few.indices(0)) == sorted(few.indices(9)) == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["factual", "linguistic"])
def test_a_weight_holds_the_adapter_back(ground, tmp_path, objective):
    without, with_term = tmp_path / "without", tmp_path / "with"
    run_adapter.main(flags(ground, objective, without, "--report_to", "none", *NO_DROPOUT))
    run_adapter.main(held_back(ground, objective, with_term, *NO_DROPOUT))
    model, texts, tokenizer, _ = kept(ground, tmp_path)
    states = {}
    for folder in (without, with_term):
        model, run = KAdapterModel.from_pretrained(folder), RunArguments(str(folder), bf16=False)
        term = Locality(keep_texts(model, tokenizer, texts, 40, run), 1.0, 7, 0)
        states[folder] = term.share(model, 0, 0, 1).item()
    assert 0 < states[with_term] < 0.5 * states[without]
    terms = logged(with_term)
    assert set(terms) == set(range(1, 11)) and all(value >= 0 for value in terms.values())
    training = json.loads((with_term / "config.json").read_text(encoding="utf-8"))["adapters"]
    (training,) = (values["training"] for values in training.values())
    assert training["locality"] == {
        "weight": 3.0,
        "corpora": [OTHER[objective]],
        "texts": 1000,
        "other_names": 0,
    }


@pytest.mark.slow
def test_texts_are_read_once_and_never_again(ground, tmp_path):
    given = held_back(
        ground, "linguistic", tmp_path / "out", "--max_locality_samples", "10", "--num_train_epochs", "3"
    )
    with sentences_read() as sizes:
        run_adapter.main([one for one in given if one != "--do_eval"])
    assert sum(sizes) == 10 + 3 * 40


@pytest.mark.slow
@pytest.mark.thorough
def test_with_and_without_cached_features_the_weights_are_the_same(ground, tmp_path):
    run_adapter.main(held_back(ground, "linguistic", tmp_path / "plain"))
    cache = ["--cache_features", tmp_path / "cache"]
    run_adapter.main(held_back(ground, "linguistic", tmp_path / "first", *cache))
    run_adapter.main(held_back(ground, "linguistic", tmp_path / "second", *cache))
    assert same_tensors(tmp_path / "plain", tmp_path / "first")
    assert same_tensors(tmp_path / "plain", tmp_path / "second")


@pytest.mark.slow
def test_a_resumed_run_ends_at_the_same_bits(ground, tmp_path):
    run_adapter.main(held_back(ground, "linguistic", tmp_path / "whole"))
    run_adapter.main(held_back(ground, "linguistic", tmp_path / "stopped"))
    for path in (tmp_path / "stopped").glob("checkpoint-*"):
        if int(path.name.rpartition("-")[2]) > 4:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    (tmp_path / "stopped" / "model.safetensors").unlink()
    run_adapter.main(held_back(ground, "linguistic", tmp_path / "stopped", "--resume_from_checkpoint", "last"))
    assert same_tensors(tmp_path / "whole", tmp_path / "stopped")
    assert logged(tmp_path / "whole") == logged(tmp_path / "stopped")


@pytest.mark.slow
def test_a_run_is_not_resumed_with_another_weight_or_other_texts(ground, tmp_path):
    run_adapter.main(held_back(ground, "linguistic", tmp_path / "out"))
    again = held_back(ground, "linguistic", tmp_path / "out", "--resume_from_checkpoint", "last", weight="2")
    with pytest.raises(ValueError, match=r"--locality_weight was 3\.0 and is 2\.0"):
        run_adapter.main(again)
    term = ["--locality_corpus", "conllu", "--locality_data_dir", ground / "conllu"]
    again = held_back(ground, "linguistic", tmp_path / "out", "--resume_from_checkpoint", "last", *term)
    with pytest.raises(ValueError, match=r"--locality_corpus was \['trex'\] and is \['conllu'\]"):
        run_adapter.main(again)
    shutil.copytree(ground / "trex", tmp_path / "trex")
    for file in (tmp_path / "trex").rglob("*.json"):
        file.write_text(file.read_text(encoding="utf-8").replace("years", "weeks"), encoding="utf-8")
    term = ["--locality_data_dir", tmp_path / "trex"]
    again = held_back(ground, "linguistic", tmp_path / "out", "--resume_from_checkpoint", "last", *term)
    with pytest.raises(ValueError, match=r"--locality_data_dir was '[0-9a-f]{32}' and is '[0-9a-f]{32}'"):
        run_adapter.main(again)


@pytest.mark.slow
@pytest.mark.thorough
def test_accumulated_steps_equal_whole_ones(ground, tmp_path):
    given = [*NO_DROPOUT, "--learning_rate", "1e-3"]
    run_adapter.main(held_back(ground, "linguistic", tmp_path / "whole", *given))
    halves = ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"]
    run_adapter.main(held_back(ground, "linguistic", tmp_path / "halves", *given, *halves))
    for read in (losses, logged):
        whole, two = read(tmp_path / "whole"), read(tmp_path / "halves")
        assert whole.keys() == two.keys() and max(abs(whole[step] - two[step]) for step in whole) < 1e-4


@pytest.mark.thorough
@pytest.mark.slow
def test_two_processes_equal_one(ground, tmp_path):
    given = [*NO_DROPOUT, "--learning_rate", "1e-3"]
    run_adapter.main(held_back(ground, "factual", tmp_path / "one", *given))
    halves = ["--per_device_train_batch_size", "4"]
    two = held_back(ground, "factual", tmp_path / "two", *given, *halves)
    printed = run_processes(run_adapter.main, two, tmp_path / "printed", number=2)
    assert printed.count("locality: 40 texts of conllu") == 1
    for read in (losses, logged):
        one, two = read(tmp_path / "one"), read(tmp_path / "two")
        assert one.keys() == two.keys() == set(range(1, 11))
        assert max(abs(one[step] - two[step]) for step in one) < 1e-4


@pytest.mark.thorough
@pytest.mark.slow
def test_adapters_of_one_run_have_weights_of_their_own(ground, tmp_path):
    variants = tmp_path / "variants.yaml"
    variants.write_text("free: {locality_weight: 0}\nheld: {}\n", encoding="utf-8")
    given = held_back(ground, "linguistic", tmp_path / "out", "--variants", variants)
    given = [one for one in given if one not in ("--adapter_name", "lin")]
    run_adapter.main(given)
    run_adapter.main([*flags(ground, "linguistic", tmp_path / "alone"), "--data_seed", "42", "--report_to", "none"])
    ours, theirs = (tmp_path / "out" / "free", tmp_path / "alone")
    assert losses(ours) == losses(theirs)
    assert losses(tmp_path / "out" / "held") != losses(theirs) and not logged(ours)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["--locality_weight", "-1"], r"--locality_weight -1\.0 must be a number of at least 0"),
        (["--locality_weight", "nan"], "--locality_weight nan must be a number"),
        (["--locality_weight", "0"], "--locality_corpus trex has no effect without --locality_weight"),
        (["--locality_batch_size", "0"], "--locality_batch_size 0 must be at least 1"),
        (["--max_locality_samples", "0"], "--max_locality_samples 0 must be at least 1"),
        (["--locality_corpus", "trexx"], "trexx.*trex"),
        (["--locality_split", "tests"], r"has no split 'tests', only \['train', 'validation'\]"),
        (["--locality_data_dir", "nowhere"], "nowhere"),
        (["--without_adapter", "true"], "--without_adapter trains no adapter that --locality_weight could hold back"),
        (["--mask_padding", "false"], "--locality_weight pads its texts"),
        (
            ["--silent_below", "0.2"],
            "--silent_below 0.2 is for adapters of kind prenorm, not k_adapter; give --adapter",
        ),
        (
            ["--silent_below", "0.2", "--heard_above", "0.3", "--adapter_kind", "prenorm"],
            r"--heard_above 0\.3 is for answers of language models, --objective causal_lm, and not for linguistic",
        ),
        (
            ["--silent_below", "-1", "--adapter_kind", "prenorm"],
            r"--silent_below -1\.0 must be a number of at least 0",
        ),
    ],
)
def test_a_term_that_can_not_be_is_refused(ground, tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_adapter.main(held_back(ground, "linguistic", tmp_path / "out", *changes))
    assert not (tmp_path / "out").exists()


def test_a_weight_without_texts_is_refused(ground, tmp_path):
    with pytest.raises(
        ValueError, match="--locality_weight needs texts; give --locality_corpus and --locality_data_dir or"
    ):
        run_adapter.main(flags(ground, "linguistic", tmp_path / "out", "--locality_weight", "1"))
