"""Decoders are asked how a text goes on: prompts end before the answer, whose tokens are read one after the other."""

import json
import re
from math import exp

import pytest
from tiny_decoders import by_token, small_prenorm, teach, write_decoder
from tiny_lm import ask, fact
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from kadapter import KAdapterForCausalLM
from kadapter.commands import app
from kadapter.reports.runs import read_run
from kadapter.trainers import run_adapter, run_probe
from kadapter.trainers.fact_probing.candidates import vocabulary
from kadapter.trainers.fact_probing.language_model import LanguageModel
from kadapter.trainers.fact_probing.prompts import CausalPrompter
from kadapter.trainers.fact_probing.scoring import ListScorer, VocabularyScorer

PLACES = ("Tarnstad", "Kell", "Lind", "Old Quarry", "Old Mill")
PEOPLE = ("Mira", "Voss", "Ole", "Ilse", "Jory")
TEXTS = [f"{person} was born in {place} ." for person in PEOPLE for place in PLACES] * 3
PROMPT = "Mira was born in [MASK] ."


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """Decoders, an adapter beside the first of them, and LAMA's layout with a template for decoders and another."""
    folder = tmp_path_factory.mktemp("decoders")
    for family in ("llama", "gpt2", "opt"):
        write_decoder(folder / family, TEXTS, family)
    model = KAdapterForCausalLM.from_backbone(str(folder / "llama"), adapters={"facts": small_prenorm()})
    teach(model).save_adapter(folder / "facts", "facts")
    (folder / "lama" / "TREx").mkdir(parents=True)
    templates = {"P19": "[X] was born in [Y] .", "P36": "[Y] is the town of [X] ."}
    for relation in templates:
        labels = [
            {"sub_label": person, "obj_label": place, "predicate_id": relation, "uuid": f"{relation}-{person}"}
            for person, place in zip(PEOPLE, PLACES, strict=True)
        ]
        lines = "".join(json.dumps({**label, "evidences": []}) + "\n" for label in labels)
        (folder / "lama" / "TREx" / f"{relation}.jsonl").write_text(lines, encoding="utf-8")
    lines = "".join(json.dumps({"relation": name, "template": text}) + "\n" for name, text in templates.items())
    (folder / "lama" / "relations.jsonl").write_text(lines, encoding="utf-8")
    return folder


def opened(ground, family="llama", **options):
    tokenizer = AutoTokenizer.from_pretrained(ground / family)
    model = AutoModelForCausalLM.from_pretrained(ground / family).eval()
    return LanguageModel(model, CausalPrompter(tokenizer), **options)


# ---- prompts ------------------------------------------------------------------------------------------------------


def test_a_prompt_is_the_text_before_the_mask_with_its_start_and_without_an_end(ground):
    tokenizer = AutoTokenizer.from_pretrained(ground / "llama")
    prompter, text = CausalPrompter(tokenizer), tokenizer("Mira was born in", add_special_tokens=False).input_ids
    for ending in ("", " .", "?", " .\n"):
        masked = prompter.masked(f"Mira was born in [MASK]{ending}")
        assert masked.ids == (tokenizer.bos_token_id, *text) and masked.positions == (len(text),)
    answer = tuple(tokenizer(" Old Quarry", add_special_tokens=False).input_ids)
    assert prompter.answer_in(PROMPT, "Old Quarry") == answer and len(answer) > 1
    several = prompter.masked(PROMPT, answer=answer)
    assert several.ids == (tokenizer.bos_token_id, *text, *answer[:-1])
    assert several.positions == tuple(range(len(text), len(text) + len(answer)))


def test_an_answer_takes_no_space_that_its_prompt_does_not_have(ground):
    tokenizer = AutoTokenizer.from_pretrained(ground / "llama")
    prompter = CausalPrompter(tokenizer)
    plain = tuple(tokenizer("Kell", add_special_tokens=False).input_ids)
    for prompt in ("Mira was born in ([MASK])", "Where was Mira born?\n[MASK]"):
        assert prompter.answer_in(prompt, "Kell") == plain
        whole = tokenizer(prompt.partition("[MASK]")[0], add_special_tokens=False).input_ids
        assert prompter.masked(prompt).ids[1:] == tuple(whole)
    assert prompter.answer_in("Mira was born in [MASK]", "Kell") != plain


