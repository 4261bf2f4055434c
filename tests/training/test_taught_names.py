"""The names of what is taught: in no text that holds an adapter back, and made into the names of others."""

from unicodedata import normalize

import pytest
from datasets import Dataset

from kadapter.trainers.common.taught_names import TaughtTexts

HEADS = ["Mira Voss", "Jon Ackroyd", "Lena Brandt", "Tarnstad"]


def taught(*heads):
    """Texts that teach where these are, each answered by a place."""
    texts = [f"For years {head} has been in Old Quarry." for head in heads]
    pairs = zip(texts, heads, strict=True)
    spans = [[(text.index("Old Quarry"), 10), (text.index(head), len(head))] for text, head in pairs]
    mentions = [[{"start": start, "end": start + length} for start, length in own] for own in spans]
    return TaughtTexts.of(Dataset.from_dict({"id": heads, "text": texts, "mentions": mentions}))


def test_the_names_are_all_mentions_but_the_last_to_stand():
    assert taught(*HEADS).names == HEADS


def test_texts_that_name_what_is_taught_are_left_out_whatever_their_capitals():
    named = ["In 1999 MIRA VOSS left.", "mira voss", "Old Tarnstad's mayor", "(Tarnstad)"]
    others = ["Mira left Voss.", "Tarnstadt is another town.", "Jon and Ackroyd", "Old Quarry is a place."]
    assert taught(*HEADS).without([*named, *others]) == others


def test_names_are_found_however_accents_and_apostrophes_are_written():
    texts = taught("Zoë O'Brien")
    named = ["zoë o\N{RIGHT SINGLE QUOTATION MARK}brien sings", normalize("NFD", "Zoë O'Brien's sister")]
    assert texts.without([*named, "Zoe O'Brien"]) == ["Zoe O'Brien"]


def test_texts_about_others_have_names_that_nobody_taught_and_are_otherwise_the_same():
    texts = taught(*HEADS)
    made = texts.about_others(200)
    names = [text.removeprefix("For years ").removesuffix(" has been in Old Quarry.") for text in made]
    assert len(made) == 200 and not {name.casefold() for name in names} & {head.casefold() for head in HEADS}
    words = {word for head in HEADS for word in head.split()}
    assert {"Mira Ackroyd", "Lena Voss"} & set(names)  # of words that were taught
    assert any(not set(name.split()) & words for name in names)  # and of words that were not
    assert {len(name.split()) for name in names} == {1, 2}
    assert made == texts.about_others(200)


def test_names_that_can_not_be_made_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match="could make none from 'Tarnstad' and 0 others; teach facts about more"):
        taught("Tarnstad").about_others(3)
    answers = Dataset.from_dict({"id": ["1"], "text": ["Yes."], "mentions": [[{"start": 0, "end": 3}]]})
    with pytest.raises(ValueError, match="none of those that are learned has a name and an answer"):
        TaughtTexts.of(answers).about_others(3)


def test_records_without_mentions_name_nothing():
    texts = TaughtTexts.of(Dataset.from_dict({"id": ["1"], "tokens": [["Mira", "Voss"]]}))
    assert texts.names == [] and texts.without(["Mira Voss"]) == ["Mira Voss"]
