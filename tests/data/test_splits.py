"""How files and sentences are assigned to splits, and how a run reports it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kadapter.data_builders import counts, load, split_table
from kadapter.trainers.common.encoding import load_splits

SPANS = {"subj_start": 0, "subj_end": 0, "obj_start": 2, "obj_end": 2}


def relations(number: int, relation: str = "saw", first: int = 0) -> list[dict[str, Any]]:
    """Return records of a relation, each with a different sentence."""
    return [{"token": ["Mira", "saw", f"{relation}{first + n}"], "relation": relation, **SPANS} for n in range(number)]


def fewrel(number: int, relation: str = "P1") -> dict[str, Any]:
    mentions = {"h": ["mira", "Q1", [[0]]], "t": ["lind", "Q2", [[2]]]}
    return {relation: [{"tokens": ["Mira", "saw", f"{relation}{n}"], **mentions} for n in range(number)]}


def folder_of(folder: Path, **files: Any) -> Path:
    """Write JSON files; `train_wiki` is train_wiki.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in files.items():
        (folder / f"{name}.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


WORDS = {
    "train": ("train", "training", "trn"),
    "validation": ("dev", "devel", "development", "val", "valid", "validation", "eval", "evaluation", "heldout"),
    "test": ("test", "testing", "tst"),
}


@pytest.mark.parametrize(("split", "word"), [(split, word) for split, words in WORDS.items() for word in words])
def test_the_usual_words_tell_a_split(split: str, word: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "corpus", **{f"mine-{word.upper()}_2": relations(1)})
    stream = load("relation_classification", folder, streaming=True)
    assert list(stream) == [split]


def test_eval_beside_another_validation_file_may_be_the_test_set_and_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "corpus", train=relations(2), devel=relations(2), eval=relations(2))
    with pytest.raises(ValueError, match=r"eval\.json may be the validation or the test set, since devel\.json"):
        load("relation_classification", folder, cache_dir=tmp_path)


def test_the_table_tells_of_each_file_its_split_and_rows_and_which_are_left_out(tmp_path: Path) -> None:
    files = {"train-0": relations(3), "train-1": relations(2), "devel": relations(1), "extra": relations(9)}
    folder = folder_of(tmp_path / "corpus", **files)
    for _ in ("built", "from the cache"):
        built = load("relation_classification", folder, cache_dir=tmp_path)
        assert [line.split()[:4] for line in split_table(built).splitlines()] == [
            ["train", "train-0.json", "3", "rows"],
            ["train", "train-1.json", "2", "rows"],
            ["validation", "devel.json", "1", "rows"],
            ["left", "out", "extra.json", "of"],
        ]


def test_the_table_of_many_files_is_short_and_of_texts_tells_their_triples(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "many", **{f"train-{n:02}": relations(1, first=n) for n in range(40)})
    lines = split_table(load("relation_classification", folder, cache_dir=tmp_path, num_proc=2)).splitlines()
    assert len(lines) == 12 and lines[-1].split() == ["train", "29", "files", "more", "29", "rows"]
    own = tmp_path / "own"
    own.mkdir()
    (own / "train.txt").write_text("Mira saw Lind.")
    (own / "all.tsv").write_text("Mira\tsaw\tLind\nOle\tsaw\tLind\n")
    lines = split_table(load("texts_and_triples", own, cache_dir=tmp_path)).splitlines()
    assert [line.split() for line in lines] == [
        ["train", "all.tsv", "2", "triples"],
        ["train", "train.txt", "1", "rows"],
    ]


def test_passages_beside_their_questions_are_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(json.dumps({"question": "who", "answers": ["Mira"]}))
    (tmp_path / "train.json").write_text(json.dumps([{"document": ["it", "was", "Mira"]}]))
    assert split_table(load("searchqa", tmp_path, cache_dir=tmp_path / "cache")).split() == [
        "train",
        "train.txt",
        "1",
        "rows",
    ]


