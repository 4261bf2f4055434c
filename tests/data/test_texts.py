"""Plain texts, triples put into words, and records of other types read as texts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from kadapter.data_builders import FEATURES, as_texts, counts, load, split_table
from kadapter.trainers.common.encoding import check_record_type

BORN = {"relation": "born_in", "phrasings": ["[X] was born in [Y] .", "[Y] is where [X] was born ."]}
TRIPLE = "Mira Voss\tborn_in\tTarnstad\n"


def write(folder: Path, **files: Any) -> Path:
    """Write files named like `train_txt` for train.txt; a list becomes JSON lines."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else "".join(json.dumps(record) + "\n" for record in content)
        (folder / ".".join(name.rsplit("_", 1))).write_text(text, encoding="utf-8")
    return folder


def built(corpus: str, folder: Path, **options: Any) -> datasets.DatasetDict:
    return load(corpus, folder, cache_dir=folder.parent / "cache", **options)


def words(row: dict[str, Any]) -> list[str]:
    """Return the mentions of a text."""
    return [row["text"][mention["start"] : mention["end"]] for mention in row["mentions"]]


# --- text


def test_lines_json_lines_and_parquet_of_the_same_passages_are_the_same_texts(tmp_path: Path) -> None:
    passages = ["Mira rests.", "Tarnstad lies on the Lind."]
    records = [{"text": text} for text in passages]
    folders = [
        write(tmp_path / "lines", train_txt="\r\n".join(passages)),
        write(tmp_path / "json", train_jsonl=records),
        write(tmp_path / "parquet"),
        write(tmp_path / "gzip"),
    ]
    datasets.Dataset.from_list(records).to_parquet(str(folders[2] / "train.parquet"))
    (folders[3] / "train.txt.gz").write_bytes(gzip.compress("\n".join(passages).encode()))
    for folder in folders:
        train = built("text", folder)["train"]
        assert train["text"] == passages
        assert [number.rpartition(":")[2] for number in train["id"]] == ["1", "2"]


def test_mentions_and_ids_of_a_parquet_file_are_kept_and_other_columns_ignored(tmp_path: Path) -> None:
    folder = write(tmp_path / "own")
    record = {"id": "a", "text": "Mira rests.", "mentions": [{"start": 0, "end": 4}], "score": 0.5}
    datasets.Dataset.from_list([record] * 1500).to_parquet(str(folder / "train.parquet"))
    train = built("text", folder)["train"]
    assert train.num_rows == 1500
    assert train[1400] == {"id": "a", "text": "Mira rests.", "mentions": [{"start": 0, "end": 4}]}


def test_empty_lines_and_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", train_txt="\n \nMira rests.\n\n\nOle too.\n\n", train_jsonl=[{"text": " "}])
    corpus = built("text", folder)
    assert corpus["train"]["id"] == ["train.txt:3", "train.txt:6"]
    assert counts(corpus) == {"train": {"dropped_empty": 6, "records": 8, "rows": 2}}


BAD_TEXTS = {
    "no text": ({"txt": "Mira"}, "field 'text' is missing"),
    "a string": ("Mira", "a record must be a JSON object but is 'Mira'"),
    "a mention beyond the end": (
        {"text": "Mira", "mentions": [{"start": 0, "end": 5}]},
        r"'mentions', entry 0: its offsets are \[0, 5\) but must not be empty or reversed and must lie in 0\.\.4",
    ),
    "an empty mention": ({"text": "Mira", "mentions": [{"start": 2, "end": 2}]}, r"offsets are \[2, 2\)"),
    "a mention that is a list": (
        {"text": "Mira", "mentions": [[0, 4]]},
        r"entry 0: must be an object but is \[0, 4\]",
    ),
    "a mention without end": ({"text": "Mira", "mentions": [{"start": 0}]}, "field 'end' is missing"),
}


@pytest.mark.parametrize(("record", "reason"), BAD_TEXTS.values(), ids=BAD_TEXTS.keys())
def test_a_bad_text_names_file_record_and_field(record: Any, reason: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "own", train_jsonl=[{"text": "Mira"}, record])
    with pytest.raises(ValueError, match=rf"train\.jsonl, record 2: .*{reason}"):
        built("text", folder)


