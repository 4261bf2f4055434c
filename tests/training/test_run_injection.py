"""Injections: facts are taught to an adapter, to LoRA weights or to everything, and all else is measured."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from helpers import ROOT
from tiny_tasks import tokenizer_of_words
from transformers import RobertaConfig, RobertaForMaskedLM

from kadapter.data_builders import read_templates
from kadapter.reports.comparison import Resampling
from kadapter.trainers import run_injection
from kadapter.trainers.fact_probing.language_model import LanguageModel
from kadapter.trainers.fact_probing.prompts import Prompter
from kadapter.trainers.injection.arguments import ROWS, parse_injection_arguments
from kadapter.trainers.injection.measures import Values, compare, interval, losses
from kadapter.trainers.injection.questions import Question, phrasings_of, questions_of

PEOPLE = ["ada", "bela", "cora", "dina", "emil", "fritz", "gerda", "hanno", "ilse", "jory", "kira", "lars"]
TOWNS = ["paris", "lyon", "metz", "nancy"]
TEMPLATES = [
    {"relation": "home", "phrasings": ["[X] lives in [Y] .", "[X] is at home in [Y] .", "the home of [X] is [Y] ."]},
    {"relation": "travel", "phrasings": ["[X] went to [Y] .", "[X] travels to [Y] ."]},
]
WORDS = sorted({word for each in TEMPLATES for text in each["phrasings"] for word in text.split()} - {"[X]", "[Y]"})


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A tiny masked language model of known words, facts, their phrasings, and other text."""
    folder = tmp_path_factory.mktemp("ground")
    tokenizer = tokenizer_of_words([*PEOPLE, *TOWNS, *WORDS])
    tokenizer.model_max_length = 40
    tokenizer.save_pretrained(folder / "backbone")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "vocab_size": len(tokenizer)}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = RobertaConfig(**sizes, **ids, max_position_embeddings=44, initializer_range=0.4, **no_dropout)
    RobertaForMaskedLM(config).save_pretrained(folder / "backbone")
    (folder / "facts").mkdir()
    triples = [(name, "home", TOWNS[number % 4]) for number, name in enumerate(PEOPLE)]
    (folder / "facts" / "facts.tsv").write_text("".join("\t".join(triple) + "\n" for triple in triples))
    (folder / "facts" / "templates.jsonl").write_text("".join(json.dumps(each) + "\n" for each in TEMPLATES))
    (folder / "text").mkdir()
    (folder / "text" / "dev.txt").write_text(
        "".join(f"{name} travels to {town} .\n" for name in PEOPLE for town in TOWNS)
    )
    return folder


def flags(ground, output, *more):
    given = ["--corpus", "triple_facts", "--data_dir", ground / "facts", "--backbone", ground / "backbone"]
    given += ["--templates", ground / "facts" / "templates.jsonl", "--output_dir", output, "--max_length", 20]
    given += ["--text_corpus", "text", "--text_data_dir", ground / "text", "--candidates", "relation"]
    given += ["--adapter_hidden_size", 12, "--adapter_num_attention_heads", 2, "--layers", 0, 2, 4]
    given += ["--learning_rate", "1e-2", "--lora_learning_rate", "1e-2", "--full_learning_rate", "1e-2"]
    given += ["--lora_modules", "query", "value", "dense"]
    given += ["--num_train_epochs", 30, "--per_device_train_batch_size", 4, "--bf16", "False", "--max_taught", 4]
    return [str(each) for each in [*given, "--disable_tqdm", "True", "--resamples", 100, *more]]


@pytest.fixture(scope="module")
def injected(ground, tmp_path_factory):
    """Two seeds of all rows."""
    output = tmp_path_factory.mktemp("injected") / "out"
    rows = ["--rows", "adapter", "adapter_local", "lora", "full", "--seeds", 0, 1]
    held_back = [*HELD_BACK, ground / "text", "--locality_split", "validation"]
    return run_injection.main(flags(ground, output, *rows, *held_back)), output


