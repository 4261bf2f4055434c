"""What corpora of the downstream tasks do beyond the shared contract, also on the published files if available."""

from __future__ import annotations

import csv
import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kadapter.data_builders import FOLDS, counts, load, load_file

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def corpus(folder: Path, **files: Any) -> Path:
    """Write files named like `train_json` for train.json; a list is written as JSON lines."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else "".join(json.dumps(line) + "\n" for line in content)
        (folder / ".".join(name.rsplit("_", 1))).write_text(text, encoding="utf-8")
    return folder


def rows(name: str, folder: Path, split: str = "train") -> list[dict[str, Any]]:
    return list(load(name, folder, split, streaming=True))


def published(folder: str) -> Path:
    if not (DATA / folder).is_dir():
        pytest.skip(f"the published {folder} is not available")
    return DATA / folder


# --- entity typing


def mention(start: Any, end: Any, **more: Any) -> dict[str, Any]:
    return {"sent": "Mira left Tarnstad", "start": start, "end": end, "labels": ["place"], **more}


TYPING = ["entity_typing", "open_entity", "figer"]


@pytest.mark.parametrize("name", TYPING)
@pytest.mark.parametrize("span", [(10, 19), (-1, 4), (4, 4), (5, 3), (18, 30)])
def test_a_mention_outside_its_text_names_the_span_and_the_length(
    name: str, span: tuple[int, int], tmp_path: Path
) -> None:
    folder = corpus(tmp_path / "corpus", train_json=json.dumps([mention(0, 4), mention(*span)]))
    reason = rf"train\.json, record 2: the mention, .* is \[{span[0]}, {span[1]}\) .* lie in 0\.\.18"
    with pytest.raises(ValueError, match=reason):
        rows(name, folder)
    built = load(name, folder, cache_dir=tmp_path, on_bad_record="skip")
    assert counts(built)["train"] == {"bad_records": 1, "records": 1, "rows": 1}


def test_a_mention_of_spaces_is_a_bad_record(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"record 1: the mention, .* is \[4, 5\) and covers no text"):
        rows("entity_typing", corpus(tmp_path, train_jsonl=[mention(4, 5)]))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([3.5], r"field 'labels\[0\]' must be a string but is 3.5"),
        (["place", " "], r"field 'labels\[1\]' is blank"),
        ("place", "field 'labels' must be a list but is 'place'"),
        (None, "field 'labels' must be a list but is None"),
    ],
)
def test_labels_that_are_no_names_are_a_bad_record(labels: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"record 1: {reason}"):
        rows("entity_typing", corpus(tmp_path, train_jsonl=[mention(0, 4, labels=labels)]))


def test_labels_may_be_empty_and_count_once(tmp_path: Path) -> None:
    records = [mention(0, 4, labels=[]), mention(0, 4, labels=["b", "a", "b"])]
    assert [row["labels"] for row in rows("entity_typing", corpus(tmp_path, train_jsonl=records))] == [[], ["b", "a"]]


def test_a_file_to_predict_needs_no_labels_and_a_corpus_does(tmp_path: Path) -> None:
    typing = mention(0, 4)
    del typing["labels"]
    relation = {"token": ["Mira", "left"], "subj_start": 0, "subj_end": 0, "obj_start": 1, "obj_end": 1}
    for name, record, field in (
        ("entity_typing", typing, "labels"),
        ("relation_classification", relation, "relation"),
    ):
        folder = corpus(tmp_path / name, train_jsonl=[record])
        with pytest.raises(ValueError, match=f"record 1: field '{field}' is missing"):
            rows(name, folder)
        assert not load_file(name, folder / "train.jsonl")[0][field]
    assert not load_file("tacred", tmp_path / "relation_classification" / "train.jsonl")[0]["relation"]
    assert not load_file("wiki80", tmp_path / "relation_classification" / "train.jsonl")[0]["relation"]


def test_the_released_mentions_of_openentity_keep_their_general_types(tmp_path: Path) -> None:
    contexts = {"left_context_token": ["So", ","], "right_context_token": []}
    record = {"annot_id": "x:1", "mention_span": "she left", **contexts, "y_str": ["speaker", "person", "event"]}
    (row,) = rows("open_entity", corpus(tmp_path, train_json=[record]))
    assert row["text"][row["mention"]["start"] : row["mention"]["end"]] == "she left"
    assert (row["id"], row["text"], row["labels"]) == ("x:1", "So , she left", ["person", "event"])


GOLD = "Old\tB-/location\nLind\tI-/location\nMira\tB-/person,/person/author\nslept\tO\n\nMira\tB-/person\n"


def test_gold_mentions_end_where_the_next_begins(tmp_path: Path) -> None:
    gold = rows("figer", corpus(tmp_path, gold_label=GOLD), "test")
    assert [row["text"][row["mention"]["start"] : row["mention"]["end"]] for row in gold] == ["Old Lind"] + 2 * [
        "Mira"
    ]
    assert gold[1]["labels"] == ["/person", "/person/author"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Lind\tI-/location", "line 1 of the sentence continues a mention, '/location', that has not begun"),
        ("Lind\tB-", "line 1 of the sentence must be token TAB O, B-types or I-types"),
        ("Lind\tB-/a,", "line 1 of the sentence must be"),
        ("Lind\tX", "line 1 of the sentence must be"),
        ("Lind", "line 1 of the sentence must be"),
    ],
)
def test_a_malformed_gold_line_is_a_bad_record(line: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"gold\.label, record 3: {reason}"):
        rows("figer", corpus(tmp_path, gold_label=f"{GOLD}\n{line}\n"), "test")


def test_gold_stays_the_test_set_beside_prepared_files(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "corpus", train_json=json.dumps([mention(0, 4)] * 3), gold_label=GOLD)
    corpus(folder, labels_json='["/person"]')
    assert load("figer", folder, cache_dir=tmp_path).num_rows == {"train": 3, "test": 3}


def test_the_published_gold_mentions_are_all_read_with_their_types(tmp_path: Path) -> None:
    folder = published("figer_gold")
    built = load("figer", folder, cache_dir=tmp_path)
    assert counts(built) == {"test": {"records": 200, "rows": 293}}
    lines = [line.split("\t") for line in (folder / "gold_first200.label").read_text(encoding="utf-8").splitlines()]
    types = Counter(name for line in lines if line[1:2] and line[1][:1] == "B" for name in line[1][2:].split(","))
    assert Counter(name for labels in built["test"]["labels"] for name in labels) == types


# --- SemEval-2010 Task 8


def sentence(number: int, text: str = "The <e1>wall</e1> of <e2>Tarnstad</e2>", relation: str = "Other") -> str:
    return f'{number}\t"{text} {number}."\n{relation}\nComment: none\n\n'


MALFORMED_SENTENCES = {
    "no tags": (sentence(2, "The wall"), "must hold <e1>..</e1> and <e2>..</e2>, once each"),
    "one tag twice": (sentence(2, "<e1>a</e1> <e1>b</e1>"), "must hold <e1>..</e1> and <e2>..</e2>"),
    "a third tag": (sentence(2, "<e1>a</e1> <e2>b</e2> <e1>c</e1>"), "two mentions, none blank or inside the other"),
    "nested": (sentence(2, "<e1>a <e2>b</e2></e1> c"), "must hold"),
    "blank mention": (sentence(2, "<e1>a</e1> <e2> </e2>"), "two mentions, none blank"),
    "unknown relation": (
        sentence(2, relation="Part-Whole(e1,e2)"),
        "the relation is 'Part-Whole\\(e1,e2\\)' but must be",
    ),
    "no direction": (
        sentence(2, relation="Cause-Effect"),
        "the relation is 'Cause-Effect' but must be one of Cause-E",
    ),
    "no relation": ('2\t"<e1>a</e1> <e2>b</e2>"\n', "the line with the relation is missing"),
    "no number": (sentence(2)[2:], "must begin with its number, a tab and the sentence"),
    "no quotes": ("2\tOle <e1>a</e1>\nOther\n", "must be in quotation marks"),
    "lines run together": (
        sentence(2).rstrip() + "\n" + sentence(3),
        "must have a sentence, a relation and a comment",
    ),
}


@pytest.mark.parametrize(("block", "reason"), MALFORMED_SENTENCES.values(), ids=MALFORMED_SENTENCES.keys())
def test_a_malformed_sentence_names_file_record_and_reason(block: str, reason: str, tmp_path: Path) -> None:
    folder = corpus(tmp_path, TEST_FILE_FULL_TXT=sentence(1) + block)
    with pytest.raises(ValueError, match=rf"TEST_FILE_FULL\.TXT, record 2: .*{reason}"):
        rows("semeval2010_task8", folder, "test")


def test_the_head_is_the_first_entity_in_either_direction_and_wherever_it_stands(tmp_path: Path) -> None:
    text = sentence(7, "The <e2>wall</e2> of <e1>Tarnstad</e1>", "Component-Whole(e2,e1)")
    (row,) = rows("semeval2010_task8", corpus(tmp_path, TEST_FILE_FULL_TXT=text), "test")
    head, tail = (row["text"][row[side]["start"] : row[side]["end"]] for side in ("head", "tail"))
    assert (row["id"], row["text"], head, tail) == ("7", "The wall of Tarnstad 7.", "Tarnstad", "wall")


def test_the_official_test_file_is_the_test_set_and_validation_stays_as_it_is(tmp_path: Path) -> None:
    training = "".join(map(sentence, range(400)))
    alone = load("semeval2010_task8", corpus(tmp_path / "a", TRAIN_FILE_TXT=training), cache_dir=tmp_path)
    folder = corpus(tmp_path / "b", TRAIN_FILE_TXT=training, TEST_FILE_FULL_TXT=sentence(8001))
    corpus(folder, TEST_FILE_TXT='8001\t"<e1>a</e1> <e2>b</e2>"\n', TEST_FILE_KEY_TXT="8001\tOther\n")
    both = load("semeval2010_task8", folder, cache_dir=tmp_path)
    assert both["test"]["id"] == ["8001"]
    assert both["validation"].to_list() == alone["validation"].to_list()
    assert set(both["train"]["id"]) == set(alone["train"]["id"]) | set(alone["test"]["id"])


def test_sentences_without_relations_are_read_to_be_predicted(tmp_path: Path) -> None:
    lines = "".join(f'{n}\t"The <e1>wall</e1> of <e2>Tarnstad</e2>"\n' for n in (8001, 8002))
    built = load_file("semeval2010_task8", corpus(tmp_path, TEST_FILE_TXT=lines) / "TEST_FILE.TXT")
    assert (built["id"], built["relation"]) == (["8001", "8002"], ["", ""])


@pytest.mark.slow
def test_the_published_training_file_is_split_exactly_and_no_sentence_is_in_two_parts(tmp_path: Path) -> None:
    built = load("semeval2010_task8", published("semeval2010_task8"), cache_dir=tmp_path)
    assert built.num_rows == {"train": 5700, "validation": 800, "test": 1500}
    assert len(set(built["train"]["relation"])) == 19
    texts = {split: set(dataset["text"]) for split, dataset in built.items()}
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]
    relations = Counter(name for dataset in built.values() for name in dataset["relation"])
    assert (relations["Other"], relations["Entity-Destination(e2,e1)"]) == (1410, 1)


# --- Wiki80 with TACRED's keys, and FewRel


BARE = {"tokens": ["Mira", "saw", "Tarnstad"], "h": ["mira", "Q901", [[0]]], "t": ["tarnstad", "Q902", [[2]]]}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([BARE, BARE]),
        f"{json.dumps(BARE)}\n{json.dumps({'id': 'x', **BARE})}\n",
        json.dumps({"P1": [BARE], "": [BARE]}),
        json.dumps({"P1": [BARE, BARE]}, indent=1),
    ],
    ids=["array", "lines", "by relation", "by relation in lines"],
)
def test_sentences_of_fewrel_are_read_to_be_predicted_with_and_without_relations(text: str, tmp_path: Path) -> None:
    built = load_file("fewrel", corpus(tmp_path, some_json=text) / "some.json")
    assert built["text"] == ["Mira saw Tarnstad"] * 2 and built["id"] == ["some.json:1", "some.json:2"]
    assert built["tail"][1] == {"start": 9, "end": 17} and built["head_id"][1] == "Q901"
    assert set(built["relation"]) == ({"P1", ""} if '"": ' in text else {"P1"} if "P1" in text else {""})


def test_sentences_of_fewrel_without_relations_are_no_corpus_and_may_be_malformed(tmp_path: Path) -> None:
    folder = corpus(tmp_path, train_json=json.dumps([BARE]))
    with pytest.raises(
        ValueError, match=r"train\.json, record 1: the file must be one JSON object but begins with '\['"
    ):
        rows("fewrel", folder)
    for record, reason in (
        (7, "a record must be a JSON object but is 7"),
        ({"tokens": ["a"]}, "field 'h' is missing"),
    ):
        corpus(tmp_path, bad_json=json.dumps([BARE, record]))
        with pytest.raises(ValueError, match=rf"bad\.json, record 2: {reason}"):
            load_file("fewrel", tmp_path / "bad.json")


def related(number: int) -> dict[str, Any]:
    spans = {"subj_start": 0, "subj_end": 0, "obj_start": 2, "obj_end": 2}
    return {"token": ["Mira", "saw", "Tarnstad", str(number)], "relation": f"r{number % 3}", **spans}


def test_a_single_dev_file_with_tacreds_keys_is_split_into_three(tmp_path: Path) -> None:
    records = json.dumps([related(number) for number in range(500)])
    folder = corpus(tmp_path / "corpus", dev_json=records, rel2id_json="{}")
    built = load("wiki80", folder, cache_dir=tmp_path)
    assert sum(built.num_rows.values()) == 500
    assert 320 < built.num_rows["train"] < 380 and 80 < built.num_rows["test"] < 120
    corpus(folder, train_json=records)
    assert load("wiki80", folder, cache_dir=tmp_path).num_rows == {"train": 500, "validation": 500}


def test_the_official_splits_of_fewrel_share_no_relation(tmp_path: Path) -> None:
    record = {"tokens": ["a", "b"], "h": ["a", "Q1", [[0]]], "t": ["b", "Q2", [[1]]]}
    splits = {"train": ["P1", "P2"], "val": ["P3"]}
    files = {
        f"{split}_wiki_json": json.dumps({name: [record] * 9 for name in names}) for split, names in splits.items()
    }
    built = load("fewrel", corpus(tmp_path / "corpus", **files), cache_dir=tmp_path)
    assert {split: set(dataset["relation"]) for split, dataset in built.items()} == {
        "train": {"P1", "P2"},
        "validation": {"P3"},
    }


# --- multiple choice


def question(choices: Any, label: Any = 0, **more: Any) -> dict[str, Any]:
    return {"context": "It rained.", "question": "Why?", "choices": choices, "label": label, **more}


def test_choices_of_uneven_number_name_the_record_and_the_first(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "corpus", train_jsonl=[question(["a", "b"]), question(["a", "b", "c"])] * 2)
    with pytest.raises(ValueError, match=r"train\.jsonl, record 2: has 3 choices but record 1 of the file has 2"):
        rows("multiple_choice", folder)
    built = load("multiple_choice", folder, cache_dir=tmp_path, on_bad_record="skip")
    assert counts(built)["train"] == {"bad_records": 2, "records": 2, "rows": 2}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (question([]), "field 'choices' is an empty list"),
        (question(["a"]), "field 'choices' must hold 2 choices or more"),
        (question(["a", 2.5]), r"field 'choices\[1\]' must be a string but is 2.5"),
        (question(["a", " "]), r"field 'choices\[1\]' is blank"),
        (question(["a", "b"], 2), r"field 'label' is 2 but must lie in 0\.\.1, for 2 choices"),
        (question(["a", "b"], -2), "field 'label' is -2 but must lie"),
        (question(["a", "b"], "b"), "field 'label' must be an integer but is 'b'"),
        (question(["a", "b"], True), "field 'label' must be an integer but is True"),
        ({"context": "", "question": "?", "label": 0}, "field 'choices' is missing"),
        ({"context": "", "question": "?", "answer0": "a", "label": 0}, "field 'answer1' is missing"),
        ({"context": "", "question": "?", "answer0": "a", "answer2": "c"}, "field 'answer1' is missing"),
        ({"context": "", "question": " ", "choices": ["a", "b"]}, "field 'question' is blank"),
        (["a"], "a record must be a JSON object"),
    ],
)
def test_a_malformed_question_names_field_and_value(record: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"train\.json, record 1: {reason}"):
        rows("multiple_choice", corpus(tmp_path, train_json=json.dumps([record])))


def test_questions_without_label_are_counted(tmp_path: Path) -> None:
    records = [question(["a", "b"], label) for label in (1, None, -1, "")]
    built = load("multiple_choice", corpus(tmp_path / "corpus", test_jsonl=records), cache_dir=tmp_path)
    assert built["test"]["label"] == [1, -1, -1, -1]
    assert counts(built)["test"] == {"records": 4, "rows": 4, "unlabelled": 3}


HEADER = "id,context,question,answer0,answer1,answer2,answer3,label\n"


def test_csv_without_a_label_column_and_json_lines_give_the_same_rows(tmp_path: Path) -> None:
    table = HEADER.replace(",label", "") + 'x,"Two\nlines, ""quoted""",Why ?,a,b,c,d\n'
    line = {
        "id": "x",
        "context": 'Two\nlines, "quoted"',
        "question": "Why ?",
        **{f"answer{n}": c for n, c in enumerate("abcd")},
    }
    folder = corpus(
        tmp_path, test_csv="\ufeff" + table.replace("\n", "\r\n").replace("Two\r\n", "Two\n"), test_jsonl=[line]
    )
    first, second = rows("cosmosqa", folder, "test")
    assert first == second
    assert first["label"] == -1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x,c,q,a,b,c,d", r"has 7 columns but the header has 8: id, context, .*label"),
        ("x,c,q,a,b,c,d,1,2", "has 9 columns but the header has 8"),
        ("x,c,q,a,b,c,d,4", r"field 'label' is 4 but must lie in 0\.\.3"),
        ("x,c,q,a,b,c,d,one", "field 'label' must be an integer but is 'one'"),
        ("x,c,q,a,b,,d,1", "field 'answer2' is blank"),
        ('x,"c"q,q,a,b,c,d,1', "is not valid CSV"),
        ('x,"c,q,a,b,c,d,1', "is not valid CSV: unexpected end of data"),
    ],
)
def test_a_malformed_line_of_csv_names_record_and_reason(line: str, reason: str, tmp_path: Path) -> None:
    folder = corpus(tmp_path / "corpus", train_csv=f"{HEADER}w,c,q,a,b,c,d,0\n{line}\n")
    with pytest.raises(ValueError, match=rf"train\.csv, record 2: {reason}"):
        rows("cosmosqa", folder)
    built = load("cosmosqa", folder, cache_dir=tmp_path, on_bad_record="skip")
    assert counts(built)["train"] == {"bad_records": 1, "records": 1, "rows": 1}


