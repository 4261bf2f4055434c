"""Injections into decoders: facts are taught by their text up to its end, and asked token by token."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ROOT
from tiny_decoders import by_token, write_decoder
from tiny_tasks import tokenizer_of_words
from transformers import AutoModelForCausalLM, AutoTokenizer

from kadapter import KAdapterForCausalLM, PreNormAdapterConfig
from kadapter.trainers import run_injection
from kadapter.trainers.fact_probing.language_model import LanguageModel
from kadapter.trainers.fact_probing.prompts import CausalPrompter
from kadapter.trainers.injection.arguments import ROWS, parse_injection_arguments
from kadapter.trainers.injection.measures import compare, losses, perplexity
from kadapter.trainers.injection.questions import SequenceQuestion, ask, questions_of
from kadapter.trainers.injection.rows import lesson_of
from kadapter.trainers.injection.texts import asked_texts

PEOPLE = ("Mira", "Voss", "Ole", "Ilse", "Jory", "Pell", "Nora", "Brek")
PLACES = ("Tarnstad", "Old Quarry", "Kell", "Lumen Bay")
PHRASINGS = ["[X] was born in [Y] .", "[Y] is the town of [X] .", "the town of [X] is [Y] ."]


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A tiny decoder, facts whose answers have one token and several, their phrasings, and other text."""
    folder = tmp_path_factory.mktemp("ground")
    phrased = [
        each.replace("[X]", name).replace("[Y]", place) for each in PHRASINGS for name in PEOPLE for place in PLACES
    ]
    write_decoder(folder / "decoder", phrased, max_position_embeddings=40)
    for name in ("facts", "text"):
        (folder / name).mkdir()
    triples = [f"{name}\tbirth\t{PLACES[n % len(PLACES)]}\n" for n, name in enumerate(PEOPLE)]
    (folder / "facts" / "facts.tsv").write_text("".join(triples), encoding="utf-8")
    templates = {"relation": "birth", "phrasings": PHRASINGS}
    (folder / "facts" / "templates.jsonl").write_text(json.dumps(templates) + "\n", encoding="utf-8")
    texts = "".join(f"{name} is in the old town of {place} .\n" for name in PEOPLE for place in PLACES)
    (folder / "text" / "dev.txt").write_text(texts, encoding="utf-8")
    return folder


def flags(ground, output, *more):
    given = ["--corpus", "triple_facts", "--data_dir", ground / "facts", "--backbone", ground / "decoder"]
    given += ["--templates", ground / "facts" / "templates.jsonl", "--output_dir", output, "--max_length", 30]
    given += ["--text_corpus", "text", "--text_data_dir", ground / "text", "--max_texts", 8, "--seeds", 0]
    given += ["--adapter_hidden_size", 16, "--adapter_num_attention_heads", 2, "--max_taught", 4]
    given += ["--learning_rate", "1e-2", "--lora_learning_rate", "1e-2", "--full_learning_rate", "3e-3"]
    given += ["--lora_modules", "q_proj", "v_proj", "down_proj", "--lr_scheduler_type", "linear"]
    given += ["--num_train_epochs", 30, "--per_device_train_batch_size", 4, "--bf16", "False"]
    return [str(each) for each in [*given, "--disable_tqdm", "True", "--report_to", "none", "--resamples", 50, *more]]


@pytest.fixture(scope="module")
def injected(ground, tmp_path_factory):
    """All rows."""
    output = tmp_path_factory.mktemp("injected") / "out"
    held_back = ["--locality_weight", 3, "--locality_corpus", "text", "--locality_data_dir", ground / "text"]
    return run_injection.main(
        flags(ground, output, "--rows", *ROWS, *held_back, "--locality_split", "validation")
    ), output


def opened(ground):
    prompter = CausalPrompter(AutoTokenizer.from_pretrained(ground / "decoder"), 30)
    return LanguageModel(AutoModelForCausalLM.from_pretrained(ground / "decoder"), prompter)


def facts_of(ground, closed=False, prompter=None):
    rows = [
        {"relation": "birth", "subject": name, "answers": [PLACES[n % len(PLACES)]]} for n, name in enumerate(PEOPLE)
    ]
    return questions_of(rows, {"birth": PHRASINGS}, prompter or opened(ground).prompter, closed, [1])


# ---- the program --------------------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.slow
def test_every_row_teaches_a_decoder_answers_of_one_token_and_of_several(injected):
    results, output = injected
    assert list(results) == list(ROWS)
    for row in results.values():
        assert row["measures"]["reliability"]["mean"] == 1
    written = json.loads((output / "all_results.json").read_text(encoding="utf-8"))["settings"]["counts"]
    assert written["phrasings_answer_not_at_the_end"] == 1 and written["asked"] == len(PEOPLE)
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["phrasing"] for line in lines} == {1, 3}
    assert not any(line["before"] for line in lines if line["facts"] == "taught")


