"""Facts as LAMA and EntityQuestions publish them, and one's own prompts."""

import json
from collections import Counter
from pathlib import Path

import pytest
from helpers import ROOT

from kadapter.data_builders import counts, load

SHARED = ROOT.parent / "shared" / "data"


def published(*parts: str) -> Path:
    folder = SHARED.joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"{'/'.join(parts)} is not available")
    return folder


def evidence(surface: str, sentence: str) -> dict:
    return {"sub_surface": "Voss", "obj_surface": surface, "masked_sentence": sentence}


def fact(relation: str = "P19", **more) -> dict:
    values = {"uuid": "f1", "predicate_id": relation, "sub_label": "Mira Voss", "obj_label": "Tarnstad"}
    return {**values, "evidences": [], **more}


def write_lines(path: Path, records: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def release(folder: Path, facts: list, relations: list | None = None) -> Path:
    """LAMA's T-REx as published: the facts in TREx/, the templates beside it."""
    write_lines(folder / "TREx" / "P19.jsonl", facts)
    if relations is not None:
        write_lines(folder / "relations.jsonl", relations)
    return folder


BORN = {"relation": "P19", "template": "[X] was born in [Y] .", "label": "place of birth", "type": "N-1"}


# ---- what is invented ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "TREx"])
def test_templates_are_found_beside_the_facts_and_above_them(inside, tmp_path):
    folder = release(tmp_path / "lama", [fact()], [BORN]) / inside
    (row,) = load("lama_trex", folder, "test", cache_dir=tmp_path / "cache")
    assert (row["template"], row["relation"], row["answers"]) == ("[X] was born in [Y] .", "P19", ["Tarnstad"])


def test_a_changed_template_is_read_anew(tmp_path):
    folder = release(tmp_path / "lama", [fact()], [BORN])
    load("lama_trex", folder, cache_dir=tmp_path / "cache")
    write_lines(folder / "relations.jsonl", [{**BORN, "template": "The birthplace of [X] is [Y] ."}])
    (row,) = load("lama_trex", folder, "test", cache_dir=tmp_path / "cache")
    assert row["template"] == "The birthplace of [X] is [Y] ."


def test_an_evidence_counts_once_and_only_with_the_words_of_the_answer(tmp_path):
    sentence = "Voss was born in [MASK]."
    evidences = [
        evidence("Tarnstad", sentence),
        evidence("Tarnstad", sentence),
        evidence("the town", "Voss left [MASK]."),
        evidence("Tarnstad", "Voss was born."),
    ]
    folder = release(tmp_path / "lama", [fact(evidences=evidences)], [BORN])
    built = load("lama_trex", folder, cache_dir=tmp_path / "cache")
    assert built["test"][0]["evidences"] == [sentence]
    assert counts(built)["test"] == {
        "evidence_of_other_words": 1,
        "evidence_repeated": 1,
        "evidence_without_mask": 1,
        "evidences": 1,
        "records": 1,
        "rows": 1,
    }


def test_a_relation_without_template_is_kept_and_counted(tmp_path):
    folder = release(tmp_path / "lama", [fact(), fact("P20")], [BORN])
    built = load("lama_trex", folder, cache_dir=tmp_path / "cache")
    assert [row["template"] for row in built["test"]] == ["[X] was born in [Y] .", ""]
    assert counts(built)["test"]["no_template"] == 1


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("was born in [Y] .", r"has no slot \[X\]; write \[X\] for the subject, \[Y\] for the answer"),
        ("[X] was born .", r"has no slot \[Y\]"),
        ("[X] is [Y] in [Y] .", r"has the slot \[Y\] more than once"),
        (" ", "'template' is blank"),
    ],
)
def test_a_template_without_its_slots_is_an_error_that_names_its_line(template, reason, tmp_path):
    relations = [BORN, {"relation": "P20", "template": template}]
    folder = release(tmp_path / "lama", [fact()], relations)
    with pytest.raises(ValueError, match=rf"relations\.jsonl, record 2: .*{reason}.*; correct it"):
        load("lama_trex", folder, cache_dir=tmp_path / "cache")


def test_facts_that_most_people_judged_wrong_are_dropped_and_counted(tmp_path):
    def judged(name, *votes):
        judgments = [{"rater": "1", "judgment": vote} for vote in votes]
        values = {"uuid": name, "pred": "/people/person/place_of_birth", "sub_label": "Voss", "obj_label": "Lind"}
        return {**values, "masked_sentences": ["Voss of [MASK] ."], "judgments": judgments}

    records = [judged("a", "yes", "no"), judged("b", "no", "no", "yes"), judged("c")]
    write_lines(tmp_path / "lama" / "Google_RE" / "place_of_birth_test.jsonl", records)
    built = load("lama_google_re", tmp_path / "lama", cache_dir=tmp_path / "cache")
    assert built["test"]["id"][:] == ["a", "c"]
    assert counts(built)["test"]["dropped_judged_wrong"] == 1