@pytest.mark.slow
def test_facts_that_were_unknown_are_taught_by_every_row(injected):
    results, _ = injected
    assert list(results) == ["adapter", "adapter_local", "lora", "full"]
    for row in results.values():
        assert row["measures"]["reliability"]["mean"] > 0.7
        assert len(row["measures"]["reliability"]["by_seed"]) == 2
        low, high = row["measures"]["reliability"]["interval"]
        assert 0 <= low <= row["measures"]["reliability"]["mean"] <= high <= 1


@pytest.mark.slow
def test_what_was_learnt_is_drawn_against_what_was_kept(injected):
    results, output = injected
    drawn = (output / "injection.svg").read_text(encoding="utf-8")
    for row in results:
        assert all(f">{row}, {measure}</text>" in drawn for measure in ("as taught", "in other words"))
    assert ">known facts kept</text>" in drawn or ">agreement on other questions</text>" in drawn


@pytest.mark.slow
def test_what_each_row_trains_and_what_it_took_are_recorded(injected):
    results, _ = injected
    trained = {name: row["trainable"][0] for name, row in results.items()}
    # in each of 4 blocks query, value and the attention's output (32 to 32), and the feed-forward (32 to 48 to 32)
    assert trained["lora"] == 4 * 8 * (3 * (32 + 32) + 2 * (32 + 48))
    assert trained["adapter"] == trained["adapter_local"]
    assert max(trained["lora"], trained["adapter"]) < trained["full"]
    for row in results.values():
        assert all(seconds > 0 for seconds in (*row["wall_seconds"], *row["cpu_seconds"]))
        assert all(peak is None or peak > 50e6 for peak in row["peak_bytes"])


@pytest.mark.slow
def test_every_outcome_is_written_and_gives_the_means_of_the_table(injected):
    results, output = injected
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    for name, row in results.items():
        own = [line for line in lines if line["row"] == name]
        taught = [line for line in own if line["facts"] == "taught"]
        assert not any(line["before"] for line in taught)
        first = [line["after"] for line in taught if line["phrasing"] == 1]
        later = [line["after"] for line in taught if line["phrasing"] != 1]
        assert (len(first), len(later)) == (2 * 4, 2 * 8)
        assert row["measures"]["reliability"]["mean"] == pytest.approx(np.mean(first))
        assert row["measures"]["generality"]["mean"] == pytest.approx(np.mean(later))
        others = [line for line in own if line["facts"] != "taught"]
        assert row["measures"]["kl"]["mean"] == pytest.approx(np.mean([line["kl"] for line in others]), abs=1e-5)
        assert row["measures"]["agreement"]["mean"] == pytest.approx(np.mean([line["agrees"] for line in others]))
        known = [line for line in own if line["facts"] == "known" and line["phrasing"] == 1]
        assert all(line["before"] for line in known)
    with (output / "injection.csv").open() as file:
        header, *table = csv.reader(file)
    assert header[:7] == ["row", "reliability", "generality", "known", "agreement", "kl", "loss"]
    assert [line[0] for line in table] == list(results)
    written = json.loads((output / "all_results.json").read_text())
    assert written["rows"].keys() == results.keys()
    counts = written["settings"]["counts"]
    assert counts["read"] == counts["asked"] == 12 and counts["taught"] == 4
    assert counts["known"] + counts["unknown"] + counts["partly_known"] == 12


@pytest.mark.slow
def test_the_locality_term_keeps_the_adapter_closer_to_the_encoder(injected):
    results, _ = injected
    free, held_back = (results[name]["measures"] for name in ("adapter", "adapter_local"))
    assert held_back["kl"]["mean"] < free["kl"]["mean"]
    assert held_back["kl"]["minus_first_row"] == pytest.approx(held_back["kl"]["mean"] - free["kl"]["mean"])


