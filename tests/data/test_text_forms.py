"""Names and texts in every form: scripts, sentence marks, white space, composed and decomposed letters."""

# ruff: noqa: RUF001 (letters that look alike are what these tests are about)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_tasks import tokenizer_of_words

from kadapter.data_builders import counts, load, occurrences
from kadapter.trainers import tasks
from kadapter.trainers.downstream.arguments import TaskCorpusArguments

SENTENCES = {  # two facts in two sentences, and names that no triple may join across them
    "Hindi": ("मीरा वोस तर्नस्ताद में रहती है।{}ओले लिंद में रहता है॥", "मीरा वोस", "तर्नस्ताद", "ओले", "लिंद"),
    "Urdu": ("میرا ووس ترنستاد میں رہتی ہے۔{}اولے لند میں رہتا ہے۔", "میرا ووس", "ترنستاد", "اولے", "لند"),
    "Arabic": ("أين تعيش ميرا في ترنستاد؟{}يعيش أولي في ليند.", "ميرا", "ترنستاد", "أولي", "ليند"),
    "Greek": ("Η Μίρα ζει στο Τάρνσταντ;{}Ο Όλε ζει στο Λιντ.", "Μίρα", "Τάρνσταντ", "Όλε", "Λιντ"),
    "Greek mark": ("Η Μίρα ζει στο Τάρνσταντ\u037e{}Ο Όλε ζει στο Λιντ.", "Μίρα", "Τάρνσταντ", "Όλε", "Λιντ"),
    "Armenian": ("Միրան ապրում է Տառնում։{}Օլեն ապրում է Լինդում։", "Միրան", "Տառնում", "Օլեն", "Լինդում"),
    "Amharic": ("ሚራ በታርን ትኖራለች።{}ኦሌ በሊንድ ይኖራል።", "ሚራ", "በታርን", "ኦሌ", "በሊንድ"),
    "Khmer": ("មីរ៉ារស់នៅតារ៉ាន។{}អូលេរស់នៅលីន។", "មីរ៉ា", "តារ៉ាន", "អូលេ", "លីន"),
    "Burmese": ("မီရာသည်တာနတွင်နေသည်။{}အိုလေသည်လင်းတွင်နေသည်။", "မီရာ", "တာန", "အိုလေ", "လင်း"),
    "Tibetan": ("མི་ར་ ཏར་ན་ ན་ཡོད།{}ཨོ་ལེ་ ལིན་ ན་ཡོད།", "མི་ར", "ཏར་ན", "ཨོ་ལེ", "ལིན"),
    "Chinese": ("米拉住在塔恩斯塔。{}奥勒住在林德！", "米拉", "塔恩斯塔", "奥勒", "林德"),
    "Japanese": ("ミラは塔町に住む。{}オーレは林町に住む。", "ミラ", "塔町", "オーレ", "林町"),
    "Korean": ("미라는 탄시에 산다.{}올레는 린시에 산다.", "미라", "탄시", "올레", "린시"),
    "Spanish": ("¿Vive Mira en Tarnstad?{}¡Ole vive en Lind!", "Mira", "Tarnstad", "Ole", "Lind"),
    "beyond U+FFFF": ("😀 Mira lives in 𝒯arnstad! {}😀 Ole lives in Lind.", "Mira", "𝒯arnstad", "Ole", "Lind"),
}