@pytest.mark.slow
def test_the_locality_term_keeps_a_decoder_closer_to_what_it_said(injected):
    results, _ = injected
    free, held_back = (results[name] for name in ("adapter", "adapter_local"))
    assert held_back["measures"]["kl"]["mean"] < free["measures"]["kl"]["mean"]
    assert held_back["measures"]["loss"]["mean"] > free["measures"]["loss"]["mean"]
    assert held_back["perplexity"]["after"][0] < free["perplexity"]["after"][0]
    assert held_back["perplexity"]["before"] == free["perplexity"]["before"]


@pytest.mark.slow
def test_an_adapter_that_is_silent_where_it_says_little_moves_nothing_else(ground, tmp_path):
    held_back = ["--locality_weight", 30, "--locality_corpus", "text", "--locality_data_dir", ground / "text"]
    held_back += ["--locality_split", "validation"]
    given = [*held_back, "--rows", "adapter", "adapter_local", "--silent_below", 0.4, "--num_train_epochs", 60]
    given += ["--adapter_dropout", 0.1]
    results = run_injection.main(flags(ground, tmp_path / "out", *given))
    silent, free = (results[row] for row in ("adapter_local", "adapter"))
    assert silent["measures"]["reliability"]["mean"] == free["measures"]["reliability"]["mean"] == 1
    assert abs(silent["measures"]["loss"]["mean"]) < 0.1 * abs(free["measures"]["loss"]["mean"])
    published = [*held_back, "--rows", "adapter_local", "--silent_below", 0.4, "--adapter_kind", "top_layers"]
    with pytest.raises(ValueError, match=r"--silent_below 0\.4 is for adapters of kind prenorm, not top_layers"):
        run_injection.main(flags(ground, tmp_path / "other", *published))


@pytest.mark.slow
def test_a_rows_loss_is_the_logarithm_of_its_perplexities(injected):
    for row in injected[0].values():
        (after,) = row["perplexity"]["after"]
        change = math.log(row["perplexity"]["before"]) - math.log(after)
        assert row["measures"]["loss"]["mean"] == pytest.approx(change, abs=1e-5)


@pytest.mark.slow
def test_the_adapter_is_a_prenorm_one_and_others_are_refused(ground, injected, tmp_path):
    trained = {name: row["trainable"][0] for name, row in injected[0].items()}
    assert trained["lora"] == 4 * 8 * ((32 + 32) + (32 + 16) + (48 + 32))  # q, v of half the width, and down
    shape = PreNormAdapterConfig(hidden_size=16, num_attention_heads=2)
    beside = KAdapterForCausalLM.from_backbone(str(ground / "decoder"), adapters={"facts": shape})
    own = sum(weight.numel() for weight in beside.base_model.adapters.parameters())
    assert trained["adapter"] == trained["adapter_local"] == own < trained["full"]
    with pytest.raises(ValueError, match="k_adapter"):
        run_injection.main(flags(ground, tmp_path / "out", "--rows", "adapter", "--adapter_kind", "k_adapter"))


# ---- by hand ------------------------------------------------------------------------------------------------------


def test_a_right_answer_is_what_greedy_decoding_says_token_by_token(ground):
    model = opened(ground)
    tokenizer = model.prompter.tokenizer
    text = "Mira was born in"
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :-1]
    said = model.model.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=-1)[0, ids.shape[1] :].tolist()
    other = [said[0], said[1], (said[2] + 1) % 60]
    prompt = f"{text} [MASK] ."
    cases = {"said": ({tuple(said): "a"}, True), "not said": ({tuple(other): "b"}, False)}
    cases["either"] = ({tuple(other): "b", tuple(said): "a"}, True)
    cases["its beginning"] = ({tuple(said[:1]): "a"}, True)
    for right, expected in cases.values():
        question = SequenceQuestion(("r", "Mira"), 1, prompt, model.prompter, right, None)
        ((index, known, logs),) = ask(model, [question])
        assert (index, known) == (0, expected)
        ((scores, _), *_) = by_token(model.model, tokenizer, text, " Kell")
        assert torch.allclose(logs, scores, atol=1e-5)


def test_in_a_closed_list_the_most_probable_answer_as_a_whole_is_taken(ground):
    model = opened(ground)
    facts, _ = facts_of(ground, closed=True, prompter=model.prompter)
    flat = [question for own in facts for question in own]
    seen = {index: known for index, known, _ in ask(model, flat)}
    assert len(seen) == 2 * len(PEOPLE)
    for index, question in [*enumerate(flat)][::3]:
        text = question.prompt.partition(" [MASK]")[0]
        pieces = {place: by_token(model.model, model.prompter.tokenizer, text, f" {place}") for place in PLACES}
        sums = {place: sum(float(scores[token]) for scores, token in own) for place, own in pieces.items()}
        (right,) = question.right.values()
        assert seen[index] == (max(sums, key=sums.get) == right)