@pytest.mark.slow
def test_a_second_run_needs_leave_to_overwrite_the_first(ground, injected):
    with pytest.raises(ValueError, match="holds another run"):
        run_injection.main(flags(ground, injected[1]))


# --- measures by hand


class Told(torch.nn.Module):
    """A masked language model whose logits at every position are given."""

    def __init__(self, logits):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(logits))

    @property
    def device(self):
        return self.weight.device

    def forward(self, input_ids, attention_mask):
        logits = self.weight.expand(*input_ids.shape, -1)
        return type("Output", (), {"logits": logits})()


def test_agreement_divergence_and_loss_are_those_computed_by_hand():
    tokenizer = tokenizer_of_words(["yes", "no"])  # with five special tokens, seven in all
    prompter = Prompter(tokenizer)
    low = [-100.0] * 5
    before = LanguageModel(Told([*low, math.log(0.75), math.log(0.25)]), prompter)
    after = LanguageModel(Told([*low, math.log(0.5), math.log(0.5)]), prompter)
    moved = LanguageModel(Told([*low, math.log(0.1), math.log(0.9)]), prompter)
    masked = prompter.masked("[MASK] no")
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    question = Question(("r", "s"), 1, "[MASK] no", masked, (yes,), torch.tensor([yes, no]))
    (same,) = compare(before, before, [question])
    assert (same.before, same.after, same.agrees, same.kl) == (True, True, True, 0)
    (tied,) = compare(after, before, [question])
    assert (tied.before, tied.after) == (True, False)  # a tie is not an answer
    assert tied.kl == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    (other,) = compare(moved, before, [question])
    assert (other.after, other.agrees) == (False, False)
    text = {"input_ids": [0, 4, 4, 2], "positions": [1, 2], "labels": [yes, no]}
    assert losses(before, [text])[0] == pytest.approx(-math.log(0.75) - math.log(0.25), abs=1e-5)
    assert (losses(before, [text]) - losses(after, [text]))[0] == pytest.approx(math.log(4 / 0.75 / 4), abs=1e-5)


def test_an_interval_is_of_the_mean_over_facts_and_seeds_and_paired_with_a_reference():
    numbers = np.array([1.0, 2.0, 1.0, 2.0])
    own = Values(np.array([[1.0, 2.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0]]), numbers)
    other = Values(own.sums - 0.5 * numbers, numbers)
    settings = Resampling(2000)
    assert own.mean() == 0.5
    low, high = interval(own, settings)
    assert low == 0 and high == 1
    assert interval(own, settings, other) == (pytest.approx(0.5), pytest.approx(0.5))
    assert all(map(math.isnan, interval(Values(np.zeros((2, 0)), np.zeros(0)), settings)))


# --- which facts are asked


def fact(relation, subject, *answers):
    return {"relation": relation, "subject": subject, "answers": list(answers)}


def test_facts_of_one_subject_are_one_and_what_cannot_be_asked_is_counted():
    prompter = Prompter(tokenizer_of_words([*PEOPLE, *TOWNS, *WORDS]), 12)
    phrasings = {each["relation"]: each["phrasings"] for each in TEMPLATES}
    rows = [
        fact("home", "ada", "paris"),
        fact("home", "ada", "lyon"),
        fact("travel", "ada", "paris lyon"),
        fact("travel", "", "paris"),
        fact("home", " ".join(PEOPLE), "metz"),
        fact("birth", "ada", "paris"),
    ]
    facts, dropped = questions_of(rows, phrasings, prompter, closed=True)
    assert [[each.prompt for each in own] for own in facts] == [
        ["ada lives in [MASK] .", "ada is at home in [MASK] .", "the home of ada is [MASK] ."]
    ]
    assert len(facts[0][0].right) == 2
    assert dropped == {
        "answer_of_several_tokens": 1,
        "no_subject": 1,
        "mask_cut_off": 1,
        "relation_without_phrasings": 1,
    }