def test_what_a_decoder_can_not_be_asked_has_a_reason(ground):
    prompter = CausalPrompter(AutoTokenizer.from_pretrained(ground / "llama"), 12)
    assert prompter.unaskable(PROMPT) is None
    assert prompter.unaskable("[MASK] is the town of Mira .") == "answer_not_at_the_end"
    assert prompter.unaskable("Mira is in [MASK] or [MASK] .") == "answer_not_at_the_end"
    assert prompter.unaskable(" [MASK] .") == "nothing_before_the_answer"
    with pytest.raises(ValueError, match="goes on after its mask, and a decoder only tells how a text goes on"):
        prompter.masked("[MASK] is the town of Mira .")
    with pytest.raises(ValueError, match=r"has no mask; write \[MASK\]"):
        prompter.masked("Mira was born in Kell .")
    assert prompter.masked("Mira was born in " * 3 + "[MASK] .") is None


# ---- scores -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_closed_list_is_ranked_by_sums_over_tokens_read_one_by_one(ground, family, side):
    model = opened(ground, family)
    tokenizer = model.prompter.tokenizer
    tokenizer.padding_side = side
    prompts = (PROMPT, "Old Ilse was surely born in the town of [MASK].")
    asked = [fact("Old Quarry", name=f"f{n}", prompts=[prompt]) for n, prompt in enumerate(prompts)]
    answered, reasons = ask(ListScorer(model, PLACES, "closed"), *asked)
    assert reasons == {} and len(answered) == 2
    for one, prompt in zip(answered, prompts, strict=True):
        text = prompt.partition(" [MASK]")[0]
        sums = {
            place: sum(float(scores[token]) for scores, token in by_token(model.model, tokenizer, text, f" {place}"))
            for place in PLACES
        }
        assert dict(one.top) == pytest.approx({place: exp(value) for place, value in sums.items()}, rel=1e-4)
        assert one.rank == 1 + sum(value > sums["Old Quarry"] for value in sums.values())


def test_single_tokens_are_ranked_among_all_others_after_the_prompt(ground):
    model = opened(ground)
    scorer = VocabularyScorer(model, vocabulary(model.prompter))
    answered, reasons = ask(scorer, fact("Kell"), fact("Old Quarry", name="long"))
    assert reasons == {"answer_of_several_tokens": 1}
    ((scores, token),) = by_token(model.model, model.prompter.tokenizer, "Mira was born in", " Kell")
    usual = [own for own in range(len(scores)) if own not in model.prompter.tokenizer.all_special_ids]
    assert answered[0].rank == int((scores[usual] >= scores[token]).sum())
    assert answered[0].probability == pytest.approx(float(scores[token].exp()), rel=1e-4)


def test_scores_do_not_depend_on_what_is_read_together(ground):
    facts = [fact("Old Mill", prompts=[f"{'Mira ' * n}was born in [MASK]."], name=str(n)) for n in range(1, 7)]
    seen = []
    for tokens in (1, 4096):
        answered, _ = ask(ListScorer(opened(ground, "gpt2", batch_tokens=tokens), PLACES, "closed"), *facts)
        seen.append([each.probability for each in answered])
    assert seen[0] == pytest.approx(seen[1], rel=1e-4)


# ---- the program --------------------------------------------------------------------------------------------------


def probe(ground, output, *more):
    given = ["--probe", "lama_trex", "--data_dir", ground / "lama", "--backbone", ground / "llama"]
    return run_probe.main([str(flag) for flag in (*given, "--output_dir", output, *more)])


def lines_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_rows_of_a_decoder_are_asked_what_can_be_asked_and_rank_as_the_model_does(ground, tmp_path, capsys):
    closed = ["--candidates", "relation", "--multi_token", "closed"]
    rows = {"none": ["none"], "facts": [ground / "facts"], "random": ["random", ground / "facts"]}
    for name, adapters in rows.items():
        probe(ground, tmp_path / name, "--adapters", *adapters, *closed)
        assert "left out: 5 answer_not_at_the_end" in capsys.readouterr().out
    probabilities = {name: [line["prediction"]["probability"] for line in lines_of(tmp_path / name)] for name in rows}
    assert len(set(map(tuple, probabilities.values()))) == 3
    assert read_run(tmp_path / "random").record["random"] == ["facts"]
    model = KAdapterForCausalLM.from_pretrained(ground / "facts").eval()
    tokenizer = AutoTokenizer.from_pretrained(ground / "llama")
    for line in lines_of(tmp_path / "facts"):
        text, (answer,) = line["prompt"].partition(" [MASK]")[0], line["gold"]["answers"]
        own = sum(float(scores[token]) for scores, token in by_token(model, tokenizer, text, f" {answer}"))
        assert line["prediction"]["probability"] == pytest.approx(exp(own), rel=1e-4)
    probe(ground, tmp_path / "whole")  # among the vocabulary
    assert {line["gold"]["answers"][0] for line in lines_of(tmp_path / "whole")} == {"Tarnstad", "Kell", "Lind"}


