"""What individual corpora do beyond the shared contract, also on the published files where available."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kadapter.data_builders import counts, load

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def corpus(folder: Path, **files: Any) -> Path:
    """Write files named like `train_json` for train.json; content that is not a string is written as JSON."""
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / ".".join(name.rsplit("_", 1))).write_text(text, encoding="utf-8")
    return folder


def rows(name: str, folder: Path, split: str = "train") -> list[dict[str, Any]]:
    return list(load(name, folder, split, streaming=True))


def mentions(row: dict[str, Any]) -> tuple[str, str, str]:
    """Return head, relation and tail, with the mentions as written in the text."""
    head, tail = (row["text"][row[side]["start"] : row[side]["end"]] for side in ("head", "tail"))
    return head, row["relation"], tail


def published(folder: str) -> Path:
    if not (DATA / folder).is_dir():
        pytest.skip(f"the published {folder} is not available")
    return DATA / folder


# --- CoNLL-U


def treebank(*heads: int | str, start: int = 1) -> str:
    """Return a sentence in CoNLL-U with these heads."""
    return "".join(f"{n}\tw{n}\t_\t_\t_\t_\t{head}\tdep\t_\t_\n" for n, head in enumerate(heads, start)) + "\n"


MALFORMED_TREES = {
    "cycle": (treebank(2, 3, 1, 0), "form a cycle through word 1"),
    "word heads itself": (treebank(1, 0), "form a cycle through word 1"),
    "two roots": (treebank(0, 0), r"has 2 roots \[1, 2\]"),
    "no root": (treebank(2, 1), r"has 0 roots \[\]"),
    "head out of range": (treebank(2, 0, 4), r"the head of word 3 is 4 but must lie in 0\.\.3"),
    "no head": (treebank("_", 0), "field 'HEAD' of word 1 is '_'"),
    "negative head": (treebank(-1, 0), "field 'HEAD' of word 1 is '-1'"),
    "word left out": (treebank(0, 1, start=2), "field 'ID' is '2' but the next word has number 1"),
    "few columns": ("1\tw1\t0\tdep\n\n", "10 columns separated by tabs but has 4"),
    "blank word": (treebank(0).replace("w1", " "), "word 1 is blank"),
}


@pytest.mark.parametrize(("content", "reason"), MALFORMED_TREES.values(), ids=MALFORMED_TREES.keys())
def test_a_malformed_tree_names_file_record_and_reason(content: str, reason: str, tmp_path: Path) -> None:
    folder = corpus(tmp_path, train_conllu=treebank(0) + content)
    with pytest.raises(ValueError, match=rf"train\.conllu, record 2: .*{reason}"):
        rows("conllu", folder)


def test_a_treebank_is_read_alike_whatever_its_line_ends_and_byte_order_mark(
    tmp_path: Path,
) -> None:
    plain = treebank(2, 0) + treebank(0)
    expected = rows("conllu", corpus(tmp_path, train_conllu=plain))
    for variant in (
        plain.replace("\n", "\r\n"),
        "\ufeff" + plain,
        plain.rstrip(),
        "\n" + plain.replace("\n\n", "\n \n\n"),
    ):
        assert rows("conllu", corpus(tmp_path, train_conllu=variant)) == expected
    assert [row["heads"] for row in expected] == [[2, 0], [0]]


@pytest.mark.slow
def test_the_published_treebank_has_all_its_sentences_and_words(tmp_path: Path) -> None:
    folder = published("ud_english_ewt")
    built = load("conllu", folder, cache_dir=tmp_path)
    assert built.num_rows == {"train": 12544, "validation": 2001}
    lines = (folder / "en_ewt-ud-dev.conllu").read_text(encoding="utf-8").splitlines()
    assert sum(map(len, built["validation"]["tokens"])) == sum(re.match(r"\d+\t", line) is not None for line in lines)
    assert Counter(head for heads in built["train"]["heads"] for head in heads)[0] == 12544
    assert built["validation"][0]["tokens"] == ["From", "the", "AP", "comes", "this", "story", ":"]


# --- find_head


def test_a_sentence_whose_last_word_is_a_head_is_kept(tmp_path: Path) -> None:
    tokens = [{"1": {"start": 0, "end": 5}}, {"2": {"start": 6, "end": 10}}]
    pairs = [{"dependent_index": 2, "governor_index": 0}, {"dependent_index": 1, "governor_index": 2}]
    folder = corpus(tmp_path, dev_json=[{"sent": "Birds sing", "tokens": tokens, "pairs": pairs}])
    assert rows("dependency_json", folder, "validation")[0]["heads"] == [2, 0]


@pytest.mark.parametrize(
    ("start", "end", "heads", "reason"),
    [
        (6, 6, {1: 2, 2: 0}, r"word 2: its offsets are \[6, 6\)"),
        (8, 6, {1: 2, 2: 0}, r"word 2: its offsets are \[8, 6\)"),
        (6, 11, {1: 2, 2: 0}, r"must lie in 0\.\.10"),
        (6, 10, {1: 2}, r"no head to the words \[2\]"),
        (6, 10, {1: 2, 3: 0}, r"dependent_index is 3 but must lie in 1\.\.2"),
        (6, 10, {1: 2, 2: 5}, r"the head of word 2 is 5"),
    ],
)
def test_a_malformed_find_head_record_names_word_and_value(
    start: int, end: int, heads: dict[int, int], reason: str, tmp_path: Path
) -> None:
    tokens = [{"1": {"start": 0, "end": 5}}, {"2": {"start": start, "end": end}}]
    pairs = [{"dependent_index": word, "governor_index": head} for word, head in heads.items()]
    folder = corpus(tmp_path, train_json=[{"sent": "Birds sing", "tokens": tokens, "pairs": pairs}])
    with pytest.raises(ValueError, match=rf"train\.json, record 1: .*{reason}"):
        rows("dependency_json", folder)


# --- TACRED, Wiki80 and FewRel


def tacred_record(subj: tuple[int, int] = (0, 1), obj: tuple[int, int] = (3, 3), **more: Any) -> dict[str, Any]:
    spans = {"subj_start": subj[0], "subj_end": subj[1], "obj_start": obj[0], "obj_end": obj[1]}
    return {"token": ["Mira", "Voss", "joined", "Halden"], "relation": "P108", **spans, **more}


@pytest.mark.parametrize("name", ["tacred", "trex"])
@pytest.mark.parametrize("span", [(2, 1), (0, 4), (-1, 1), (4, 4)])
def test_an_inclusive_span_reversed_or_out_of_range_names_fields_and_values(
    name: str, span: tuple[int, int], tmp_path: Path
) -> None:
    folder = corpus(tmp_path, train_json=[tacred_record(), tacred_record(obj=span)])
    with pytest.raises(ValueError, match=rf"record 2: fields 'obj_start' and 'obj_end' are {span[0]} and {span[1]}"):
        rows(name, folder)


def test_a_span_over_blank_tokens_is_a_bad_record(tmp_path: Path) -> None:
    folder = corpus(tmp_path, train_json=[tacred_record(token=["Mira", "Voss", "joined", " "])])
    with pytest.raises(ValueError, match="record 1: the span of the tail, tokens 3 to 3, covers no text"):
        rows("tacred", folder)


@pytest.mark.parametrize("position", [[2, 2], [3, 2], [3, 5], [-1, 2]])
def test_an_exclusive_span_empty_reversed_or_out_of_range_is_a_bad_record(position: list[int], tmp_path: Path) -> None:
    record = {
        "token": ["Mira", "saw", "old", "Tarnstad"],
        "relation": "saw",
        "h": {"pos": [0, 1]},
        "t": {"pos": position},
    }
    with pytest.raises(ValueError, match=rf"record 1: the span of the tail is \[{position[0]}, {position[1]}\)"):
        rows("wiki80", corpus(tmp_path, train_txt=record))


def test_a_line_that_is_no_json_is_skipped_alone_and_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = json.dumps({"token": ["a", "b"], "relation": "r", "h": {"pos": [0, 1]}, "t": {"pos": [1, 2]}})
    folder = corpus(tmp_path, train_txt="\n".join([good, good[:20], "", good, '"\\ud800"', good]))
    built = load("wiki80", folder, "train", cache_dir=tmp_path / "cache", on_bad_record="skip")
    assert built["id"] == ["train.txt:1", "train.txt:4", "train.txt:6"]
    assert counts(built) == {"train": {"bad_records": 2, "records": 3, "rows": 3}}
    assert "train.txt, record 2: is not valid JSON" in caplog.text


def test_a_lone_surrogate_is_a_bad_record(tmp_path: Path) -> None:
    record = {"token": ["a\ud800", "b"], "relation": "r", "h": {"pos": [0, 1]}, "t": {"pos": [1, 2]}}
    with pytest.raises(ValueError, match=r"record 1: field 'token\[0\]' holds half a surrogate pair"):
        rows("wiki80", corpus(tmp_path, train_txt=record))


def test_the_first_contiguous_mention_of_fewrel_counts(tmp_path: Path) -> None:
    record = {"tokens": ["a", "b", "c", "d"], "h": ["x", "Q1", [[0, 2], [2, 3], [0]]], "t": ["y", "", [[0]]]}
    (row,) = rows("fewrel", corpus(tmp_path, train_json={"P1": [record]}))
    assert mentions(row) == ("c d", "P1", "a")
    assert (row["head_id"], row["tail_id"]) == ("Q1", "")
    record["h"][2] = [[0, 2], []]
    with pytest.raises(ValueError, match=r"record 1: field 'h\[2\]' must hold a contiguous list"):
        rows("fewrel", corpus(tmp_path, train_json={"P1": [record]}))


def test_fewrel_records_are_numbered_through_the_relations(tmp_path: Path) -> None:
    good = {"tokens": ["a", "b"], "h": ["a", "Q1", [[0]]], "t": ["b", "Q2", [[1]]]}
    folder = corpus(tmp_path, train_json={"P1": [good, good], "P2": [good, {}], "P3": 5})
    with pytest.raises(ValueError, match="record 4: field 'tokens' is missing"):
        rows("fewrel", folder)
    built = load("fewrel", folder, cache_dir=tmp_path / "cache", on_bad_record="skip")
    assert counts(built)["train"] == {"bad_records": 2, "records": 3, "rows": 3}


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [("wiki80", "wiki80", 3920), ("tacred", "wiki80_tacred_format", 5600)],
)
def test_the_published_relation_corpora_are_complete(name: str, folder: str, expected: int, tmp_path: Path) -> None:
    built = load(name, published(folder), cache_dir=tmp_path)
    assert sum(built.num_rows.values()) == expected
    assert all(all(map(str.strip, mentions(row))) for dataset in built.values() for row in dataset.select(range(200)))


@pytest.mark.thorough
@pytest.mark.slow
def test_the_mentions_of_fewrel_are_its_names(tmp_path: Path) -> None:
    names = {}
    for file in sorted(published("fewrel").glob("relations_*.json")):
        for records in json.loads(file.read_text(encoding="utf-8")).values():
            names.update({(" ".join(r["tokens"]), r["h"][1], r["t"][1]): (r["h"][0], r["t"][0]) for r in records})
    built = load("fewrel", published("fewrel"), "train", cache_dir=tmp_path)
    right = sum(
        (mentions(row)[0].lower(), mentions(row)[2].lower()) == names[row["text"], row["head_id"], row["tail_id"]]
        for row in built
    )
    assert right / built.num_rows > 0.9  # its README: 4 to 5 in a hundred names differ from the tokens


# --- T-REx


@pytest.mark.parametrize("relation", [17, "17"])
def test_an_integer_relation_is_refused_with_the_way_back(relation: int | str, tmp_path: Path) -> None:
    folder = corpus(tmp_path, train_json=[tacred_record(relation=relation)])
    with pytest.raises(ValueError, match=r"field 'relation' is 17, a number .* map it back .* T_REx_pred2ic"):
        rows("trex", folder)


def test_prepared_files_of_many_names_are_one_split(tmp_path: Path) -> None:
    folder = corpus(tmp_path, **{f"train-{n:02d}_json": [tacred_record(subj_label="Q1")] * 3 for n in range(3)})
    (folder / "dev.json").write_text(json.dumps([tacred_record()]))
    built = load("trex", folder, cache_dir=tmp_path / "cache", num_proc=2)
    assert built.num_rows == {"train": 9, "validation": 1}
    assert set(built["train"]["head_id"]) == {"Q1"}


def raw_document(**triple: Any) -> dict[str, Any]:
    words = [[0, 4], [5, 8], [9, 17], [17, 18], [19, 22], [23, 28]]
    triple = {
        "sentence_id": 0,
        "predicate": {"uri": "http://www.wikidata.org/prop/direct/P7"},
        "subject": {"uri": "http://www.wikidata.org/entity/Q901", "boundaries": [0, 4]},
        "object": {"uri": "1970-01-22T00:00:00Z^^http://www.w3.org/x", "boundaries": [9, 17]},
        **triple,
    }
    boundaries = {"words_boundaries": words, "sentences_boundaries": [[0, 18], [19, 28]]}
    return {"text": "Mira saw Tarnstad. The river", **boundaries, "triples": [triple]}


def boundaries(*span: int) -> dict[str, Any]:
    return {"uri": "http://www.wikidata.org/entity/Q902", "boundaries": list(span) or None}


def test_raw_triples_become_rows_or_are_dropped_by_the_published_rules(tmp_path: Path) -> None:
    documents = [
        raw_document(),
        raw_document(subject=boundaries()),
        raw_document(object=boundaries(9, 16)),
        raw_document(object=boundaries(19, 28)),
        raw_document(sentence_id=1),
    ]
    built = load("trex", corpus(tmp_path, train_json=documents), "train", cache_dir=tmp_path / "cache")
    dropped = {"dropped_no_span": 1, "dropped_off_word_boundaries": 3}
    assert counts(built)["train"] == {**dropped, "records": 5, "rows": 1}
    assert mentions(built[0]) == ("Mira", "P7", "Tarnstad")
    assert built[0]["text"] == "Mira saw Tarnstad ."
    assert (built[0]["head_id"], built[0]["tail_id"]) == ("Q901", "")


@pytest.mark.parametrize(
    ("triple", "reason"),
    [
        ({"object": boundaries(9, 99)}, r"'object\.boundaries' must be \[start, end\]"),
        ({"object": boundaries(17, 9)}, r"'object\.boundaries' must be \[start, end\]"),
        ({"subject": boundaries(4, 4)}, r"'subject\.boundaries' is \[4, 4\] but a mention must not be empty"),
        ({"sentence_id": 2}, r"'sentence_id' is 2 but must lie in 0\.\.1"),
    ],
)
def test_a_raw_span_out_of_range_reversed_or_empty_is_a_bad_record(
    triple: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    folder = corpus(tmp_path, train_json=[raw_document(), raw_document(**triple)])
    with pytest.raises(ValueError, match=rf"record 2: field {reason}"):
        rows("trex", folder)


def test_the_published_raw_sample_gives_its_99_triples_with_their_surface_forms(tmp_path: Path) -> None:
    folder = published("trex_sample")
    built = load("trex", folder, cache_dir=tmp_path)
    assert sum(built.num_rows.values()) == 99
    assert sum(numbers["dropped_no_span"] for numbers in counts(built).values()) == 13
    (file,) = folder.glob("*.json")
    triples = [triple for document in json.loads(file.read_text(encoding="utf-8")) for triple in document["triples"]]
    expected = Counter(
        tuple(re.sub(r"\s", "", triple[side]["surfaceform"]) for side in ("subject", "object"))
        for triple in triples
        if triple["subject"]["boundaries"] and triple["object"]["boundaries"]
    )
    actual = (mentions(row) for dataset in built.values() for row in dataset)
    assert Counter((head.replace(" ", ""), tail.replace(" ", "")) for head, _, tail in actual) == expected


def test_a_stream_gives_rows_before_it_has_read_the_file_to_its_end(tmp_path: Path) -> None:
    content = json.dumps([tacred_record()] * 5000)[:-1] + ", junk"
    stream = iter(load("trex", corpus(tmp_path, train_json=content), "train", streaming=True))
    assert mentions(next(stream)) == ("Mira Voss", "P108", "Halden")
    with pytest.raises(ValueError, match="record 5001: is not valid JSON"):
        list(stream)


@pytest.mark.parametrize("layout", ["prepared", "raw"])
@pytest.mark.thorough
def test_the_scale_benchmark_measures_build_and_stream(layout: str) -> None:
    script = Path(__file__).resolve().parents[2] / "experiments" / "corpus_scale.py"
    command = [sys.executable, str(script), "--records", "30", "--files", "3", "--layout", layout]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["build"]["rows"] == result["stream"]["rows"] == 30


# --- texts and triples


def aligned(tmp_path: Path, text: str, triples: str) -> list[tuple[str, str, str]]:
    return [mentions(row) for row in rows("texts_and_triples", corpus(tmp_path, train_txt=text, train_tsv=triples))]


def test_names_are_found_as_whole_words_in_their_own_case(tmp_path: Path) -> None:
    text = "Mira saw Tarnstadt.\nMira saw tarnstad.\nMira saw Tarnstad's wall.\nMira saw Pre-Tarnstad art."
    actual = aligned(tmp_path, text, "Mira\tsaw\tTarnstad\n")
    assert actual == [("Mira", "saw", "Tarnstad")] * 2


def test_a_combining_accent_belongs_to_its_word(tmp_path: Path) -> None:
    text = "Andre\u0301 saw Lind.\nAndre saw Lind.\nX\u0301 saw Lind."
    assert aligned(tmp_path, text, "Andre\tsaw\tLind\n") == [("Andre", "saw", "Lind")]
    assert aligned(tmp_path, text, "Andre\u0301\tsaw\tLind\n") == [("Andr\u00e9", "saw", "Lind")]
    assert aligned(tmp_path, text, "X\tsaw\tLind\n") == []


def test_the_longest_name_wins_over_a_name_inside_it(tmp_path: Path) -> None:
    triples = "Lind\tin\tTarnstad\nLind Bridge\tin\tTarnstad\nOld Lind Bridge\tis\tTarnstad\n"
    assert aligned(tmp_path, "The Lind Bridge in Tarnstad.", triples) == [("Lind Bridge", "in", "Tarnstad")]
    assert aligned(tmp_path, "Old Lind Bridge, Tarnstad.", triples) == [("Old Lind Bridge", "is", "Tarnstad")]


def test_crossing_names_and_one_mention_for_both_sides_are_dropped_and_counted(tmp_path: Path) -> None:
    text = "Halden North Bridge stands in Tarnstad.\nTarnstad is Tarnstad."
    triples = "Halden North\tin\tTarnstad\nNorth Bridge\tin\tTarnstad\nTarnstad\tis\tTarnstad\n"
    folder = corpus(tmp_path, train_txt=text + "\nNorth Bridge, Tarnstad.", train_tsv=triples)
    built = load("texts_and_triples", folder, "train", cache_dir=tmp_path / "cache")
    assert counts(built)["train"] == {
        "dropped_overlapping_mention": 5,
        "records": 3,
        "rows": 1,
        "triples": 3,
        "triples_never_found": 1,
    }
    assert mentions(built[0]) == ("North Bridge", "in", "Tarnstad")


def test_a_pair_with_two_relations_is_dropped_and_counted_and_the_other_direction_is_not(tmp_path: Path) -> None:
    triples = "Mira\tsaw\tLind\nMira\tmet\tLind\nLind\tknows\tMira\nLind\tknows\tMira\n"
    folder = corpus(tmp_path, train_txt="Mira and Lind.", train_tsv=triples)
    built = load("texts_and_triples", folder, "train", cache_dir=tmp_path / "cache")
    assert counts(built)["train"] == {"dropped_ambiguous_pair": 1, "records": 1, "rows": 1, "triples": 4}
    assert mentions(built[0]) == ("Lind", "knows", "Mira")


def test_aliases_are_names_of_one_entity_found_at_its_first_mention(tmp_path: Path) -> None:
    ids = {"head_id": "Q901", "tail_id": "x:2", "head_aliases": ["Voss"]}
    triple = {"head": "Mira Voss", "relation": "in", "tail": "Tarnstad", **ids}
    folder = corpus(
        tmp_path,
        train_txt="Voss, that is Mira Voss, lives in Tarnstad.",
        train_jsonl=triple | {"head_aliases": ["Voss"]},
    )
    (row,) = rows("texts_and_triples", folder)
    assert mentions(row) == ("Voss", "in", "Tarnstad")
    assert (row["head_id"], row["tail_id"]) == ("Q901", "x:2")


def test_two_entities_of_one_name_leave_the_id_open_or_the_pair_ambiguous(tmp_path: Path) -> None:
    lines = [{"head": "Lind", "relation": "in", "tail": "Tarnstad", "head_id": f"Q{n}"} for n in (1, 2)]
    folder = corpus(tmp_path, train_txt="The Lind, Tarnstad.", train_jsonl="\n".join(map(json.dumps, lines)))
    assert [row["head_id"] for row in rows("texts_and_triples", folder)] == [""]
    corpus(tmp_path, train_jsonl="\n".join([json.dumps(lines[0]), json.dumps(lines[1] | {"relation": "by"})]))
    assert rows("texts_and_triples", folder) == []


def test_sentences_end_at_their_marks_and_not_after_titles_and_initials(tmp_path: Path) -> None:
    text = (
        "Dr. J. Voss saw Lind! \u201cDid she?\u201d She saw Lind, ca. 1900, i.e. late. (Voss left.) 1910 came\u2026 "
        "and Voss said: Lind is gone. Ole saw it. Lind No. 2 is new"
    )
    folder = corpus(tmp_path, train_txt=text, train_tsv="Voss\tsaw\tLind\n")
    assert [row["text"] for row in rows("texts_and_triples", folder)] == [
        "Dr. J. Voss saw Lind!",
        "1910 came\u2026 and Voss said: Lind is gone.",
    ]


def test_each_split_has_its_own_triples_and_those_without_split_word(tmp_path: Path) -> None:
    text = "Mira saw Lind. Ole met Lind."
    folder = corpus(
        tmp_path, all_txt=text, train_tsv="Mira\tsaw\tLind\n", test_tsv="Ole\tmet\tLind\n", more_tsv="Lind\tis\tOle\n"
    )
    actual = {
        split: [mentions(row) for row in rows("texts_and_triples", folder, split)] for split in ("train", "test")
    }
    assert actual["train"] == [("Mira", "saw", "Lind"), ("Lind", "is", "Ole")]
    assert actual["test"] == [("Ole", "met", "Lind"), ("Lind", "is", "Ole")]


def test_a_split_with_texts_but_no_triples_is_an_error_that_says_what_is_missing(tmp_path: Path) -> None:
    folder = corpus(tmp_path, train_txt="Mira saw Lind.", dev_txt="Mira saw Lind.", train_tsv="Mira\tsaw\tLind\n")
    with pytest.raises(
        ValueError, match=r"holds no triples \(\*\.tsv, \*\.csv or \*\.jsonl\) for the split 'validation'"
    ):
        load("texts_and_triples", folder, cache_dir=tmp_path / "cache")


def test_bad_triples_are_counted_once_whatever_the_number_of_processes(tmp_path: Path) -> None:
    texts = {f"part{n}_txt": "Mira saw Lind.\nOle." for n in range(4)}
    folder = corpus(tmp_path, **texts, more_tsv="Mira\tsaw\tLind\nMira\tsaw\n\tsaw\tLind\n")
    for num_proc in (None, 2):
        built = load(
            "texts_and_triples", folder, cache_dir=tmp_path / str(num_proc), num_proc=num_proc, on_bad_record="skip"
        )
        assert sum(numbers.get("bad_records", 0) for numbers in counts(built).values()) == 2
        assert sum(built.num_rows.values()) == 4
    with pytest.raises(ValueError, match=r"more\.tsv, record 2: a line must be head TAB relation TAB tail but has 2"):
        load("texts_and_triples", folder, cache_dir=tmp_path)


@pytest.mark.thorough
def test_a_hundred_thousand_triples_are_aligned_in_seconds_and_every_row_is_one_of_them(tmp_path: Path) -> None:
    facts = {(f"Voss {n}", f"r{n % 7}", f"Halden {n % 5000} Works") for n in range(100_000)}
    text = "\n".join(f"In Lind, Voss {n} met Ole near Halden {n % 5000} Works." for n in range(0, 100_000, 50))
    folder = corpus(tmp_path, train_txt=text, train_tsv="".join("\t".join(fact) + "\n" for fact in sorted(facts)))
    begin = time.perf_counter()
    actual = [mentions(row) for row in rows("texts_and_triples", folder)]
    assert time.perf_counter() - begin < 30  # about 2 s; a loop over the triples would take hours
    assert len(actual) == len(set(actual)) == 2000
    assert set(actual) <= facts