class Told(torch.nn.Module):
    """A decoder whose logits after every token are given."""

    def __init__(self, logits):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(logits))

    @property
    def device(self):
        return self.weight.device

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.weight.expand(*input_ids.shape, -1))


def test_ties_agreement_divergence_and_perplexity_are_those_computed_by_hand():
    tokenizer = tokenizer_of_words(["yes", "no"])  # with five special tokens, seven in all
    prompter, low = CausalPrompter(tokenizer), [-100.0] * 5
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    before, after = (
        LanguageModel(Told([*low, math.log(first), math.log(1 - first)]), prompter) for first in (0.75, 0.5)
    )
    for candidates in (None, [(yes, yes), (no, no)]):
        question = SequenceQuestion(("r", "s"), 1, "no [MASK]", prompter, {(yes, yes): "yes yes"}, candidates)
        (moved,) = compare(after, before, [question])
        assert (moved.before, moved.after) == (True, False)  # a tie is not an answer
        assert moved.kl == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    (text,) = asked_texts(prompter, ["yes no yes"], 10)
    assert text["labels"] == [yes, no, yes] and text["positions"] == [0, 1, 2]  # after the start, and no end
    lost = losses(before, [text])
    assert lost[0] == pytest.approx(-2 * math.log(0.75) - math.log(0.25), abs=1e-5)
    assert perplexity(lost, np.array([3.0])) == pytest.approx((0.75**2 * 0.25) ** (-1 / 3))


def test_the_loss_is_on_the_answer_and_on_what_ends_it(ground):
    prompter = opened(ground).prompter
    facts, _ = facts_of(ground)
    lesson = lesson_of(prompter, 30, [facts[1][0]])
    (example,) = lesson.examples
    counted = [label for label in example["labels"] if label != -100]
    expected = prompter.tokenizer(" Old Quarry .", add_special_tokens=False).input_ids
    assert counted == [*expected, prompter.tokenizer.eos_token_id]
    start = len(example["input_ids"]) - len(counted)
    assert example["logits_to_keep"] == list(range(start - 1, len(example["input_ids"]) - 1))


def test_long_texts_are_divided_and_every_token_but_the_first_is_asked_for(ground):
    prompter = opened(ground).prompter
    text = " ".join(["Mira is in the town of Kell ."] * 4)
    asked = asked_texts(prompter, [text], 12)
    tokens = prompter.tokenizer(text, add_special_tokens=False).input_ids
    assert len(asked) > 1 and all(len(own["input_ids"]) <= 12 for own in asked)
    assert [label for own in asked for label in own["labels"]] == tokens


def test_facts_that_a_decoder_can_not_be_asked_are_counted(ground):
    prompter = CausalPrompter(AutoTokenizer.from_pretrained(ground / "decoder"), 20)
    rows = [
        {"relation": "birth", "subject": "Mira", "answers": ["Old Quarry"]},
        {"relation": "birth", "subject": " ".join(PEOPLE * 3), "answers": ["Kell"]},
        {"relation": "held", "subject": "Mira", "answers": ["Kell"]},
    ]
    phrasings = {"birth": PHRASINGS, "held": ["[X] is [Y] .", "[Y] has [X] ."]}
    facts, dropped = questions_of(rows, phrasings, prompter, False, [1])
    assert [[(each.number, each.prompt) for each in own] for own in facts] == [
        [(1, "Mira was born in [MASK] ."), (3, "the town of Mira is [MASK] .")]
    ]
    assert dropped == {"answer_not_at_the_end": 1, "mask_cut_off": 1, "phrasings_answer_not_at_the_end": 2}


# ---- bad input and the recipe -------------------------------------------------------------------------------------


def test_what_is_for_models_that_fill_masks_is_refused(ground, tmp_path):
    with pytest.raises(ValueError, match="is a decoder, which is asked through its own LM head; leave the flag"):
        run_injection.main(flags(ground, tmp_path / "out", "--lm_head", "heads/of_an_encoder"))
    with pytest.raises(ValueError, match="mask_unit"):
        run_injection.main(flags(ground, tmp_path / "out", "--mask_unit", "token"))
    path = tmp_path / "templates.jsonl"
    path.write_text('{"relation": "birth", "phrasings": ["[Y] bore [X]", "in [Y] was [X] born"]}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"none of the 8 facts in .* can be asked: .*'answer_not_at_the_end': 8"):
        run_injection.main(flags(ground, tmp_path / "out", "--templates", path))


def test_the_recipe_for_a_decoder_parses(tmp_path):
    given = ["--recipe", ROOT / "recipes" / "injection_smollm2.yaml", "--backbone", "b", "--data_dir", "d"]
    given += ["--output_dir", tmp_path / "out", "--locality_data_dir", "l", "m", "--text_data_dir", "t"]
    injection, locality, run = parse_injection_arguments([str(each) for each in given])
    assert (injection.rows, run.learning_rate, locality.locality_weight) == (list(ROWS), 1e-3, 72)
    assert len(injection.lora_modules) == 7 and injection.adapter_kind is None