def test_a_whole_language_model_and_its_fusion_are_probed(ground, tmp_path):
    model = KAdapterForCausalLM.from_backbone(str(ground / "llama"), adapters={"facts": small_prenorm()}, fusion="max")
    teach(model).save_pretrained(tmp_path / "whole")
    probe(ground, tmp_path / "out", "--adapters", tmp_path / "whole")
    record = read_run(tmp_path / "out").record
    assert (record["fusion"], record["adapters"], record["lm_head"]) == ("max", ["facts"], "backbone")


REFUSED = {
    "tokens masked in turn": (
        ["--candidates", "relation", "--multi_token", "pll"],
        "pll masks tokens in turn, and .* is a decoder, which has no mask; give closed",
    ),
    "another LM head": (["--lm_head", "heads/of_an_encoder"], "is a decoder, which is asked through its own LM head"),
    "a flag of masks": (["--mask_unit", "token"], "mask_unit"),
    "taps": (["--adapters", "taps"], "--adapters taps adds up states, and the LM head of the decoder"),
}


@pytest.mark.parametrize(("flags", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_for_masks_alone_is_refused_beside_a_decoder(ground, tmp_path, flags, sentence):
    with pytest.raises(ValueError, match=sentence):
        probe(ground, tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


def test_templates_with_the_answer_in_the_middle_leave_nothing_to_ask(ground, tmp_path):
    (tmp_path / "facts").mkdir()
    line = {"prompt": "In [MASK] was Mira born.", "answers": ["Kell"], "relation": "birth"}
    (tmp_path / "facts" / "facts.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"none of the 1 facts .* left out: 1 answer_not_at_the_end; choose other"):
        probe(ground, tmp_path / "out", "--probe", "cloze", "--data_dir", tmp_path / "facts")


def test_training_a_decoder_refuses_what_is_for_masks(ground, tmp_path):
    given = ["--objective", "causal_lm", "--corpus", "text", "--data_dir", ground, "--backbone", ground / "llama"]
    given += ["--adapter_name", "facts", "--output_dir", tmp_path / "out", "--do_train", "--max_length", "20"]
    for flag, value in (("--mask_unit", "token"), ("--mask_probability", "0.3"), ("--lm_head", "transform")):
        with pytest.raises(ValueError, match=f"{flag} {value} is for models that fill masks"):
            run_adapter.main([str(each) for each in (*given, flag, value)])


# ---- one text -----------------------------------------------------------------------------------------------------


def test_a_text_is_asked_side_by_side_and_must_end_with_its_mask(ground):
    def shown(*words):
        return CliRunner().invoke(app, ["probe-text", *map(str, words)], env={"COLUMNS": "200"})

    result = shown(PROMPT, "--adapters", ground / "facts", "--top", 1)
    assert result.exit_code == 0, result.output
    names, *rows = [line.split() for line in result.stdout.splitlines() if re.search("[A-Za-z0-9]", line)]
    assert names == ["backbone", "facts"] and len(rows) == 1
    model, tokenizer = KAdapterForCausalLM.from_pretrained(ground / "facts").eval(), opened(ground).prompter.tokenizer
    for own in (opened(ground).model, model):
        ((scores, _),) = by_token(own, tokenizer, "Mira was born in", " Kell")
        assert f"{float(scores.exp().max()):.3f}" in rows[0]
    refused = shown("[MASK] .", "--backbone", ground / "llama")
    assert refused.exit_code == 1 and "has nothing before its mask" in refused.stderr
    refused = shown("In [MASK] was Mira born.", "--backbone", ground / "llama")
    assert refused.exit_code == 1 and "put the mask at its end, followed by nothing but punctuation" in refused.stderr
    refused = shown("Mira " * 80 + "in [MASK].", "--backbone", ground / "llama")
    assert refused.exit_code == 1 and "has more tokens than" in refused.stderr
