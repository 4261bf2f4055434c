"""The corpora of the quickstart are what they claim: true to their form, varied, and with test parts apart."""

import re
import unicodedata
from collections import Counter
from itertools import chain
from pathlib import Path

import conllu
import pytest

from kadapter import quickstart
from kadapter.data_builders import counts, load

HERE = Path(quickstart.__file__).parent
FACTS, GRAMMAR = HERE / "facts", HERE / "grammar"
CORPORA = sorted(chain(FACTS.iterdir(), GRAMMAR.iterdir()))
TOPICS = ("people", "places")
SPLITS = ("train", "test")

Triple = tuple[str, str, str]
each_split = pytest.mark.parametrize("split", SPLITS)


@pytest.mark.parametrize("path", CORPORA, ids=lambda path: path.name)
def test_a_corpus_is_clean_text(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", errors="strict")
    assert text.endswith("\n")
    assert unicodedata.is_normalized("NFC", text)
    assert [line for line in text.split("\n") if line != line.strip() or re.search(r"[^\S \t]|  ", line)] == []


# --- facts


def sentences(split: str) -> list[str]:
    return [line for topic in TOPICS for line in (FACTS / f"{split}-{topic}.txt").read_text("utf-8").splitlines()]


def triples(split: str) -> list[Triple]:
    files = [(FACTS / f"{split}-{topic}.tsv").read_text("utf-8") for topic in TOPICS]
    return [tuple(line.split("\t")) for text in files for line in text.splitlines()]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory):
    return load("texts_and_triples", FACTS, cache_dir=tmp_path_factory.mktemp("facts"))


def mention(row: dict, side: str) -> str:
    return row["text"][row[side]["start"] : row[side]["end"]]


def frame(row: dict) -> str:
    """The sentence with its two mentions masked."""
    (start, end), (later, last) = sorted((row[side]["start"], row[side]["end"]) for side in ("head", "tail"))
    text = row["text"]
    return f"{text[:start]}[...]{text[end:later]}[...]{text[last:]}"


@each_split
def test_every_sentence_tells_the_triple_of_its_line_and_no_other(split: str, facts) -> None:
    found = [(row["text"], (mention(row, "head"), row["relation"], mention(row, "tail"))) for row in facts[split]]
    assert found == list(zip(sentences(split), triples(split), strict=True))


@each_split
def test_no_sentence_is_dropped_or_ambiguous(split: str, facts) -> None:
    seen = counts(facts)[split]
    assert {name: number for name, number in seen.items() if number and name.startswith("dropped_")} == {}
    assert seen["rows"] == seen["records"] == seen["triples"] == len(sentences(split))


def test_there_are_several_hundred_sentences_of_a_dozen_relations_or_more() -> None:
    train, test = (Counter(relation for _, relation, _ in triples(split)) for split in SPLITS)
    assert train.keys() == test.keys()
    assert len(train) >= 12
    assert train.total() >= 400 and test.total() >= 100
    assert min(train.values()) >= 20 and min(test.values()) >= 5


def test_no_frame_of_a_sentence_occurs_more_than_twice(facts) -> None:
    frames = Counter(frame(row) for split in SPLITS for row in facts[split])
    assert {text: number for text, number in frames.items() if number > 2} == {}


def test_no_fact_and_no_sentence_stands_twice() -> None:
    for lines in ([*triples("train"), *triples("test")], [*sentences("train"), *sentences("test")]):
        assert [line for line, number in Counter(lines).items() if number > 1] == []


def test_the_entities_of_the_test_part_are_unseen_in_training() -> None:
    names = {split: {name for head, _, tail in triples(split) for name in (head, tail)} for split in SPLITS}
    assert names["train"] & names["test"] == set()
    # Nor are they mentioned in passing, inside the sentence of another fact.
    text = "\n".join(sentences("train"))
    assert {name for name in names["test"] if re.search(rf"\b{re.escape(name)}\b", text)} == set()


# --- grammar

