"""The sizes of corpora in the documentation are those that the builders count."""

import json
import re

import pytest
from helpers import ROOT

from kadapter.data_builders import load

DATA = ROOT.parent / "shared" / "data"
FOLDERS = {"conllu": "ud_english_ewt", "wiki80": "wiki80_tacred_format"}
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
TABLE = RESULTS.split("## Corpora")[1].split("\n## ")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.splitlines() if line.startswith("|")][
    2:
]


def fewrel_relations():
    return {
        relation for path in (DATA / "fewrel").glob("relations_*.json") for relation in json.loads(path.read_text())
    }


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
@pytest.mark.thorough
def test_a_corpus_has_as_many_sentences_and_relations_as_documented(row, tmp_path):
    name, excluded, *sizes, relations = row
    name = name.split(" ")[0]
    folder = DATA / FOLDERS.get(name, name)
    if not folder.is_dir():
        pytest.skip(f"the corpus {name} is not available")
    exclude = {} if excluded == "-" else {excluded: DATA / excluded}
    splits = load(name, folder, cache_dir=tmp_path, exclude=exclude)
    counted = [f"{len(splits[split]):,}" if split in splits else "-" for split in ("train", "validation", "test")]
    assert counted == sizes
    if excluded == "fewrel":  # its relations have ids there and names here
        names = json.loads((DATA / excluded / "pid2name.json").read_text(encoding="utf-8"))
        excluded_names = {names[relation][0] for relation in fewrel_relations()}
        assert not excluded_names & {relation for split in splits.values() for relation in split.unique("relation")}
    if relations != "-":
        assert len({relation for split in splits.values() for relation in split.unique("relation")}) == int(relations)


def test_what_the_pages_say_of_relations_is_what_the_table_says():
    relations = {row[0].split(" ")[0]: row[-1] for row in ROWS}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"micro-F1 of (\d+) relations", readme) == [relations["fewrel"]]
    assert re.findall(r"Wiki80's (\d+) relations", RESULTS) == [relations["wiki80"]]
    assert re.findall(r"FewRel: (\d+) relations", RESULTS) == [relations["fewrel"]]