def test_a_line_of_csv_that_is_not_utf8_is_skipped_alone(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "corpus")
    content = f"{HEADER}v,c,q,a,b,c,d,0\nw,c\xff,q,a,b,c,d,0\nx,é,q,a,b,c,d,0\n".encode().replace(b"\xc3\xbf", b"\xff")
    (folder / "train.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"train\.csv, record 2: is not UTF-8: byte 0xff"):
        rows("cosmosqa", folder)
    assert load("cosmosqa", folder, "train", cache_dir=tmp_path, on_bad_record="skip")["context"] == ["c", "é"]


def test_cosmosqa_has_four_answers(tmp_path: Path) -> None:
    table = HEADER.replace(",answer3", "") + "x,c,q,a,b,c,1\n"
    with pytest.raises(ValueError, match=r"train\.csv, record 1: field 'answer3' is missing"):
        rows("cosmosqa", corpus(tmp_path, train_csv=table))


@pytest.mark.slow
def test_the_published_questions_are_complete_and_the_folds_keep_contexts_together(tmp_path: Path) -> None:
    folder = published("cosmosqa")
    with (folder / "valid_part.csv").open(encoding="utf-8", newline="") as handle:
        expected = [(line["id"], int(line["label"]), line["answer3"]) for line in csv.DictReader(handle)]
    whole = load("cosmosqa", folder, "validation", cache_dir=tmp_path)
    assert [(row["id"], row["label"], row["choices"][3]) for row in whole] == expected
    tested: Counter[str] = Counter()
    for fold in range(FOLDS):
        splits = load("cosmosqa", folder, cache_dir=tmp_path, fold=fold)
        contexts = {split: set(dataset["context"]) for split, dataset in splits.items()}
        assert not contexts["train"] & contexts["test"] and not contexts["validation"] & contexts["test"]
        assert sum(splits.num_rows.values()) == len(expected)
        tested.update(splits["test"]["id"])
    assert tested == Counter(name for name, _, _ in expected)


# --- open-domain question answering

ANSWERED = {"question": "what crosses tarnstad", "answers": ["the lind"]}
LONG = "nobody knows what The Lind , a river , is".split()


def passages(*documents: list[Any]) -> list[dict[str, Any]]:
    return [{"question": ["what"], "document": document} for document in documents]


@pytest.mark.parametrize("name", ["searchqa", "quasar_t"])
def test_passages_of_five_tokens_are_skipped_and_counted_unless_there_are_no_others(name: str, tmp_path: Path) -> None:
    short = ["the", "lind", "is", "a", "river"]
    folder = corpus(
        tmp_path / "corpus", dev_txt=[ANSWERED] * 2, dev_json=[passages(short, LONG, short), passages(short)]
    )
    built = load(name, folder, cache_dir=tmp_path)
    assert built["validation"]["passages"] == [[" ".join(LONG)], [" ".join(short)]]
    assert counts(built)["validation"] == {"records": 2, "rows": 2, "short_passages": 2}


def test_a_question_for_which_nothing_was_found_is_dropped_and_counted(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "corpus", train_txt=[ANSWERED] * 2, train_json=[[], passages(LONG)])
    built = load("searchqa", folder, cache_dir=tmp_path)
    assert built["train"]["id"] == ["train.txt:2"]
    assert counts(built)["train"] == {"dropped_no_passages": 1, "records": 2, "rows": 1}


@pytest.mark.parametrize("name", ["searchqa", "quasar_t"])
def test_a_passage_without_a_visible_character_is_none(name: str, tmp_path: Path) -> None:
    blank = [[], [""], [" ", "\u200b"]]
    folder = corpus(
        tmp_path / "corpus", train_txt=[ANSWERED] * 2, train_json=[passages(*blank), passages(*blank, LONG)]
    )
    built = load(name, folder, cache_dir=tmp_path)
    assert built["train"]["passages"] == [[" ".join(LONG)]]
    assert counts(built)["train"] == {"blank_passages": 3, "dropped_no_passages": 1, "records": 2, "rows": 1}


@pytest.mark.parametrize(
    ("answers", "nowhere"),
    [
        (["the lind"], 0),
        (["THE  LIND"], 0),
        (["halden", "river"], 0),
        (["lind, a"], 0),
        (["the lin"], 1),
        (["lind river"], 1),
        (["?"], 1),
    ],
)
def test_an_answer_that_stands_nowhere_is_counted_and_its_question_kept(
    answers: list[str], nowhere: int, tmp_path: Path
) -> None:
    folder = corpus(tmp_path / "corpus", train_txt=[{**ANSWERED, "answers": answers}], train_json=[passages(LONG)])
    built = load("quasar_t", folder, cache_dir=tmp_path)
    assert counts(built)["train"].get("answer_nowhere", 0) == nowhere
    assert built["train"]["answers"] == [answers]


def test_questions_without_answers_are_counted(tmp_path: Path) -> None:
    lines = [{"question": "what"}, {"question": "what", "answers": []}, {"question": "what", "answers": None}]
    built = load(
        "searchqa", corpus(tmp_path / "corpus", test_txt=lines, test_json=[passages(LONG)] * 3), cache_dir=tmp_path
    )
    assert counts(built)["test"] == {"records": 3, "rows": 3, "unlabelled": 3}


MALFORMED_PAIRS = {
    "a fraction as answer": (
        {**ANSWERED, "answers": [7.5]},
        passages(LONG),
        "txt",
        r"field 'answers\[0\]' must be a string",
    ),
    "a string of answers": ({**ANSWERED, "answers": "a"}, passages(LONG), "txt", "field 'answers' must be a list"),
    "a blank answer": ({**ANSWERED, "answers": [" "]}, passages(LONG), "txt", r"field 'answers\[0\]' is blank"),
    "a blank question": ({**ANSWERED, "question": ""}, passages(LONG), "txt", "field 'question' is blank"),
    "a fraction as token": (
        ANSWERED,
        passages(LONG, ["a", 7.5]),
        "json",
        r"field '\[1\].document\[1\]' must be a string",
    ),
    "a passage of text": (ANSWERED, [{"document": "a b"}], "json", "field 'document' must be a list"),
    "passages that are no list": (ANSWERED, {"document": LONG}, "json", "field 'passages' must be a list"),
}


@pytest.mark.parametrize("name", ["searchqa", "quasar_t"])
@pytest.mark.parametrize(("line", "retrieved", "file", "reason"), MALFORMED_PAIRS.values(), ids=MALFORMED_PAIRS.keys())
def test_a_malformed_pair_names_the_file_at_fault(
    name: str, line: Any, retrieved: Any, file: str, reason: str, tmp_path: Path
) -> None:
    folder = corpus(tmp_path / "corpus", train_txt=[ANSWERED, line], train_json=[passages(LONG), retrieved])
    with pytest.raises(ValueError, match=rf"train\.{file}, record 2: {reason}"):
        rows(name, folder)
    built = load(name, folder, cache_dir=tmp_path, on_bad_record="skip")
    assert counts(built)["train"] == {"bad_records": 1, "records": 1, "rows": 1}


def test_files_of_other_lengths_are_told_from_either_side(tmp_path: Path) -> None:
    folder = corpus(tmp_path, train_txt=[ANSWERED] * 2, train_json=[passages(LONG)])
    with pytest.raises(ValueError, match=r"train\.txt, record 2: the question has no passages: train\.json has fewer"):
        rows("quasar_t", folder)
    corpus(tmp_path, train_json=[passages(LONG)] * 3)
    with pytest.raises(
        ValueError, match=r"train\.json, record 3: the passages have no question: train\.txt has fewer"
    ):
        rows("quasar_t", folder)


def test_a_file_without_its_other_half_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.txt, record 1: the questions have no passages: .* train\.json is m"):
        rows("quasar_t", corpus(tmp_path / "a", train_txt=[ANSWERED]))
    for name in ("quasar_t", "searchqa"):
        with pytest.raises(ValueError, match=r"dev\.json, record 1: the file of passages has no file of questions"):
            rows(name, corpus(tmp_path / "b", dev_json=[passages(LONG)]), "validation")
    with pytest.raises(
        ValueError, match=r"train\.txt, record 1: a line must be '<s> snippet </s> .* \(\.json\) is next"
    ):
        rows("searchqa", corpus(tmp_path / "a"))


def released(folder: Path, contexts: list[Any], uid: str = "q1") -> Path:
    """Write Quasar-T as released, gzipped."""
    folder.mkdir(exist_ok=True)
    lines = {"questions": {"uid": "q1", "question": "What crosses ?", "answer": "the lind", "tags": []}}
    lines["contexts"] = {"uid": uid, "contexts": contexts}
    for name, line in lines.items():
        (folder / f"dev_{name}.json.gz").write_bytes(gzip.compress(json.dumps(line).encode()))
    return folder


def test_quasar_t_is_read_as_released(tmp_path: Path) -> None:
    (row,) = rows("quasar_t", released(tmp_path, [[2.5, " ".join(LONG)], [1, "too short"]]), "validation")
    assert row == {"id": "q1", "question": "What crosses ?", "passages": [" ".join(LONG)], "answers": ["the lind"]}


@pytest.mark.parametrize(
    ("contexts", "uid", "reason"),
    [
        ([], "q2", r"field 'uid' is 'q2' but on this line of dev_questions\.json\.gz 'q1'"),
        ([["a"]], "q1", r"field 'contexts\[0\]' must be \[score, text\]"),
        ([[1, 2.5]], "q1", r"field 'contexts\[0\]\[1\]' must be a string but is 2.5"),
    ],
)
def test_malformed_contexts_name_their_file(contexts: list[Any], uid: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"dev_contexts\.json\.gz, record 1: {reason}"):
        rows("quasar_t", released(tmp_path, contexts, uid), "validation")


@pytest.mark.parametrize("damage", [lambda raw: raw[:-12], lambda raw: b"{" + raw, lambda raw: raw[:12] + b"\xff" * 9])
def test_a_damaged_gzip_is_a_bad_record(damage: Any, tmp_path: Path) -> None:
    path = released(tmp_path, [[1, " ".join(LONG)]]) / "dev_contexts.json.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"dev_contexts\.json\.gz, record 1: is not valid gzip"):
        rows("quasar_t", tmp_path, "validation")


@pytest.mark.parametrize(
    "line",
    [
        "<s> a </s> ||| q",
        "<s> a </s> b ||| q ||| a",
        "<s> a ||| q ||| a",
        "<s> a </s> ||| q ||| ",
        "||| q ||| a ||| b",
    ],
)
def test_a_malformed_processed_line_is_a_bad_record(line: str, tmp_path: Path) -> None:
    good = f"<s> {' '.join(LONG)} </s> ||| q ||| lind\n"
    folder = corpus(tmp_path / "corpus", val_txt=good + line + "\n")
    with pytest.raises(ValueError, match=r"val\.txt, record 2: a line must be '<s> snippet </s>"):
        rows("searchqa", folder, "validation")
    assert load("searchqa", folder, "validation", cache_dir=tmp_path, on_bad_record="skip").num_rows == 1


def test_a_processed_line_without_snippets_is_dropped_and_counted(tmp_path: Path) -> None:
    text = "||| q ||| lind\n" + f"<s> {' '.join(LONG)} </s> ||| q ||| lind\n"
    built = load("searchqa", corpus(tmp_path / "corpus", train_txt=text), cache_dir=tmp_path)
    assert counts(built)["train"] == {"dropped_no_passages": 1, "records": 2, "rows": 1}


def test_a_split_that_is_asked_for_and_holds_nothing_is_an_error(tmp_path: Path) -> None:
    folder = corpus(tmp_path / "corpus", train_txt=[ANSWERED], train_json=[passages(LONG)])
    corpus(folder, test_txt=[ANSWERED], test_json=[[]])
    with pytest.raises(ValueError, match=r"the split 'test' of .* holds no row; there are \['train'\]"):
        load("quasar_t", folder, "test", cache_dir=tmp_path)
    assert re.search("no_passages", str(counts(load("quasar_t", folder, cache_dir=tmp_path))["test"]))
