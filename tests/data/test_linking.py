"""Linking: names found as whole words in texts of every script, spans of the text as given, ambiguity counted."""

from __future__ import annotations

import pickle
import unicodedata
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_knowledge import bert_tokenizer

pytest.importorskip("ahocorasick_rs", reason="ahocorasick_rs comes with the extras graphs and test")

from kadapter import EntityEmbeddings, EntityLinker, encode_knowledge, spacy_entities
from kadapter.graphs.linking import read_aliases

ALIASES = [
    ("Paris", "Q90", 90),
    ("Paris", "Q167646", 3),
    ("Paris Sa", "Q1"),
    ("New York", "Q60"),
    ("New York Times", "Q9684"),
    ("York", "Q42462"),
    ("Springfield", "Q28515"),
    ("Springfield", "Q28518"),
    ("東京", "Q1490"),
    ("Zoë Marsh", "Q7"),
    ("C++", "Q2407"),
]


def mentions(text, linker=None):
    """The (surface, id) of each entity of a text."""
    (entities,) = (linker or EntityLinker(ALIASES)).link([text])
    return [(text[one["start"] : one["end"]], one["id"]) for one in entities]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris, and Parisians of Paris.", [("Paris", "Q90"), ("Paris", "Q90")]),
        ("Paris's mayor", [("Paris", "Q90")]),
        ("paris is another word", []),
        ("the New York Times of New York", [("New York Times", "Q9684"), ("New York", "Q60")]),
        ("New Yorkers", []),
        ("Paris Saint-Denis", [("Paris", "Q90")]),  # "Paris Sa" ends inside a word
        ("私は東京に行く", [("東京", "Q1490")]),
        ("I write C++.", [("C++", "Q2407")]),
        ("\U0001f600 Paris", [("Paris", "Q90")]),
        ("New\u00a0York and New \n York", [("New\u00a0York", "Q60"), ("New \n York", "Q60")]),
        ("Pa\u200bris", [("Pa\u200bris", "Q90")]),
        ("", []),
    ],
)
def test_the_longest_name_is_found_on_word_boundaries(text, expected):
    assert mentions(text) == expected


def test_spans_are_those_of_a_decomposed_text_as_given():
    text = unicodedata.normalize("NFD", "É vero: Zoë Marsh.")
    expected = [(unicodedata.normalize("NFD", "Zoë Marsh"), "Q7")]
    assert mentions(text) == expected
    assert mentions(text, EntityLinker([(expected[0][0], "Q7")])) == expected  # the table may be decomposed too


def test_of_names_that_cross_the_leftmost_is_taken():
    linker = EntityLinker([("Anna Voss", "Q1"), ("Voss Street", "Q2")])
    assert mentions("Anna Voss Street", linker) == [("Anna Voss", "Q1")]


def test_an_ambiguous_name_without_a_prior_is_left_out_and_counted_with_the_names_inside_it():
    linker = EntityLinker([("New York", "Q60"), ("New York", "Q1384"), ("York", "Q42462")])
    assert linker.link(["New York and York", "York"]) == [
        [{"start": 13, "end": 17, "id": "Q42462"}],
        [{"start": 0, "end": 4, "id": "Q42462"}],
    ]
    assert (linker.counts.texts, linker.counts.linked, linker.counts.ambiguous) == (2, 2, 1)


def test_ambiguous_names_can_be_left_out_whatever_their_priors():
    assert mentions("Paris and York", EntityLinker(ALIASES, ambiguous="skip")) == [("York", "Q42462")]


def test_priors_of_a_pair_that_repeats_are_added_up():
    linker = EntityLinker([("Paris", "Q1", 2), ("Paris", "Q2", 1.5), ("Paris", "Q2", 1)])
    assert mentions("Paris", linker) == [("Paris", "Q2")]
    assert mentions("Paris", EntityLinker([("Paris", "Q1", 2), ("Paris", "Q2", 2)])) == []


def test_without_case_letters_are_compared_in_lower_case_and_spans_stay():
    linker = EntityLinker([("İzmir", "Q35997"), ("ΣΑΣ", "Q2"), ("straße", "Q3")], case_sensitive=False)
    text = "İZMIR izmir Σας STRAßE strasse"
    assert mentions(text, linker) == [("İZMIR", "Q35997"), ("Σας", "Q2"), ("STRAßE", "Q3")]


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="ab \u0301é'\u200b\u00a0", max_size=20))
def test_whatever_the_text_the_spans_are_apart_and_normalise_to_names(text):
    from kadapter.data_builders import normal

    names = ["a", "b a", "é", "ab"]
    found = EntityLinker([(name, f"Q-{name}") for name in names]).link(text)[0]
    assert all(normal(text[one["start"] : one["end"]]) == one["id"][2:] for one in found)
    assert all(before["end"] <= after["start"] for before, after in pairwise(found))


def test_a_table_is_read_from_a_file_with_or_without_priors(tmp_path):
    path = tmp_path / "aliases.tsv"
    path.write_text("Paris\tQ90\t12\nParis\tQ167646\t0.5\n\nYork\tQ42462\n", encoding="utf-8")
    linker = EntityLinker.from_file(path)
    assert mentions("York, Paris", linker) == [("York", "Q42462"), ("Paris", "Q90")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("Paris Q90\n", "line 1: .* is not a name and an id"),
        ("Paris\tQ90\nYork\t\n", "line 2: .* has an empty id"),
        ("\u200b\tQ90\n", "line 1: .* has an empty name"),
        ("Paris\tQ90\tmany\n", "line 1: prior 'many' of 'Paris' must be a number"),
        ("Paris\tQ90\t-1\n", "line 1: prior '-1' of 'Paris' must be a number"),
        ("Paris\tQ90\tnan\n", "line 1: prior 'nan' of 'Paris' must be a number"),
        ("a\tb\tc\td\n", "line 1: .* is not a name and an id"),
        ("\n", "there are no names"),
    ],
)
def test_a_malformed_table_is_refused_with_its_line(tmp_path, content, sentence):
    path = tmp_path / "aliases.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        EntityLinker.from_file(path)