def test_questions_give_the_subject_back_and_others_keep_their_words(tmp_path):
    folder = tmp_path / "questions"
    asked = ["Where was Mira Voss born?", "In which town was Mira born?"]
    (folder / "dev").mkdir(parents=True)
    records = [{"question": question, "answers": ["Tarnstad"]} for question in asked]
    (folder / "dev" / "P19.dev.json").write_text(json.dumps(records), encoding="utf-8")
    (folder / "relation_query_templates.json").write_text('{"P19": "Where was [X] born?"}', encoding="utf-8")
    built = load("entity_questions", folder, cache_dir=tmp_path / "cache")
    assert [(row["subject"], row["template"]) for row in built["validation"]] == [
        ("Mira Voss", "Where was [X] born? [Y]"),
        ("", "In which town was Mira born? [Y]"),
    ]
    assert counts(built)["validation"]["no_template"] == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "Mira was born.", "answers": ["Lind"]}', r"field 'prompt' has no mask: .*; write \[MASK\]"),
        ('{"prompt": "Born in [MASK].", "answers": []}', "field 'answers' is an empty list"),
        ('{"prompt": "Born in [MASK].", "answers": ["Lind", " "]}', "field 'answers' has a blank answer"),
        ('{"prompt": "Born in [MASK]."}', "field 'answers' is missing"),
    ],
)
def test_a_prompt_of_ones_own_that_can_not_be_asked_is_an_error(line, reason, tmp_path):
    (tmp_path / "facts.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"facts\.jsonl, record 1: {reason}"):
        load("prompts", tmp_path, cache_dir=tmp_path / "cache")


def test_conceptnet_is_read_as_published(tmp_path):
    record = {"sub": "bread", "obj": "bakery", "pred": "AtLocation", "obj_label": "bakery", "uuid": "c1"}
    record["masked_sentences"] = ["You buy bread in a [MASK]."]
    write_lines(tmp_path / "lama" / "ConceptNet" / "test.jsonl", [record])
    (row,) = load("lama_conceptnet", tmp_path / "lama", "test", cache_dir=tmp_path / "cache")
    assert (row["id"], row["relation"], row["subject"]) == ("c1", "AtLocation", "bread")
    assert row["evidences"] == ["You buy bread in a [MASK]."]


# ---- what is published --------------------------------------------------------------------------------------------


def test_the_published_trex_facts_keep_the_evidence_with_the_words_of_their_answers(tmp_path):
    folder = published("lama", "TREx")
    built = load("lama_trex", folder, cache_dir=tmp_path)
    rows = built["test"].to_list()
    relations = Counter(row["relation"] for row in rows)
    assert len(relations) >= 28 and set(relations) == {path.stem for path in folder.glob("*.jsonl")}
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("*.jsonl")]
    records = [json.loads(line) for text in texts for line in text.splitlines()]
    assert len(rows) == len(records)
    evidences = [(record, each) for record in records for each in record["evidences"]]
    others = sum(each["obj_surface"] != record["obj_label"] for record, each in evidences)
    assert counts(built)["test"]["evidence_of_other_words"] == others
    if len(records) == 1400:  # the cut of 28 relations
        assert set(relations.values()) == {50} and (len(evidences), others) == (24_759, 4_052)
        assert counts(built)["test"]["evidences"] == sum(len(row["evidences"]) for row in rows) == 17_237
        assert sum(row["answers"][0] in row["subject"] for row in rows) == 135
    assert all("[X]" in row["template"] and "[Y]" in row["template"] for row in rows)
    assert all(sentence.count("[MASK]") == 1 for row in rows for sentence in row["evidences"])


def test_the_published_google_re_and_squad_facts_are_read_whole(tmp_path):
    google = load("lama_google_re", published("lama"), "test", cache_dir=tmp_path)
    squad = load("lama_squad", published("lama"), "test", cache_dir=tmp_path)
    assert Counter(google["relation"][:]) == {"place_of_birth": 100, "date_of_birth": 100, "place_of_death": 100}
    assert len(squad) == 305
    twice = [row for row in google if row["evidences"][0].count("[MASK]") > 1]
    assert sum(row["relation"] == "place_of_birth" for row in twice) == 13
    assert sum(row["evidences"][0].count("[MASK]") > 1 for row in squad) == 3


@pytest.mark.slow
def test_every_published_question_gives_its_subject_back(tmp_path):
    built = load("entity_questions", published("entity_questions", "dev"), cache_dir=tmp_path)
    assert built.num_rows == {"validation": 22_068}
    assert "no_template" not in counts(built)["validation"] and all(built["validation"]["subject"][:])
    assert len(set(built["validation"]["relation"][:])) == 24
