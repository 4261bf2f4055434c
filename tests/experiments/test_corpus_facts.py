"""A relation corpus becomes prompts: of facts whose sentences a model reads in training, and of others."""

import json
import runpy

from helpers import ROOT
from typer import Typer
from typer.testing import CliRunner

from kadapter import data_builders

SENTENCES = [  # token, head, tail, relation; a fact is held out where no training sentence states it
    ("train", "Mira Voss works in Tarnstad .", "Mira Voss", "Tarnstad", "work location"),
    ("train", "The Lind runs through Old Tarnstad .", "The Lind", "Old Tarnstad", "crosses"),
    ("test", "In Tarnstad Mira Voss has her office .", "Mira Voss", "Tarnstad", "work location"),
    ("test", "Ole Brandt left Lyon .", "Ole Brandt", "Lyon", "left"),
    ("test", "Ole Brandt works in Lyon .", "Ole Brandt", "Lyon", "work location"),
]


def record(text, head, tail, relation):
    tokens = text.split()

    def mention(name):
        words = name.split()
        start = next(place for place in range(len(tokens)) if tokens[place : place + len(words)] == words)
        return {"name": name, "id": name, "pos": [start, start + len(words)]}

    return {"token": tokens, "h": mention(head), "t": mention(tail), "relation": relation}


def run(*flags):
    app = Typer(pretty_exceptions_enable=False)
    app.command()(runpy.run_path(str(ROOT / "experiments" / "corpus_facts.py"))["main"])
    return CliRunner().invoke(app, [*map(str, flags)])


def test_prompts_are_made_of_facts_that_were_read_and_of_those_that_no_training_sentence_states(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for split in ("train", "test"):
        lines = (json.dumps(record(*rest)) for own, *rest in SENTENCES if own == split)
        (corpus / f"{split}.txt").write_text("\n".join(lines) + "\n")
    phrasings = tmp_path / "phrasings.jsonl"
    phrasings.write_text('{"relation": "work location", "phrasings": ["[X] has a desk in [Y] .", "[Y] pays [X] ."]}\n')
    flags = ["--corpus", "wiki80", "--data-dir", corpus, "--phrasings", phrasings, "-o", "out"]
    done = run(*flags)
    assert done.exit_code == 0, done.output
    prompts = {
        str(path.parent.relative_to(tmp_path / "out")): [
            json.loads(line)["prompt"] for line in path.read_text().splitlines()
        ]
        for path in (tmp_path / "out").rglob("prompts.jsonl")
    }
    assert prompts == {
        "read/sentences": ["Mira Voss works in [MASK] ."],  # a tail of two words is left out
        "read/phrasings": ["Mira Voss has a desk in [MASK] ."],
        "unread/sentences": ["Ole Brandt left [MASK] .", "Ole Brandt works in [MASK] ."],
        "unread/phrasings": ["Ole Brandt has a desk in [MASK] ."],
    }
    facts = data_builders.load("prompts", tmp_path / "out" / "unread" / "sentences")["test"]
    assert facts["answers"][:] == [["Lyon"], ["Lyon"]] and facts["relation"][:] == ["left", "work location"]
    flags[3] = tmp_path / "out" / "read" / "sentences"
    flags[1] = "text"
    (flags[3] / "train.txt").write_text("No fact here .\n")
    (flags[3] / "test.txt").write_text("Nor here .\n")
    refused = run(*flags)
    assert refused.exit_code != 0 and "has no heads and tails" in refused.output + str(refused.exception)
