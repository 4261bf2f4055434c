"""The study of knowledge maps on tiny data: its graphs hold nothing that is measured, and every row is run."""

import importlib.util
import json

import pytest
from helpers import ROOT
from tiny_knowledge import ID_OF, LACKING, linked_relation, write_linked, write_map_ground
from typer.testing import CliRunner

from kadapter import data_builders

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

RECIPE = """task: wiki80
max_length: 40
do_train: true
do_eval: true
eval_split: test
num_train_epochs: 1
save_strategy: "no"
disable_tqdm: true
report_to: none
"""
ROWS = ["backbone", "plugged", "plugged random map", "plugged shuffled table", "tuned", "tuned random map"]
ROWS += ["tuned shuffled table", "trained", "trained shuffled table"]
ROWS += ["adapters", "adapters plugged", "adapters tuned", "adapters tuned shuffled table"]


def experiment(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The directory of a study of all rows, by one seed, and its ground."""
    folder = tmp_path_factory.mktemp("study")
    ground = write_map_ground(folder / "ground", {"train": 20, "dev": 6, "test": 9})
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    experiment("map_tuning").main(
        recipe=folder / "recipe.yaml",
        data_dir=ground / "wiki80",
        backbone=str(ground / "backbone"),
        general_map=ground / "map",
        table=ground / "table",
        output_dir=folder / "out",
        fac=ground / "fac",
        lin=ground / "lin",
        rate="1e-3",
        map_rate="1e-2",
        seeds=1,
    )
    return folder / "out", ground


def described(out, row):
    return json.loads((out / "rows" / row / "seed-0" / "run.json").read_text(encoding="utf-8"))


def test_every_row_is_measured_under_its_name_with_its_own_table(study):
    out, _ = study
    assert sorted(path.name for path in (out / "rows").iterdir()) == sorted(ROWS)
    records = {row: described(out, row) for row in ROWS}
    assert all(record["row"] == row and record["split"] == "test" for row, record in records.items())
    mapped = [row for row in ROWS if "knowledge" in records[row]]
    assert mapped == [row for row in ROWS if row not in ("backbone", "adapters")]
    assert [row for row in mapped if records[row]["knowledge"]["shuffled"] is not None] == [
        row for row in ROWS if "shuffled" in row
    ]
    assert [row for row in ROWS if records[row]["random"]] == ["plugged random map", "tuned random map"]


def test_the_linked_examples_are_those_with_an_entity_of_the_table(study):
    out, ground = study
    rows = data_builders.load("wiki80", ground / "wiki80")["test"]
    known = {name for mention, name in ID_OF.items() if mention != LACKING}
    expected = sorted(row["id"] for row in rows if {row["head_id"], row["tail_id"]} & known)
    assert (out / "linked.txt").read_text(encoding="utf-8").split("\n")[:-1] == expected and expected


def test_a_graph_of_relations_holds_no_pair_of_a_measured_sentence(tmp_path):
    write_linked(tmp_path / "wiki80", linked_relation, {"train": 6, "dev": 4, "test": 4})
    seen = {"P1": [{"tokens": ["a", "b"], "h": ["a", "Q100", [[0]]], "t": ["b", "Q101", [[1]]]}]}
    unseen = {"P2": [{"tokens": ["a", "b"], "h": ["a", "Q102", [[0]]], "t": ["b", "Q103", [[1]]]}]}
    (tmp_path / "fewrel").mkdir()
    for name, relations in (("relations_a", seen), ("relations_b", unseen)):
        (tmp_path / "fewrel" / f"{name}.json").write_text(json.dumps(relations), encoding="utf-8")
    measured = data_builders.load("wiki80", tmp_path / "wiki80")["test"][0]
    lines = [f"{measured['tail_id']}\tP9\t{measured['head_id']}", "Q103\tP2\tQ102", "Q200\tP3\tQ201"]
    (tmp_path / "triples.txt").write_text("\n".join(lines), encoding="utf-8")
    flags = ["--fewrel", tmp_path / "fewrel", "--wiki80", tmp_path / "wiki80", "-o", tmp_path / "out"]
    done = invoke("relations", tmp_path / "triples.txt", *flags)
    assert "2 of 4 triples are of pairs that are measured" in done.output
    graph = (tmp_path / "out" / "graph.tsv").read_text(encoding="utf-8").splitlines()
    assert graph == ["Q100\tP1\tQ101", "Q200\tP3\tQ201"]
    assert data_builders.load("fewrel", tmp_path / "out" / "text")["train"]["head_id"] == ["Q100"]


def test_statements_are_of_training_questions_alone_and_each_links_both_of_its_names(tmp_path):
    people = ["Mira Voss", "Ole Brandt", "Ada Lind", "Jon Kell"]
    asked = {"train": people[:3], "dev": people[3:]}
    for split, names in asked.items():
        questions = [{"question": f"Where was {name} born?", "answers": ["Tarnstad"]} for name in names]
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / f"P19.{split}.json").write_text(json.dumps(questions), encoding="utf-8")
    templates = {"P19": "Where was [X] born?"}
    (tmp_path / "data" / "relation_query_templates.json").write_text(json.dumps(templates), encoding="utf-8")
    (tmp_path / "phrasings.jsonl").write_text('{"relation": "P19", "phrasings": ["[X] was born in [Y] ."]}')
    flags = ["--data-dir", tmp_path / "data", "--phrasings", tmp_path / "phrasings.jsonl", "-o", tmp_path / "out"]
    invoke("questions", *flags)
    graph = (tmp_path / "out" / "graph.tsv").read_text(encoding="utf-8").splitlines()
    assert graph == sorted(f"{name}\tP19\tTarnstad" for name in people)
    rows = data_builders.load("texts_and_triples", tmp_path / "out" / "text")
    linked = {(row["head_id"], row["tail_id"]) for part in rows.values() for row in part}
    assert linked == {(name, "Tarnstad") for name in people[:3]}


def invoke(*words):
    done = CliRunner().invoke(experiment("map_graphs").app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done