def knowledge(folder: Path, text: str, *triples: Any, name: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    lines = ("\t".join(triple) if isinstance(triple, tuple) else json.dumps(triple) for triple in triples)
    suffix = "tsv" if isinstance(triples[0], tuple) else "jsonl"
    (folder / f"{name}.{suffix}").write_text("\n".join(lines), encoding="utf-8")
    return folder


def aligned(folder: Path, split: str = "train", **options: Any) -> list[tuple[str, str, str]]:
    rows = load("texts_and_triples", folder, split, cache_dir=folder.parent / "cache", **options)
    cut = [[row["text"][row[side]["start"] : row[side]["end"]] for side in ("head", "tail")] for row in rows]
    return [(head, row["relation"], tail) for (head, tail), row in zip(cut, rows, strict=True)]


@pytest.mark.parametrize(("text", "head", "tail", "other", "there"), SENTENCES.values(), ids=SENTENCES.keys())
def test_sentences_end_in_every_script_and_no_fact_is_joined_across_them(
    text: str, head: str, tail: str, other: str, there: str, tmp_path: Path
) -> None:
    spaced_only = text.endswith((".", "།")) or "?" in text  # ASCII's marks, and the shad, end nothing without a space
    texts = [text.format(space) for space in (" ", " " if spaced_only else "")]
    triples = [(head, "lives in", tail), (other, "lives in", there), (other, "lives in", tail), (head, "met", there)]
    folder = knowledge(tmp_path / "corpus", "\n".join(texts), *triples)
    actual = aligned(folder)
    assert [relation for _, relation, _ in actual] == ["lives in"] * 4
    assert counts(load("texts_and_triples", folder, cache_dir=tmp_path / "cache"))["train"]["triples_never_found"] == 2


def test_marks_inside_a_sentence_end_none(tmp_path: Path) -> None:
    texts = (
        "Mira asked \u201cWho?\u201d and saw Lind.",
        "Mira of Yahoo!Japan met www.x.org?Q=1 and Lind.",
        "Mira of TGF-β; and Lind.",
        "Mira, Dr. J. É. Voss, St. Ole, 3.5 m, i.e. Lind.",
        "मीरा डॉ. लिंद से मिली।",
    )
    triples = [("Mira", "saw", "Lind"), ("मीरा", "saw", "लिंद")]
    assert len(aligned(knowledge(tmp_path / "corpus", "\n".join(texts), *triples))) == len(texts)


FORMS = {
    "spaces around": " founder of ",
    "two spaces": "founder  of",
    "a no-break space": "founder\u00a0of",
    "a narrow and an ideographic space": "founder\u202f\u3000of",
    "a space without width": "\ufefffounder\u200b of",
}


@pytest.mark.parametrize("corpus", ["relation_classification", "fewrel", "texts_and_triples", "entity_typing"])
def test_spellings_of_a_label_are_one_class_and_counted_by_name(corpus: str, tmp_path: Path) -> None:
    labels, folder = ["founder of", *FORMS.values()], tmp_path / "corpus"
    span = {"subj_start": 0, "subj_end": 0, "obj_start": 2, "obj_end": 2}
    records: Any = [{"token": ["Mira", "saw", f"Lind{n}"], **span, "relation": name} for n, name in enumerate(labels)]
    if corpus == "entity_typing":
        records = [{"sent": "Mira saw.", "start": 0, "end": 4, "labels": [name, "founder of"]} for name in labels]
    if corpus == "fewrel":
        mentions = {"h": ["mira", "Q1", [[0]]], "t": ["lind", "Q2", [[2]]]}
        records = {name: [{"tokens": ["Mira", "saw", "Lind"], **mentions}] for name in labels}
    if corpus == "texts_and_triples":
        triples = [("Mira", name, f"Lind{n}") for n, name in enumerate(labels)]
        knowledge(folder, "\n".join(f"Mira saw Lind{n}." for n in range(len(labels))), *triples)
    else:
        folder.mkdir()
        (folder / "train.json").write_text(json.dumps(records), encoding="utf-8")
    built = load(corpus, folder, "train", cache_dir=tmp_path)
    (column, expected) = ("labels", ["founder of"]) if corpus == "entity_typing" else ("relation", "founder of")
    assert list(built[column]) == [expected] * len(labels)
    assert counts(built)["train"]["spelling_corrected_founder of"] == len(FORMS)


def test_composed_and_decomposed_letters_are_one_name_in_text_triples_aliases_and_labels(tmp_path: Path) -> None:
    composed, decomposed = "Andr\u00e9 Lo\u00efc", "Andre\u0301 Loi\u0308c"
    record = {
        "head": decomposed,
        "relation": "ne\u0301 a\u0300",
        "tail": "Z\u00fcri",
        "tail_aliases": ["Zu\u0308rich"],
    }
    texts = [f"\u00c9t\u00e9: {composed} saw Z\u00fcrich.", f"E\u0301te\u0301: {decomposed}\u00a0saw Zu\u0308rich."]
    folder = knowledge(tmp_path / "corpus", "\n".join(texts), record, {**record, "relation": "n\u00e9 \u00e0"})
    assert aligned(folder) == [(composed, "n\u00e9 \u00e0", "Z\u00fcrich")] * 2
    assert counts(load("texts_and_triples", folder, cache_dir=tmp_path / "cache"))["train"] == {
        "records": 2,
        "rows": 2,
        "triples": 2,
        "spelling_corrected_n\u00e9 \u00e0": 1,
    }


def test_a_name_with_odd_spaces_is_found_where_the_text_has_others(tmp_path: Path) -> None:
    folder = knowledge(
        tmp_path / "corpus", "Mira\u00a0\u00a0Voss saw Old  Lind.", (" Mira\u2009Voss", "saw", "Old Lind ")
    )
    assert aligned(folder) == [("Mira\u00a0\u00a0Voss", "saw", "Old  Lind")]


@pytest.mark.parametrize("num_proc", [None, 2])
def test_triples_that_no_sentence_holds_are_counted(num_proc: int | None, tmp_path: Path) -> None:
    triples = [("Mira", "saw", f"Lind{n}") for n in range(51)]
    for number in range(3):
        folder = knowledge(tmp_path / "corpus", "Mira saw Lind7.\nmira saw lind8.", *triples, name=f"train-{number}")
    built = load("texts_and_triples", folder, cache_dir=tmp_path, num_proc=num_proc)
    assert counts(built)["train"]["triples"] == 153
    assert counts(built)["train"]["triples_never_found"] == 150


def test_answers_are_found_in_passages_whatever_their_form(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(json.dumps({"question": "who", "answers": ["Andre\u0301"]}), encoding="utf-8")
    passage = [{"document": "six long tokens and one Andr\u00e9 .".split()}]
    (tmp_path / "train.json").write_text(json.dumps(passage), encoding="utf-8")
    built = load("searchqa", tmp_path, cache_dir=tmp_path / "cache")
    assert "answer_nowhere" not in counts(built)["train"]
    assert built["train"][0]["answers"][0] in built["train"][0]["passages"][0]


OCCURRENCES = {
    "a word": ("The Lind crosses Tarnstad today , they say .", "tarnstad", "Tarnstad"),
    "several words": ("The Lind crosses Tarnstad today , they say .", "THE LIND", "The Lind"),
    "a part of a word": ("The Lind crosses Tarnstad today , they say .", "stad", None),
    "a letter that folds to two": ("He lives in İstanbul now , they say .", "İSTANBUL", "İstanbul"),
    "the second half of that letter": ("He lives in İstanbul now , they say .", "stanbul", None),
    "a sharp s": ("The Große Straße of Tarnstad is long .", "GROSSE STRASSE", "Große Straße"),
    "half a sharp s": ("The letter ß is not in Tarnstad .", "s", None),
    "a letter without its mark": ("The letter \u0915\u0940 is not in Tarnstad .", "\u0915", None),
}


@pytest.mark.parametrize(("passage", "answer", "expected"), OCCURRENCES.values(), ids=OCCURRENCES.keys())
def test_builder_and_task_find_an_answer_where_its_words_stand_in_any_case(
    passage: str, answer: str, expected: str | None, tmp_path: Path
) -> None:
    assert [passage[start:end] for start, end in occurrences(passage, [answer])] == [expected] * (expected is not None)
    (tmp_path / "train.txt").write_text(json.dumps({"question": "what", "answers": [answer]}), encoding="utf-8")
    (tmp_path / "train.json").write_text(json.dumps([{"document": passage.split()}]), encoding="utf-8")
    built = load("searchqa", tmp_path, "train", cache_dir=tmp_path / "cache")
    assert counts(built)["train"].get("answer_nowhere", 0) == (expected is None)
    task = tasks.load("searchqa")(tokenizer_of_words(passage.split()), 24, TaskCorpusArguments(data_dir=""))
    assert len(task.encode(built[:], training=True)["record"]) == (expected is not None)
