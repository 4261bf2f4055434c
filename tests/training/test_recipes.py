"""Recipes are found by name, wherever a program is started, and so are the files that they name."""

from pathlib import Path

import pytest
from helpers import ROOT

from kadapter.trainers.common.arguments import parse_arguments
from kadapter.trainers.injection.arguments import parse_injection_arguments

LIN = ["--backbone", "b", "--data_dir", "d", "--output_dir", "o"]
INJECTION = ["--recipe", "injection_minilm", *LIN, "--locality_data_dir", "d", "e"]


@pytest.mark.parametrize("name", ["lin_ewt_minilm", "lin_ewt_minilm.yaml", "recipes/lin_ewt_minilm.yaml"])
def test_a_recipe_of_the_package_is_found_by_its_name_in_any_directory(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, adapter, _ = parse_arguments(["--recipe", name, *LIN])
    assert (adapter.objective, adapter.layers) == ("linguistic", [0, 3, 5])


def test_a_file_that_exists_comes_before_the_recipe_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("lin_ewt_minilm").write_text("objective: factual\ncorpus: fewrel\nadapter_name: mine\n", encoding="utf-8")
    _, adapter, _ = parse_arguments(["--recipe", "lin_ewt_minilm", *LIN])
    assert (adapter.objective, adapter.adapter_name) == ("factual", "mine")


@pytest.mark.parametrize("name", ["lin_ewt_minlm", "recipes/lin_ewt_minlm.yaml", "zzz", "elsewhere/lin_ewt_minilm"])
def test_a_name_of_no_recipe_is_refused_with_near_ones(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"there is no recipe '{name}', and no file of that name; .*'lin_ewt_minilm'"):
        parse_arguments(["--recipe", name, *LIN])


def test_files_that_a_recipe_names_are_looked_for_here_and_then_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts, _, _ = parse_injection_arguments(INJECTION)
    assert facts.templates == str(ROOT / "recipes" / "phrasings_wikidata.jsonl")
    Path("recipes").mkdir()
    Path("recipes", "phrasings_wikidata.jsonl").write_text("", encoding="utf-8")
    facts, _, _ = parse_injection_arguments(INJECTION)
    assert facts.templates == "recipes/phrasings_wikidata.jsonl"
    Path("mine").mkdir()
    Path("mine", "own.yaml").write_text("templates: own.jsonl\ncorpus: lama_trex\n", encoding="utf-8")
    Path("mine", "own.jsonl").write_text("", encoding="utf-8")
    facts, _, _ = parse_injection_arguments(["--recipe", "mine/own.yaml", *LIN])
    assert facts.templates == str(Path("mine", "own.jsonl"))
