"""`kadapter probe-text`: what a model answers with and without adapters, side by side."""

import json
import re

import pytest
import torch
from helpers import ASK, run_python, shake
from tiny_lm import words_tokenizer, write_adapters
from typer.testing import CliRunner

from kadapter.commands import app
from kadapter.language_modeling_kadapter import KAdapterForMaskedLM


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    write_adapters(folder)
    head = KAdapterForMaskedLM.from_backbone(str(folder / "backbone"), lm_head="transform")
    shake(head, 5).save_pretrained(folder / "head")
    return folder


def ask(*words):
    return CliRunner().invoke(app, ["probe-text", *map(str, words)], env={"COLUMNS": "200"})


def columns(result):
    """The answers and their probabilities by the name of the column."""
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines() if re.search("[a-z0-9]", line)]
    names, rows = lines[0], lines[1:]
    return {name: [(line[2 * n], float(line[2 * n + 1])) for line in rows] for n, name in enumerate(names)}


def by_hand(model, text):
    tokenizer = words_tokenizer()
    ids = tokenizer(text, return_tensors="pt").input_ids
    (place,) = (ids[0] == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
    with torch.no_grad():
        values, tokens = model.eval()(input_ids=ids).logits[0, place].softmax(-1).topk(3)
    names = tokenizer.convert_ids_to_tokens(tokens)
    return [(name, round(float(value), 3)) for name, value in zip(names, values, strict=True)]


def test_a_script_reads_the_answers_of_each_row(parts):
    text = "Mira was born in <mask>."
    result = ask(text, parts / "fac", parts / "lin", "--top", 3, "--json")
    (line,) = result.stdout.splitlines()
    told, shown = json.loads(line), columns(ask(text, parts / "fac", parts / "lin", "--top", 3))
    assert told["text"] == text and list(told["rows"]) == list(shown)
    for row, (answers,) in told["rows"].items():
        assert [(each["label"], round(each["score"], 3)) for each in answers] == shown[row]


@pytest.mark.parametrize("mask", ["<mask>", "[MASK]", "[mask]"])
def test_a_column_for_the_backbone_for_each_adapter_and_for_all_together(parts, mask):
    shown = columns(ask(f"Mira was born in {mask}.", "--adapters", parts / "fac", parts / "lin", "--top", 3))
    assert list(shown) == ["backbone", "fac", "lin", "fac+lin"]
    model = KAdapterForMaskedLM.from_backbone(str(parts / "backbone"))
    text = "Mira was born in <mask>."
    assert shown["backbone"] == by_hand(model, text)
    for name in ("fac", "lin"):
        model.load_adapter(str(parts / name))
        model.set_adapter(name)
        assert shown[name] == by_hand(model, text)
    model.set_adapter(["fac", "lin"])
    assert shown["fac+lin"] == by_hand(model, text)
    assert len({tuple(own) for own in shown.values()}) == 4


def test_adapters_may_be_repeated_and_stand_before_other_options(parts):
    text = "Mira was born in <mask>."
    once = ask(text, "--adapters", parts / "fac", parts / "lin")
    repeated = ask(text, "--adapters", parts / "fac", "--adapters", parts / "lin", "--top", 5)
    assert once.stdout == repeated.stdout and len(columns(once)["fac"]) == 5


def test_a_single_adapter_and_the_backbone_alone(parts):
    assert list(columns(ask("In <mask>.", "--adapters", parts / "fac"))) == ["backbone", "fac"]
    assert list(columns(ask("In <mask>.", "--backbone", parts / "backbone"))) == ["backbone"]


def test_a_trained_lm_head_answers_for_all_columns(parts):
    shown = columns(ask("In <mask>.", "--adapters", parts / "fac", "--lm-head", parts / "head", "--top", 3))
    model = KAdapterForMaskedLM.from_backbone(str(parts / "backbone"), lm_head=str(parts / "head"))
    assert shown["backbone"] == by_hand(model, "In <mask>.")


def test_several_masks_have_a_table_each(parts):
    result = ask("In <mask> was <mask>.", "--backbone", parts / "backbone", "--top", 2)
    assert [line for line in result.stdout.splitlines() if line.startswith("mask")] == ["mask 1", "mask 2"]


def test_a_text_that_is_too_long_is_refused(parts):
    result = ask("Mira " * 80 + "in <mask>.", "--backbone", parts / "backbone")
    assert result.exit_code == 1 and "the mask is cut off" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["Mira was born in Lind.", "--adapters", "fac"], "has no mask; write <mask> or [MASK]"),
        (["Mira was born in <mask>."], "there is nothing to ask; name a --backbone or --adapters"),
        (["Mira was born in <mask>.", "--adapters", "nowhere"], "no config.json of a K-Adapter artifact at"),
    ],
)
def test_what_can_not_be_asked_is_refused_at_once(parts, tmp_path, words, sentence):
    words = [parts / word if word in ("fac", "nowhere") else word for word in words]
    done = run_python(ASK, tmp_path, "probe-text", *words, package=True, bare=True)
    assert sentence in done.stderr and done.stdout.splitlines() == ["code 1", "heavy []"]
