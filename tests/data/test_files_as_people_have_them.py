"""Files as people have them: NaN in arrays, numbers as names, header lines, comments between trees."""

import json

import pytest

from kadapter.data_builders import counts, load

RELATION = {"token": ["Mira", "left", "Tarnstad"], "subj_start": 0, "subj_end": 0, "obj_start": 2, "obj_end": 2}
TREE = "1\tMira\t_\t_\t_\t_\t2\tnsubj\t_\t_\n2\tleft\t_\t_\t_\t_\t0\troot\t_\t_\n\n"


def records(number):
    return [{**RELATION, "id": f"r{index}", "relation": f"R{index % 2}"} for index in range(number)]


def build(folder, name, corpus="relation_classification", **options):
    return load(corpus, folder / name, cache_dir=folder / "cache", **options)


def write(folder, name, file, text):
    (folder / name).mkdir()
    (folder / name / file).write_bytes(text if isinstance(text, bytes) else text.encode())


BROKEN = {
    "a NaN": (b'{"id": "x", "score": NaN}', "it holds NaN"),
    "an infinity": (b'{"id": "x", "score": -Infinity}', "it holds -Infinity"),
    "a comma too many": (b'{"id": "x",}', "is not valid JSON"),
    "bytes that are not UTF-8": (b'{"id": "\xff\xfe"}', "UTF-8"),
    "a bare word": (b'{"id": x}', "is not valid JSON"),
    "brackets in a string, and a NaN": (b'{"id": "]}[,{", "more": [NaN]}', "it holds NaN"),
}


@pytest.mark.parametrize(("broken", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_record_costs_itself_alone_in_an_array_as_in_lines(tmp_path, broken, reason):
    items = [json.dumps(record).encode() for record in records(100)]
    items[2:2] = [broken]
    write(tmp_path, "array", "train.json", b"[" + b",\n".join(items) + b"]")
    write(tmp_path, "lines", "train.jsonl", b"\n".join(items))
    for name in ("array", "lines"):
        with pytest.raises(ValueError, match=rf"record 3: .*{reason}"):
            build(tmp_path, name)
        built = build(tmp_path, name, on_bad_record="skip")
        assert built["train"]["id"] == [f"r{index}" for index in range(100)]
        assert counts(built)["train"] == {"bad_records": 1, "records": 100, "rows": 100}


def test_of_an_array_that_is_cut_off_all_whole_records_are_kept_and_the_rest_is_counted_once(tmp_path):
    text = json.dumps(records(10))
    write(tmp_path, "cut", "train.json", text[: text.rindex("{") + 20])
    built = build(tmp_path, "cut", on_bad_record="skip")
    assert len(built["train"]) == 9 and counts(built)["train"]["bad_records"] == 1
    write(tmp_path, "open", "train.json", text.removesuffix("]"))
    with pytest.raises(ValueError, match=r"record 11: is not valid JSON \(.*\), so the file ends here"):
        build(tmp_path, "open")


def test_a_nan_among_the_sentences_of_a_relation_costs_that_sentence(tmp_path):
    sentence = {"tokens": ["Mira", "left", "Tarnstad"], "h": ["mira", "Q1", [[0]]], "t": ["tarnstad", "Q2", [[2]]]}
    text = json.dumps({"P1": [sentence, {**sentence, "score": float("nan")}, sentence], "P2": [sentence]})
    write(tmp_path, "fewrel", "train_wiki.json", text)
    built = build(tmp_path, "fewrel", "fewrel", on_bad_record="skip")
    assert built["train"]["relation"] == ["P1", "P1", "P2"]
    assert counts(built)["train"]["bad_records"] == 1


def test_whole_numbers_serve_as_ids_labels_and_words(tmp_path):
    record = {**RELATION, "token": ["Mira", 1984, "Tarnstad"], "id": 17, "relation": 3}
    write(tmp_path, "relations", "train.jsonl", json.dumps(record))
    (row,) = build(tmp_path, "relations")["train"]
    assert (row["id"], row["relation"], row["text"]) == ("17", "3", "Mira 1984 Tarnstad")
    write(tmp_path, "types", "train.jsonl", json.dumps({"id": 5, "sent": "Mira", "start": 0, "end": 4, "labels": [1]}))
    (row,) = build(tmp_path, "types", "entity_typing")["train"]
    assert (row["id"], row["labels"]) == ("5", ["1"])
    write(tmp_path, "wrong", "train.jsonl", json.dumps({**record, "relation": True}))
    with pytest.raises(ValueError, match=r"field 'relation' must be a string but is True"):
        build(tmp_path, "wrong")


def test_answers_that_are_all_dates_stay_the_texts_that_they_are(tmp_path):
    days = {"Mira Voss": "1912-06-23", "Oduya": "1879-03-14"}
    asked = [json.dumps({"prompt": f"{name} was born on", "answer": day}) for name, day in days.items()]
    write(tmp_path, "asked", "train.jsonl", "\n".join(asked))
    assert [row["text"] for row in build(tmp_path, "asked", "prompt_answers")["train"]] == [
        f"{name} was born on {day}" for name, day in days.items()
    ]
    questions = [{"question": f"When was {name} born?", "answers": [day]} for name, day in days.items()]
    (tmp_path / "questions" / "dev").mkdir(parents=True)
    (tmp_path / "questions" / "dev" / "P569.dev.json").write_text(json.dumps(questions))
    built = load("entity_questions", tmp_path / "questions", cache_dir=tmp_path / "cache")
    assert [row["answers"] for row in built["validation"]] == [[day] for day in days.values()]


@pytest.mark.parametrize(
    ("header", "line"),
    [
        ("head\trelation\ttail", "Mira Voss\twork location\tTarnstad"),
        ("Subject\tPredicate\tObject", "Mira Voss\twork location\tTarnstad"),
        ("#subject\tobject\trelation", "Mira Voss\tTarnstad\twork location"),
        (None, "Mira Voss\twork location\tTarnstad"),
    ],
)
def test_a_header_line_says_the_order_of_the_columns_and_is_no_triple(tmp_path, header, line):
    write(tmp_path, "own", "train.txt", "Mira Voss works in Tarnstad.\n")
    (tmp_path / "own" / "train.tsv").write_text("\n".join([*([header] if header else []), line, ""]))
    built = build(tmp_path, "own", "texts_and_triples")
    assert built["train"][0]["relation"] == "work location"
    assert counts(built)["train"]["triples"] == 1


TABLE = 'no,Subject,predicate,object\n1,"Voss, Mira",work location,Tarnstad\n'


@pytest.mark.parametrize("corpus", ["triples", "triple_facts"])
def test_triples_in_a_table_with_other_columns_are_those_that_its_header_names(tmp_path, corpus):
    write(tmp_path, "own", "train.csv", TABLE)
    (tmp_path / "own" / "templates.jsonl").write_text(
        '{"relation": "work location", "phrasings": ["[X] works in [Y]."]}'
    )
    (row,) = build(tmp_path, "own", corpus)["train"]
    assert row.get("subject", "Voss, Mira") == "Voss, Mira"
    assert row.get("text", "Voss, Mira works in Tarnstad.") == "Voss, Mira works in Tarnstad."
    write(tmp_path, "texts", "train.txt", "Here Voss, Mira works in Tarnstad.\n")
    (tmp_path / "texts" / "train.csv").write_text(TABLE)
    assert build(tmp_path, "texts", "texts_and_triples")["train"][0]["relation"] == "work location"


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        (
            "who,relation,tail",
            r"the header names 0 columns for the head: .*'who'.*; name one column each head, relation",
        ),
        ("head,source,relation,tail", "the header names 2 columns for the head"),
    ],
)
def test_a_table_whose_header_does_not_say_what_is_the_head_is_refused(tmp_path, header, sentence):
    write(tmp_path, "own", "train.csv", f"{header}\n{','.join(header.split(','))}x\n")
    (tmp_path / "own" / "templates.jsonl").write_text('{"relation": "relation", "phrasings": ["[X] works in [Y]."]}')
    with pytest.raises(ValueError, match=r"train\.csv, record 1: " + sentence):
        build(tmp_path, "own", "triples")


