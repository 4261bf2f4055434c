"""experiments/invented_facts.py: bodies of facts that can be taught and asked, about different people."""

import importlib.util

import pytest
from tiny_runs import ROOT

from kadapter.data_builders import load


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("invented")
    spec = importlib.util.spec_from_file_location("invented_facts", ROOT / "experiments" / "invented_facts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(folder / "facts", seed=0)
    module.main(folder / "again", seed=0)
    same = [(path, folder / "again" / path.relative_to(folder / "facts")) for path in folder.glob("facts/*/*")]
    assert len(same) == 24 and all(one.read_bytes() == other.read_bytes() for one, other in same)
    return folder / "facts"


def test_bodies_are_about_different_people(bodies):
    sizes = {"a": 200, "b": 96, "c": 96, "d": 96, "e": 96, "long": 500}
    lines = {body: (bodies / body / "triples.tsv").read_text(encoding="utf-8").splitlines() for body in sizes}
    people = {body: {line.split("\t")[0] for line in own} for body, own in lines.items()}
    assert {body: len(own) for body, own in lines.items()} == sizes
    assert len(set().union(*people.values())) == sum(len(own) for own in people.values())
    words = {body: {len(line.split("\t")[2].split()) for line in own} for body, own in lines.items()}
    assert words.pop("long") == {3, 4, 5} and set(map(frozenset, words.values())) == {frozenset({1})}


@pytest.mark.parametrize(
    ("body", "facts", "taught"),
    [("a", 200, 3), ("a_more", 200, 6), ("a_ten", 200, 10), ("b", 96, 3), ("long", 500, 3)],
)
def test_each_is_taught_in_several_phrasings_and_asked_in_two_others_and_the_other_way_round(
    bodies, tmp_path, body, facts, taught
):
    splits = load("triples", bodies / body, cache_dir=tmp_path)
    assert {split: len(rows) for split, rows in splits.items()} == {"train": taught * facts, "test": 3 * facts}
    rows = [row for own in splits.values() for row in own]
    last = [max(mention["end"] for mention in row["mentions"]) for row in rows]
    assert all(row["text"][end:] in (".", " paint.") for row, end in zip(rows, last, strict=True))
    assert sum(head["start"] > tail["start"] for head, tail in (row["mentions"] for row in splits["test"])) == facts
    assert sum("?" in row["text"] for row in splits["test"]) == facts
    assert not {row["text"] for row in splits["train"]} & {row["text"] for row in splits["test"]}