def test_lines_of_an_official_table_that_name_nothing_are_left_out_and_counted(tmp_path, caplog):
    path = tmp_path / "entity_map.txt"
    path.write_text("Paris\tQ90\n\tQ5\nYork\tthe city\tQ42462\nYork\tQ42462\t3\n", encoding="utf-8")
    assert read_aliases(path) == {"Paris": "Q90", "York": "Q42462"}
    assert "entity_map.txt: left out 2 lines, line 2 first: they have no name, or a third column" in caplog.text
    path.write_text("Paris\tQ90\nYork\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 2: \['York'\] is not a name and an id"):
        read_aliases(path)


def test_a_table_that_is_not_utf8_or_not_there_is_refused(tmp_path):
    path = tmp_path / "aliases.tsv"
    path.write_bytes(b"Paris\tQ90\nZo\xeb\tQ7\n")
    with pytest.raises(ValueError, match="line 2: is not UTF-8"):
        EntityLinker.from_file(path)
    with pytest.raises(OSError, match=r"nowhere\.tsv"):
        EntityLinker.from_file(tmp_path / "nowhere.tsv")


def test_unknown_choices_and_texts_are_refused():
    with pytest.raises(ValueError, match="ambiguous='first' must be 'prior' or 'skip'"):
        EntityLinker(ALIASES, ambiguous="first")
    with pytest.raises(TypeError, match="a text is a string or a document of spaCy, not int"):
        EntityLinker(ALIASES).link([3])
    with pytest.raises(ValueError, match="text 1 holds half a surrogate pair"):
        EntityLinker(ALIASES).link(["Paris", "Paris \ud800"])


def test_a_pickled_linker_links_alike():
    linker = pickle.loads(pickle.dumps(EntityLinker(ALIASES, case_sensitive=False)))
    assert mentions("PARIS", linker) == [("PARIS", "Q90")]


class Span(NamedTuple):
    """A span of a document as spaCy has it."""

    start_char: int
    end_char: int
    kb_id_: str


class Document(list):
    """What spaCy's document tells: a sequence of tokens, which has its text and the entities in it."""

    def __init__(self, text, *ents):
        super().__init__(text.split())
        self.text, self.ents = text, ents


def linked_document():
    return Document("Mira Voss left Paris.", Span(0, 9, ""), Span(15, 20, "Q90"), Span(10, 14, "NIL"))


def test_a_single_document_is_linked_like_a_list_of_one():
    document, linker = linked_document(), EntityLinker(ALIASES)
    assert linker.link(document) == linker.link([document]) == [[{"start": 15, "end": 20, "id": "Q90"}]]
    assert (linker.counts.texts, linker.counts.linked, linker.counts.without_id) == (2, 2, 4)


def test_a_document_whose_entities_are_all_linked_to_nothing_is_spoken_of_once(caplog):
    lost = Document("Mira Voss left Paris.", Span(0, 9, ""), Span(15, 20, ""))
    assert spacy_entities(Document("Nobody left.")) == [] and not caplog.messages
    assert spacy_entities(lost) == spacy_entities(lost) == []
    (message,) = caplog.messages
    assert "none of them a kb_id_, so nothing is linked in it: link it before, keep it by DocBin" in message


def test_documents_are_encoded_with_their_own_entities_without_a_table_of_names():
    documents, table = [linked_document()], EntityEmbeddings(["Q90"], torch.ones(1, 6), "toy")
    inputs = encode_knowledge(bert_tokenizer(), documents, [spacy_entities(one) for one in documents], table)
    as_text = encode_knowledge(bert_tokenizer(), [documents[0].text], [[(15, 20, "Q90")]], table)
    assert inputs["knowledge_slots"].shape == (1, 1) and inputs["knowledge_embeds"].tolist() == [[[1.0] * 6]]
    assert inputs["input_ids"].tolist() == as_text["input_ids"].tolist()
    with pytest.raises(TypeError, match="text 0 is of type NoneType; give a string or a document of spaCy"):
        encode_knowledge(bert_tokenizer(), [None], [[]], table)


def test_a_document_of_spacy_is_taken_as_it_is():
    spacy = pytest.importorskip("spacy", reason="spaCy is installed by those who use it")
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns(
        [
            {"label": "GPE", "pattern": "Vienna", "id": "vienna"},
            {"label": "PER", "pattern": "Mira Voss"},
            {"label": "ORG", "pattern": "Voss & Sons"},
        ]
    )
    document = nlp("Mira Voss of Voss & Sons left Vienna.")
    linked = {"Vienna": "Q1741", "Voss & Sons": "NIL", "Mira Voss": ""}
    spans = [
        spacy.tokens.Span(document, one.start, one.end, one.label_, kb_id=linked[one.text]) for one in document.ents
    ]
    document.set_ents(spans)
    assert spacy_entities(document) == [{"start": 30, "end": 36, "id": "Q1741"}]
    linker = EntityLinker(ALIASES)
    assert linker.link([document, "York"]) == [[{"start": 30, "end": 36, "id": "Q1741"}], linker.link("York")[0]]
