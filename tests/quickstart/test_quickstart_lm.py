"""The language model's quickstart as `make quickstart-lm` runs it: real facts and recipe, a small random decoder."""

import json
import re

import pytest
from helpers import run_python
from tiny_decoders import tiny_decoder
from tiny_runs import digest, tokenizer_of, write_backbone

from kadapter import KAdapterForCausalLM
from kadapter.quickstart.language_model import KINDS, questions

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

AS_A_MODULE = "import runpy\nrunpy.run_module('kadapter.quickstart.language_model', run_name='__main__')"  # python -m


def write_decoder(folder, pads=True, **shape):
    texts = [f"{question.prompt} {question.answer}." for own in questions().values() for question in own]
    tokenizer = tokenizer_of(texts, vocab_size=2000)
    tokenizer.pad_token = tokenizer.pad_token if pads else None
    tokenizer.save_pretrained(folder)
    tiny_decoder(vocab_size=len(tokenizer), **shape).save_pretrained(folder)


def run_quickstart(folder, *given, **options):
    return run_python(AS_A_MODULE, folder, *given, "--max-steps", "2", package=True, COLUMNS="160", **options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart_lm")
    write_decoder(folder / "decoder", num_hidden_layers=30, hidden_size=16)
    before = digest(folder / "decoder")
    printed = run_quickstart(folder, "--backbone", folder / "decoder", "--output-dir", folder / "run").stdout
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
    assert {tuple(adapter["layers"]) for adapter in model.config.adapters.values()} == {(0, 15, 29)}


def test_any_decoder_will_do_though_it_has_fewer_blocks_and_its_tokenizer_no_padding(tmp_path):
    write_decoder(tmp_path / "decoder", pads=False, num_hidden_layers=5)
    run_quickstart(tmp_path, "--backbone", tmp_path / "decoder", "--output-dir", tmp_path / "run")
    model = KAdapterForCausalLM.from_pretrained(tmp_path / "run" / "people")
    assert model.config.adapters["people"]["layers"] == [0, 2, 4] and (tmp_path / "run" / "scores.json").is_file()


def test_a_backbone_that_is_no_decoder_ends_it_with_a_sentence(tmp_path):
    write_backbone(tmp_path / "encoder")
    given = ["--backbone", tmp_path / "encoder", "--output-dir", tmp_path / "run"]
    failed = run_quickstart(tmp_path, *given, check=False)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert re.search("(?m)^script: .* has no complete LM head: .*; use a checkpoint with an LM head", failed.stderr), (
        failed.stderr
    )


def test_fifty_facts_about_people_and_thirty_about_towns_are_asked_in_taught_phrasings_and_others():
    numbers = {kind: len(own) for kind, own in questions().items()}
    assert list(numbers.values()) == [150, 100, 90, 60, 12]
    taught, others = ({question.prompt for question in questions()[f"people, {kind}"]} for kind in KINDS)
    assert not taught & others