ASKED, SAID = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Mira."}
BAD_PROMPTS = {
    "a blank answer": ("prompt_answers", {"prompt": "Who?", "answer": " "}, "field 'answer' is blank: ' '"),
    "no answer": ("prompt_answers", {"prompt": "Who?"}, "field 'answer' is missing"),
    "a blank prompt": ("prompt_answers", {"prompt": "", "answer": "Mira"}, "field 'prompt' is blank: ''"),
    "a subject that is not in the prompt": (
        "prompt_answers",
        {"prompt": "Who?", "answer": "Mira", "subject": "Jon"},
        r"field 'subject' is 'Jon', which does not stand in the prompt 'Who\?'",
    ),
    "no messages": ("messages", {"prompt": "Who?", "answer": "Mira"}, "field 'messages' is missing"),
    "no role": ("messages", {"messages": [{"content": "Who?"}, SAID]}, r"messages\[0\]: field 'role' is missing"),
    "another role": (
        "messages",
        {"messages": [{"role": "bot", "content": "Who?"}, SAID]},
        r"messages\[0\]: field 'role' is 'bot' and must be one of system, user, assistant",
    ),
    "a question alone": ("messages", {"messages": [ASKED]}, "the last message must be the assistant's, .* of 'user'"),
    "an answer alone": ("messages", {"messages": [SAID]}, "the assistant's message is the only one, so it answers"),
}


@pytest.mark.parametrize(("corpus", "record", "reason"), BAD_PROMPTS.values(), ids=BAD_PROMPTS.keys())
def test_a_bad_prompt_or_conversation_names_file_record_and_field(
    corpus: str, record: Any, reason: str, tmp_path: Path
) -> None:
    good = {"prompt": "Who?", "answer": "Mira"} if corpus == "prompt_answers" else {"messages": [ASKED, SAID]}
    folder = write(tmp_path / "own", train_jsonl=[good, record])
    with pytest.raises(ValueError, match=rf"train\.jsonl, record 2: .*{reason}"):
        built(corpus, folder)


def test_a_broken_parquet_file_and_a_missing_column_are_sentences(tmp_path: Path) -> None:
    folder = write(tmp_path / "broken")
    (folder / "train.parquet").write_bytes(b"PAR1 but nothing else")
    with pytest.raises(ValueError, match=r"train\.parquet, record 1: is not valid Parquet: .*; the file ends here"):
        built("text", folder)
    datasets.Dataset.from_dict({"body": ["Mira"]}).to_parquet(str(folder / "train.parquet"))
    with pytest.raises(ValueError, match=r"train\.parquet, record 1: field 'text' is missing"):
        built("text", folder)


# --- triples


def test_a_triple_is_put_into_the_words_of_each_phrasing_with_the_spans_of_head_and_tail(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", train_tsv=TRIPLE, templates_jsonl=[BORN])
    train = built("triples", folder)["train"]
    assert train["text"] == ["Mira Voss was born in Tarnstad .", "Tarnstad is where Mira Voss was born ."]
    assert [words(row) for row in train] == [["Mira Voss", "Tarnstad"]] * 2
    assert train["id"] == ["train.tsv:1:1", "train.tsv:1:2"]


def test_a_name_that_looks_like_a_slot_stays_a_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", train_tsv="[Y]\tborn_in\tthe [X]\n", templates_jsonl=[BORN])
    assert words(built("triples", folder)["train"][0]) == ["[Y]", "the [X]"]


def test_templates_in_columns_and_as_lama_writes_them_are_read(tmp_path: Path) -> None:
    header = "relation\tphrasing\n"
    phrasings = [f"born_in\t{phrasing}\n" for phrasing in BORN["phrasings"]]
    lama = {"relation": "born_in", "template": BORN["phrasings"][0], "label": "place of birth"}
    columns = write(tmp_path / "columns", train_tsv=TRIPLE, templates_tsv=header + "".join(phrasings))
    assert built("triples", columns)["train"].num_rows == 2
    single = write(tmp_path / "lama", train_tsv=TRIPLE, templates_jsonl=[lama])
    assert built("triples", single)["train"]["text"] == ["Mira Voss was born in Tarnstad ."]


def test_phrasings_in_the_files_of_a_split_are_held_out_for_the_same_triples(tmp_path: Path) -> None:
    first, second = ({"relation": "born_in", "phrasings": [phrasing]} for phrasing in BORN["phrasings"])
    folder = write(tmp_path / "own", facts_tsv=TRIPLE, train_templates_jsonl=[first], test_templates_jsonl=[second])
    corpus = built("triples", folder)
    assert corpus["train"]["text"] == ["Mira Voss was born in Tarnstad ."]
    assert corpus["test"]["text"] == ["Tarnstad is where Mira Voss was born ."]
    assert "train_templates.jsonl  1 phrasings" in split_table(corpus)


def test_phrasings_of_several_files_are_pooled_and_each_is_used_once(tmp_path: Path) -> None:
    more = {"relation": " born_in ", "phrasings": ["[X] comes from [Y] .", BORN["phrasings"][0]]}
    folder = write(tmp_path / "own", train_tsv=TRIPLE, templates_jsonl=[BORN], templates_more_jsonl=[more])
    assert built("triples", folder)["train"]["text"][2:] == ["Mira Voss comes from Tarnstad ."]


BAD_TEMPLATES = {
    "no slot for the tail": ({"phrasings": ["[X] was born ."]}, r"'\[X\] was born \.' has 0 slots \[Y\] for the tail"),
    "two slots for the head": (
        {"phrasings": ["[X] and [X], [Y]"]},
        r"has 2 slots \[X\] for the head and must have one",
    ),
    "no phrasing": ({"phrasings": []}, "field 'phrasings' is an empty list"),
    "a phrasing twice": ({"phrasings": ["[X] [Y]", "[X] [Y] "]}, r"the phrasing '\[X\] \[Y\]' stands here twice"),
    "no relation": ({"relation": "", "phrasings": ["[X] [Y]"]}, "field 'relation' is blank"),
    "a relation twice": ({**BORN, "relation": "born_in "}, "'born_in ', which has an earlier line; list all"),
}


@pytest.mark.parametrize(("record", "reason"), BAD_TEMPLATES.values(), ids=BAD_TEMPLATES.keys())
def test_a_bad_template_names_file_line_and_value(record: Any, reason: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "own", train_tsv=TRIPLE, templates_jsonl=[BORN, {"relation": "died_in", **record}])
    with pytest.raises(ValueError, match=rf"templates\.jsonl, record 2: .*{reason}"):
        built("triples", folder)
    corpus = built("triples", folder, on_bad_record="skip")
    assert counts(corpus)["train"] == {"bad_records": 1, "records": 1, "rows": 2}


def test_a_template_line_of_one_column_names_its_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", train_tsv=TRIPLE, templates_tsv="born_in\t[X] of [Y]\n[X] of [Y]\n")
    with pytest.raises(ValueError, match=r"templates\.tsv, record 2: a line must be relation TAB phrasing but has 1"):
        built("triples", folder)


def test_a_relation_without_template_names_the_triple_and_the_known_relations(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", train_tsv=TRIPLE + "Ole\tknows\tMira\n", templates_jsonl=[BORN])
    with pytest.raises(
        ValueError,
        match=r"train\.tsv, record 2: field 'relation' is 'knows', which has no template in templates\.jsonl;"
        r" there are templates for \['born_in'\]",
    ):
        built("triples", folder)


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({"train_tsv": TRIPLE}, r"holds no templates \(templates\*\.jsonl\) for the split 'train'"),
        ({"templates_jsonl": [BORN]}, r"holds no triples \(\*\.tsv, \*\.csv or \*\.jsonl\) for the split"),
    ],
)
def test_a_folder_without_templates_or_triples_says_what_is_missing(
    files: dict[str, Any], missing: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=missing):
        built("triples", write(tmp_path / "own", **files))