HELD_BACK = ["--locality_weight", "1", "--locality_corpus", "text", "--locality_data_dir"]
REFUSED = {
    "a phrasing that is not there": (["--taught_phrasings", "4"], r"'home' has 3 phrasings in .*from 1, and leave"),
    "no phrasing held out": (["--taught_phrasings", "1", "2", "3"], "leave at least one to measure generality"),
    "a phrasing twice": (["--taught_phrasings", "1", "1"], "--taught_phrasings 1 1 must name at least one, and none"),
    "records that are no facts": (["--corpus", "triples"], "'triples' has text records, and an injection needs facts"),
    "a split that is not there": (["--split", "train"], r"has the splits \['test'\]; choose one of these"),
    "the term without a weight": (["--rows", "adapter_local"], "needs a --locality_weight above 0"),
    "a weight without its row": (
        [*HELD_BACK, "x"],
        "has no effect without --rows adapter_local",
    ),
    "nothing to teach": (["--max_taught", "0"], "--max_taught 0 must be at least 1"),
    "nothing to read": (["--max_length", "0"], "--max_length 0 must be at least 1"),
    "modules that are not there": (
        ["--rows", "lora", "--lora_modules", "nowhere"],
        "--rows lora: .*name the modules by",
    ),
}


@pytest.mark.parametrize(
    ("more", "reason"), [(m, r) for m, r in REFUSED.values() if r], ids=[k for k, v in REFUSED.items() if v[1]]
)
def test_what_cannot_be_injected_says_why(ground, tmp_path, more, reason):
    with pytest.raises(ValueError, match=reason):
        run_injection.main(flags(ground, tmp_path / "out", *more))


@pytest.mark.parametrize(
    "more",
    [["--text_split", "test"], ["--rows", "adapter_local", *HELD_BACK, "TEXT"]],
    ids=["text that nothing trains on", "text that holds back"],
)
def test_texts_without_the_split_are_refused_before_any_fact_is_asked(ground, tmp_path, capsys, more):
    given = [str(ground / "text") if word == "TEXT" else word for word in more]
    with pytest.raises(ValueError, match=r"has no split '(test|train)', only \['validation'\]"):
        run_injection.main(flags(ground, tmp_path / "out", *given))
    assert "facts: " not in capsys.readouterr().out


def test_phrasings_of_other_relations_or_malformed_ones_say_so(ground, tmp_path):
    path = tmp_path / "templates.jsonl"
    path.write_text('{"relation": "birth", "phrasings": ["[X] [Y]", "[Y] [X]"]}\n')
    with pytest.raises(
        ValueError, match=r"has phrasings of \['birth'\] and none of the relations of the facts, \['home'\]"
    ):
        run_injection.main(flags(ground, tmp_path / "out", "--templates", path))
    path.write_text('{"relation": "home", "phrasings": ["[X] lives"]}\n')
    with pytest.raises(ValueError, match=r"templates\.jsonl, record 1: .* has 0 slots \[Y\] for the tail"):
        run_injection.main(flags(ground, tmp_path / "out", "--templates", path))


# --- the recipe


def test_the_recipe_parses_and_its_phrasings_can_be_taught(tmp_path):
    recipe = ROOT / "recipes" / "injection_minilm.yaml"
    given = ["--recipe", recipe, "--backbone", "b", "--data_dir", "d", "--output_dir", tmp_path / "out"]
    given += ["--locality_data_dir", "l", "m"]
    injection, locality, run = parse_injection_arguments([str(each) for each in given])
    assert (injection.rows, run.learning_rate, locality.locality_corpus) == (list(ROWS), 1e-3, ["conllu", "fewrel"])
    every = read_templates(ROOT / injection.templates)
    assert phrasings_of(str(ROOT / injection.templates), list(every), injection.taught_phrasings) == every
    assert len(every) == 53 and {len(own) for own in every.values()} == {3}
