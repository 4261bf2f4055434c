"""Treebanks as published: texts withheld, comments between sentences, files cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from kadapter.data_builders import counts, load


def sentence(*forms: str, lemma: str | None = None, comments: str = "") -> str:
    """Return a sentence in CoNLL-U whose first word is the head of all others."""
    words = [
        f"{number}\t{form}\t{lemma or form}\tX\t_\t_\t{min(number - 1, 1)}\tdep\t_\t_\n"
        for number, form in enumerate(forms, 1)
    ]
    return comments + "".join(words) + "\n"


def treebank(folder: Path, *sentences: str, name: str = "train") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.conllu").write_text("".join(sentences), encoding="utf-8")
    return folder


WITHHELD = {
    "a text of underscores": sentence("_", "_", "_", comments="# sent_id = a\n# text = _ _ _\n"),
    "no text": sentence("_", "_", comments="# sent_id = a\n"),
    "a multiword token": "1-2\t__\t_\t_\t_\t_\t_\t_\t_\t_\n" + sentence("_", "_", "_"),
    "punctuation left": sentence("_", "_", ","),
    "lemmas left": sentence("_", "_", lemma="be"),
    "as many underscores as letters": sentence("____", "__"),
}


@pytest.mark.parametrize("content", WITHHELD.values(), ids=WITHHELD.keys())
def test_a_sentence_whose_text_is_withheld_is_refused_with_the_remedy(content: str, tmp_path: Path) -> None:
    folder = treebank(tmp_path / "corpus", sentence("Mira", "rests"), content)
    with pytest.raises(ValueError, match=r"train\.conllu, record 2: the text is withheld.*merge the text"):
        load("conllu", folder, cache_dir=tmp_path)


def test_withheld_documents_among_others_are_left_out_and_counted_if_asked(tmp_path: Path) -> None:
    withheld = [sentence("_", "_", comments="# newdoc id = b\n"), sentence("_"), sentence("_", "_", "_")]
    first, last = sentence("Mira", "rests", comments="# newdoc id = a\n"), sentence("Yes", comments="# newdoc\n")
    folder = treebank(tmp_path / "corpus", first, *withheld, last)
    built = load("conllu", folder, "train", cache_dir=tmp_path, on_bad_record="skip")
    assert built["tokens"] == [["Mira", "rests"], ["Yes"]]
    assert counts(built)["train"]["bad_records"] == 3


def test_a_treebank_of_single_words_without_their_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="record 1: the text is withheld: its only word is '_'"):
        load("conllu", treebank(tmp_path / "corpus", sentence("_"), sentence("_")), cache_dir=tmp_path)


def test_an_underscore_that_was_written_is_a_word(tmp_path: Path) -> None:
    written = [["Type", "_", "here"], ["_"], ["_", "_", "x"], ["_", "."]]
    folder = treebank(tmp_path / "corpus", *(sentence(*forms) for forms in written))
    assert load("conllu", folder, "train", cache_dir=tmp_path)["tokens"] == written


def test_blocks_of_comments_alone_are_no_sentences(tmp_path: Path) -> None:
    folder = treebank(
        tmp_path / "corpus",
        "# global.columns = ID FORM\n\n",
        sentence("Mira"),
        "# newdoc id = b\n\n# sent_id = dropped\n\n",
        sentence("Halden", "rests", comments="# sent_id = c\n"),
        "# the end",
    )
    assert load("conllu", folder, "train", cache_dir=tmp_path)["id"] == ["train.conllu:1", "c"]


@pytest.mark.parametrize("end", ["# sent_id = cut", "# newpar\n# text = Mira\n", "1\tMira\tMira"])
def test_a_treebank_that_is_cut_off_in_a_sentence_is_an_error(end: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"record 2: a (sentence has comments only|line must have 10 columns)"):
        load("conllu", treebank(tmp_path / "corpus", sentence("Mira"), end), cache_dir=tmp_path)
