"""The language model's quickstart as `make quickstart-lm` runs it: real facts and recipe, a small random decoder."""

import json

import pytest
from helpers import run_python
from tiny_decoders import tiny_decoder
from tiny_runs import digest, tokenizer_of

from kadapter import KAdapterForCausalLM
from kadapter.quickstart.language_model import KINDS, questions

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

AS_A_MODULE = "import runpy\nrunpy.run_module('kadapter.quickstart.language_model', run_name='__main__')"  # python -m


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart_lm")
    texts = [f"{question.prompt} {question.answer}." for own in questions().values() for question in own]
    tokenizer = tokenizer_of(texts, vocab_size=2000)
    tokenizer.save_pretrained(folder / "decoder")
    tiny_decoder(vocab_size=len(tokenizer), num_hidden_layers=30, hidden_size=16).save_pretrained(folder / "decoder")
    before = digest(folder / "decoder")
    given = ["--backbone", folder / "decoder", "--output-dir", folder / "run", "--max-steps", "2"]
    printed = run_python(AS_A_MODULE, folder, *given, package=True, COLUMNS="160").stdout
    assert digest(folder / "decoder") == before
    return folder, printed


def test_it_teaches_two_bodies_of_facts_and_asks_before_and_after(run):
    folder, printed = run
    scores = json.loads((folder / "run" / "scores.json").read_text(encoding="utf-8"))
    assert list(scores) == ["backbone", "people", "towns", "people+towns"]
    assert all(list(own) == list(questions()) for own in scores.values())
    assert scores["backbone"]["anything else"] == 1.0
    assert all(f"{value:.2f}" in printed for own in scores.values() for value in own.values())
    assert "What the model says" in printed and "locality: 200 texts that are learned, about others" in printed


def test_its_adapters_compose(run):
    folder, _ = run
    model = KAdapterForCausalLM.from_pretrained([str(folder / "run" / name) for name in ("towns", "people")])
    assert model.active_adapters() == ["towns", "people"]


def test_fifty_facts_about_people_and_thirty_about_towns_are_asked_in_taught_phrasings_and_others():
    numbers = {kind: len(own) for kind, own in questions().items()}
    assert list(numbers.values()) == [150, 100, 90, 60, 12]
    taught, others = ({question.prompt for question in questions()[f"people, {kind}"]} for kind in KINDS)
    assert not taught & others