def test_changed_templates_build_the_corpus_anew(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", train_tsv=TRIPLE, templates_jsonl=[BORN])
    assert built("triples", folder)["train"].num_rows == 2
    write(folder, templates_jsonl=[{**BORN, "phrasings": BORN["phrasings"][:1]}])
    assert built("triples", folder)["train"].num_rows == 1


# --- other records as texts


def test_relations_are_texts_with_two_mentions_and_trees_are_texts_without(tmp_path: Path) -> None:
    record = {"token": ["Mira", "saw", "Lind"], "relation": "saw", "subj_start": 0, "subj_end": 0}
    relations = write(tmp_path / "r", train_jsonl=[{**record, "obj_start": 2, "obj_end": 2}])
    trees = write(
        tmp_path / "t", train_conllu="1\tMira\t_\t_\t_\t_\t2\tdep\t_\t_\n2\trests\t_\t_\t_\t_\t0\troot\t_\t_\n\n"
    )
    expected = {
        ("relation_classification", relations): {
            "id": "train.jsonl:1",
            "text": "Mira saw Lind",
            "mentions": [{"start": 0, "end": 4}, {"start": 9, "end": 13}],
        },
        ("conllu", trees): {"id": "train.conllu:1", "text": "Mira rests", "mentions": []},
    }
    for (corpus, folder), row in expected.items():
        train = built(corpus, folder)["train"]
        texts = train.map(as_texts, batched=True, remove_columns=train.column_names, features=FEATURES["text"])
        assert texts.to_list() == [row]
        assert as_texts(as_texts(train[:])) == as_texts(train[:])


def test_questions_cannot_be_read_as_texts() -> None:
    with pytest.raises(ValueError, match=r"the columns \['id', 'question'\] can't be read as texts"):
        as_texts({"id": ["a"], "question": ["who?"]})


def test_an_objective_of_texts_takes_relations_and_trees_and_refuses_questions() -> None:
    objective = SimpleNamespace(record_type="text")
    for corpus in ("text", "triples", "fewrel", "wiki80", "conllu", "open_entity"):
        check_record_type(SimpleNamespace(corpus=corpus), objective)
    with pytest.raises(
        ValueError, match=r"'cosmosqa' has multiple_choice records, .* needs text records; .*'triples'"
    ):
        check_record_type(SimpleNamespace(corpus="cosmosqa"), objective)