def test_blocks_of_comments_between_trees_are_no_sentences(tmp_path):
    comments = "# newdoc id = a\n# a comment of the file\n\n"
    write(tmp_path, "trees", "train.conllu", comments + TREE + comments + TREE + comments)
    assert len(build(tmp_path, "trees", "conllu")["train"]) == 2
    write(tmp_path, "none", "train.conllu", comments)
    with pytest.raises(ValueError, match="no row is left"):
        build(tmp_path, "none", "conllu")


@pytest.mark.parametrize("corpus", ["relation_classification", "entity_typing", "multiple_choice"])
def test_an_error_in_a_file_of_ones_own_shows_a_record_as_it_must_be(tmp_path, corpus):
    write(tmp_path, "own", "train.jsonl", '{"text": "something else"}\n')
    with pytest.raises(ValueError, match=r"record 1: .*\(a record looks like this: (\{.*\})\)") as caught:
        build(tmp_path, "own", corpus)
    shown = str(caught.value).split("looks like this: ")[1].split("); correct it")[0]
    write(tmp_path, "shown", "train.jsonl", shown)
    assert len(build(tmp_path, "shown", corpus)["train"]) == 1


@pytest.mark.parametrize(
    "broken", ['q2,"Mira,where,a,b,0', 'q2,Mira,"where" ,a,b,0', 'q2,"Mi"ra,"w,a,b,0', "q2,Mira,a,0"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_broken_row_of_csv_costs_itself_alone(tmp_path, broken, end):
    rows = [
        "id,context,question,answer0,answer1,label",
        *(f'q{n},"Mira, {n}",where,"a ""b""",b,{n % 2}' for n in range(9)),
    ]
    rows[3] = broken
    write(tmp_path, "csv", "train.csv", end.join([*rows, ""]))
    with pytest.raises(ValueError, match=r"train\.csv, record 3: "):
        build(tmp_path, "csv", "multiple_choice")
    built = build(tmp_path, "csv", "multiple_choice", on_bad_record="skip")
    assert built["train"]["id"] == [f"q{n}" for n in range(9) if n != 2]
    assert counts(built)["train"] == {"bad_records": 1, "records": 8, "rows": 8}


def test_a_quoted_text_of_csv_may_run_over_lines(tmp_path):
    text = (
        'id,context,question,answer0,answer1,label\nq0,"Mira\nrests",where,a,b,0\nq1,x,where,a,b,1\nq2,"never closed'
    )
    write(tmp_path, "csv", "train.csv", text)
    built = build(tmp_path, "csv", "multiple_choice", on_bad_record="skip")
    assert built["train"]["context"] == ["Mira\nrests", "x"]
    assert counts(built)["train"]["bad_records"] == 1