def test_fewrels_validation_is_of_the_domain_of_its_training_file(tmp_path: Path) -> None:
    files = {f"val_{name}": fewrel(2, f"P{name}") for name in ("wiki", "nyt", "pubmed", "semeval")}
    built = load("fewrel", folder_of(tmp_path / "corpus", train_wiki=fewrel(3), **files), cache_dir=tmp_path)
    assert set(built["validation"]["relation"]) == {"Pwiki"}
    assert [line.split()[2] for line in split_table(built).splitlines() if line.startswith("  left out")] == [
        *("val_nyt.json", "val_pubmed.json", "val_semeval.json")
    ]
    with pytest.raises(ValueError, match=r"val_nyt\.json, .* are validation files of several domains; keep only"):
        load("fewrel", folder_of(tmp_path / "alone", **files), cache_dir=tmp_path)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_labels_of_one_sentence_stay_in_train_in_a_split_of_our_own_making(
    num_proc: int | None, tmp_path: Path
) -> None:
    rare = [record for n in range(50) for record in relations(1, f"rare {n}\u00a0")]
    shared = [{**relations(1, "rare")[0], "relation": f"twin {n}"} for n in range(2)]  # two labels of one sentence
    folder = folder_of(tmp_path / "corpus", first=rare + shared, second=relations(200))
    built = load("relation_classification", folder, cache_dir=tmp_path / "cache", num_proc=num_proc)
    relation = {split: set(rows["relation"]) for split, rows in built.items()}
    assert relation["validation"] == {"saw"}
    assert len(relation["train"]) == 53
    assert sum(built.num_rows.values()) == 252 and 10 < built.num_rows["validation"] < 40
    assert not set(built["train"]["text"]) & set(built["validation"]["text"])
    if num_proc is None:
        stream = load("relation_classification", folder, "train", streaming=True)
        assert list(stream) == built["train"].to_list()


def test_rare_types_and_relations_of_texts_stay_in_train_and_a_frequent_label_does_not(tmp_path: Path) -> None:
    typed = [{"sent": f"Mira saw {n}.", "start": 0, "end": 4, "labels": ["person", f"t{n // 2}"]} for n in range(60)]
    built = load("entity_typing", folder_of(tmp_path / "types", all=typed), cache_dir=tmp_path)
    in_train = {label for labels in built["train"]["labels"] for label in labels}
    assert {label for rows in built.values() for labels in rows["labels"] for label in labels} == in_train
    assert 0 < built.num_rows.get("validation", 0) + 1 < 10
    own = tmp_path / "own"
    own.mkdir()
    (own / "all.txt").write_text("".join(f"Mira saw Lind{n}.\n" for n in range(80)))
    (own / "all.tsv").write_text("".join(f"Mira\tr{n // 40 if n < 60 else n}\tLind{n}\n" for n in range(80)))
    built = load("texts_and_triples", own, cache_dir=tmp_path)
    assert set(built["validation"]["relation"]) <= {"r0", "r1"} and len(set(built["train"]["relation"])) == 22


def test_rows_that_are_excluded_teach_no_label(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "corpus", all=relations(200) + relations(40, "rare"))
    kept = load("relation_classification", folder, cache_dir=tmp_path)["validation"]
    rare = [text for text, relation in zip(kept["text"], kept["relation"], strict=True) if relation == "rare"]
    assert rare
    known = [record for record in relations(40, "rare") if " ".join(record["token"]) not in rare]
    other = folder_of(tmp_path / "other", all=known)
    built = load("relation_classification", folder, cache_dir=tmp_path, exclude={"relation_classification": other})
    assert set(rare) <= set(built["train"]["text"]) and "rare" not in built["validation"]["relation"]
    assert sum(numbers.get("dropped_excluded", 0) for numbers in counts(built).values()) == len(known)


def test_a_run_prints_the_table_and_says_when_it_evaluates_the_test_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = folder_of(tmp_path / "corpus", trn=relations(3), tst=relations(2))
    corpus = SimpleNamespace(
        corpus="relation_classification", data_dir=str(folder), num_proc=None, on_bad_record="error"
    )
    load_splits(corpus, train=True, evaluate=True, verbose=True)
    printed = capsys.readouterr().out
    assert "train       trn.json  3 rows" in printed and "test        tst.json  2 rows" in printed
    assert "there is no validation split: the test split is evaluated instead" in printed
    folder_of(folder, dev=relations(1))
    load_splits(corpus, train=True, evaluate=True, verbose=True)
    printed = capsys.readouterr().out
    assert "validation  dev.json  1 rows" in printed and "there is no validation" not in printed