UPOS = set("ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split())
RELATIONS = set(
    "acl advcl advmod amod appos aux case cc ccomp clf compound conj cop csubj dep det discourse dislocated expl "
    "fixed flat goeswith iobj list mark nmod nsubj nummod obj obl orphan parataxis punct reparandum root vocative "
    "xcomp "
    # the subtypes of English
    "acl:relcl advcl:relcl aux:pass cc:preconj compound:prt csubj:outer csubj:pass det:predet nmod:desc nmod:poss "
    "nmod:unmarked nsubj:outer nsubj:pass obl:agent obl:unmarked".split()
)
# Relations whose dependent always follows its head, in every language.
LEFT_TO_RIGHT = {"conj", "fixed", "flat", "goeswith", "appos"}


@pytest.fixture(scope="module")
def trees() -> dict[str, list[conllu.TokenList]]:
    """The trees of the training and the test part, read by a parser that is not ours."""
    files = {split: sorted(GRAMMAR.glob(f"{split}*.conllu")) for split in SPLITS}
    return {
        split: [tree for path in paths for tree in conllu.parse(path.read_text("utf-8"))]
        for split, paths in files.items()
    }


@pytest.fixture(scope="module")
def all_trees(trees) -> list[conllu.TokenList]:
    return [*trees["train"], *trees["test"]]


def where(tree: conllu.TokenList, token: dict) -> str:
    return f"{tree.metadata['sent_id']}: {token['id']} {token['form']} {token['upos']} {token['deprel']}"


def reaches_the_root(tree: conllu.TokenList, token: dict) -> bool:
    heads = {one["id"]: one["head"] for one in tree}
    position, steps = token["id"], 0
    while position and steps <= len(heads):
        position, steps = heads[position], steps + 1
    return position == 0


def test_there_are_several_hundred_trees_and_each_stands_once(trees, all_trees) -> None:
    assert len(trees["train"]) >= 400 and len(trees["test"]) >= 100
    for name in ("sent_id", "text"):
        assert [key for key, number in Counter(tree.metadata[name] for tree in all_trees).items() if number > 1] == []


def test_words_are_numbered_from_one_and_heads_are_among_them(all_trees) -> None:
    for tree in all_trees:
        assert [token["id"] for token in tree] == list(range(1, len(tree) + 1)), tree.metadata["sent_id"]
        assert [where(tree, token) for token in tree if not 0 <= token["head"] <= len(tree)] == []


def test_every_tree_has_one_root_and_no_cycle(all_trees) -> None:
    for tree in all_trees:
        assert [token["deprel"] for token in tree if token["head"] == 0] == ["root"], tree.metadata["sent_id"]
        assert [token["head"] for token in tree if token["deprel"] == "root"] == [0], tree.metadata["sent_id"]
        assert [where(tree, token) for token in tree if not reaches_the_root(tree, token)] == []


def test_labels_are_those_of_universal_dependencies(all_trees) -> None:
    wrong = [
        where(tree, token)
        for tree in all_trees
        for token in tree
        if token["upos"] not in UPOS or token["deprel"] not in RELATIONS
    ]
    assert wrong == []


def kind(token: dict) -> str:
    """The relation of a word without its subtype."""
    return token["deprel"].partition(":")[0]


def breaks_a_rule(tree: conllu.TokenList, token: dict) -> bool:
    """Whether a word breaks a rule that holds in every language."""
    above = kind(tree[token["head"] - 1]) if token["head"] else ""
    return (
        (kind(token) == "punct") != (token["upos"] == "PUNCT")
        or (kind(token) in {"aux", "cop"} and token["upos"] != "AUX")
        or (kind(token) == "nummod" and token["upos"] != "NUM")
        or (kind(token) in LEFT_TO_RIGHT and token["head"] > token["id"])
        # Function words carry no dependents of their own but what makes them one expression.
        or (above in {"aux", "cop", "case", "mark", "cc", "punct"} and kind(token) not in {"fixed", "conj", "advmod"})
    )


def test_words_and_relations_agree(all_trees) -> None:
    assert [where(tree, token) for tree in all_trees for token in tree if breaks_a_rule(tree, token)] == []


def test_no_word_has_two_subjects_or_two_objects(all_trees) -> None:
    for tree in all_trees:
        core = [(token["head"], kind(token).replace("csubj", "nsubj")) for token in tree]
        twice = [pair for pair, number in Counter(core).items() if number > 1 and pair[1] in {"nsubj", "obj", "iobj"}]
        assert twice == [], tree.metadata["sent_id"]


def test_the_words_give_back_the_text(all_trees) -> None:
    for tree in all_trees:
        spaced = [(token["form"], (token["misc"] or {}).get("SpaceAfter") == "No") for token in tree]
        assert "".join(form + " " * (not glued) for form, glued in spaced).strip() == tree.metadata["text"]


def test_the_reader_of_the_project_keeps_every_word(trees, tmp_path: Path) -> None:
    built = load("conllu", GRAMMAR, cache_dir=tmp_path)
    for split in SPLITS:
        assert built[split]["tokens"] == [[token["form"] for token in tree] for tree in trees[split]]
        assert built[split]["heads"] == [[token["head"] for token in tree] for tree in trees[split]]
