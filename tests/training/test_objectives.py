"""What the objectives make of a record, held to the official feature builders where those are sound.

The official cases are those of microsoft/K-Adapter, commit 43651cd, examples/utils_glue.py, run on a toy tokenizer.
"""

import numpy as np
import pytest
from datasets import Dataset
from tiny_tasks import tokenizer_of_pieces

from kadapter.trainers import pretraining
from kadapter.trainers.common.arguments import AdapterArguments
from kadapter.trainers.common.collator import PadToBatch

WORDS = ["Nora", "Mebrak", "was", "born", "in", "Bethoncourt", "France", "."]
PIECES = [
    "ĠFra",
    "ĠI",
    "Ġsaw",
    "Ġele",
    "pha",
    "nts",
    "Ġyes",
    "ter",
    "day",
    "Ġ.",
    "ĠNor",
    "a",
    "ĠMeb",
    "rak",
    "Ġwas",
    "Ġbor",
]
PIECES += ["n", "Ġin", "ĠBet", "hon", "cou", "rt", "nce", "@", "#"]
SUBJECT_FIRST = "<s> @ ĠNor a ĠMeb rak @ Ġwas Ġbor n Ġin # ĠBet hon cou rt # ĠFra nce Ġ. </s>".split()
OBJECT_FIRST = "<s> # ĠNor a ĠMeb rak # Ġwas Ġbor n Ġin @ ĠBet hon cou rt @ ĠFra nce Ġ. </s>".split()
SENTENCE, HEADS = ["I", "saw", "elephants", "yesterday", "."], [2, 0, 2, 2, 2]


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level BPE with exactly the pieces of the official cases."""
    return tokenizer_of_pieces(PIECES)


def objective_of(name, tokenizer, max_length=24, **arguments):
    given = AdapterArguments(objective=name, backbone="", adapter_name="x", **arguments)
    return pretraining.load(name)(tokenizer, max_length, given)


def characters(first, last):
    """The character span of inclusive word indices."""
    starts = np.cumsum([0, *(len(word) + 1 for word in WORDS)])
    return {"start": int(starts[first]), "end": int(starts[last]) + len(WORDS[last])}


def relation_rows(*spans):
    head, tail = zip(*[(characters(*one[:2]), characters(*one[2:])) for one in spans], strict=True)
    number = len(spans)
    text = [" ".join(WORDS)] * number
    return {
        "id": [str(n) for n in range(number)],
        "text": text,
        "head": [*head],
        "tail": [*tail],
        "relation": ["P19"] * number,
    }


def factual(tokenizer, max_length=24):
    objective = objective_of("factual", tokenizer, max_length)
    objective.learn(Dataset.from_dict({"relation": ["P20", "P19"]}))
    return objective


@pytest.mark.parametrize(
    ("span", "tokens", "positions"),
    [((0, 1, 5, 5), SUBJECT_FIRST, [1, 11]), ((5, 5, 0, 1), OBJECT_FIRST, [11, 1])],
    ids=["trex_subj_first", "trex_obj_first"],
)
def test_markers_and_positions_are_the_official_ones(tokenizer, span, tokens, positions):
    (ids,), (at,) = (factual(tokenizer).encode(relation_rows(span))[key] for key in ("input_ids", "entity_positions"))
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert at == positions


def test_overlapping_mentions_are_nested_where_the_official_code_repeats_words(tokenizer):
    (ids,), (at,) = (
        factual(tokenizer).encode(relation_rows((0, 3, 2, 2)))[key] for key in ("input_ids", "entity_positions")
    )
    expected = "<s> @ ĠNor a ĠMeb rak # Ġwas # Ġbor n @ Ġin ĠBet hon cou rt ĠFra nce Ġ. </s>".split()
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert [expected[one] for one in at] == ["@", "#"]


@pytest.mark.parametrize("max_length", range(6, 24))
def test_truncation_is_the_official_one_except_that_no_marker_may_fall_on_the_end(tokenizer, max_length):
    examples = factual(tokenizer, max_length).encode(relation_rows((0, 1, 5, 5)))
    if max_length <= 12:  # at 12 the official code keeps the example and points at </s>, which says nothing
        assert examples["input_ids"] == []
        return
    (ids,), (at,), (truncated,) = (examples[key] for key in ("input_ids", "entity_positions", "truncated"))
    expected = SUBJECT_FIRST if max_length >= 21 else [*SUBJECT_FIRST[: max_length - 1], "</s>"]
    assert tokenizer.convert_ids_to_tokens(ids) == expected
    assert at == [1, 11]
    assert truncated == (max_length < 21)


def test_relations_are_numbered_by_name_and_an_unseen_one_is_named(tokenizer):
    objective = factual(tokenizer)
    assert objective.label2id == {"P19": 0, "P20": 1}
    rows = {**relation_rows((0, 1, 5, 5)), "id": ["dev.json:7"], "relation": ["P999"]}
    with pytest.raises(ValueError, match=r"record 'dev.json:7' has the relation 'P999', which no training record has"):
        objective.encode(rows)


def test_factual_results_are_those_worked_by_hand():
    results = pretraining.load("factual").measure(None, np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2]), None)
    assert results["accuracy"] == results["micro_f1"] == 0.75
    assert results["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


# --- linguistic


def linguistic(tokenizer, heads=HEADS, max_length=16, training=True, **arguments):
    objective = objective_of("linguistic", tokenizer, max_length, **arguments)
    return objective.encode({"tokens": [SENTENCE], "heads": [heads]}, training)


def test_the_published_labels_stand_on_the_first_tokens_as_published(tokenizer):
    examples = linguistic(tokenizer, head="official", official_labels="published")
    tokens = tokenizer.convert_ids_to_tokens(examples["input_ids"][0])
    assert tokens == ["<s>", "ĠI", "Ġsaw", "Ġele", "pha", "nts", "Ġyes", "ter", "day", "Ġ.", "</s>"]
    assert examples["labels"] == [[0, 3, 1, 3, 3, 3, 0, 0, 0, 0, 0]]


def test_aligned_labels_stand_on_first_sub_tokens_and_mean_the_same_targets(tokenizer):
    no = -100
    assert linguistic(tokenizer, head="official")["labels"] == [[no, 3, 1, 3, no, no, 3, no, no, 3, no]]


def test_the_default_head_reads_the_root_and_first_sub_tokens_and_labels_are_words(tokenizer):
    examples = linguistic(tokenizer)
    assert examples["word_positions"] == [[0, 1, 2, 3, 6, 9]]
    assert examples["labels"] == [HEADS]
    assert examples["words"] == [5] and examples["truncated"] == [False]


@pytest.mark.parametrize("head", ["default", "official"])
def test_a_sentence_whose_last_word_is_a_head_is_kept(tokenizer, head):
    examples = linguistic(tokenizer, heads=[2, 0, 2, 5, 2], head=head)
    assert len(examples["input_ids"]) == 1


def test_a_sentence_just_as_long_as_max_length_is_kept_whole(tokenizer):
    assert linguistic(tokenizer, max_length=11)["truncated"] == [False]


def test_truncated_words_and_heads_that_are_cut_off_are_not_learned_but_all_words_count(tokenizer):
    examples = linguistic(tokenizer, heads=[5, 1, 2, 2, 0], max_length=8)
    assert tokenizer.convert_ids_to_tokens(examples["input_ids"][0])[-2:] == ["Ġyes", "</s>"]
    assert examples["word_positions"] == [[0, 1, 2, 3, 6]]
    assert examples["labels"] == [[-100, 1, 2, 2]]
    assert examples["words"] == [5] and examples["truncated"] == [True]


def test_a_sentence_without_a_word_to_learn_is_dropped_in_training_and_counted_in_evaluation(tokenizer):
    assert linguistic(tokenizer, heads=[5, 1, 2, 2, 0], max_length=3)["input_ids"] == []
    kept = linguistic(tokenizer, heads=[5, 1, 2, 2, 0], max_length=2, training=False)
    assert kept["words"] == [5] and kept["labels"] == [[]]


def test_the_score_counts_every_word_of_every_sentence_punctuation_and_lost_words_too(tokenizer):
    objective = objective_of("linguistic", tokenizer)
    # Worked by hand: 8 words; the first sentence lost two of its five, its other arcs are right; 1 of 3 in the second.
    labels, predictions = np.array([[2, 0, 2], [2, 0, 2]]), np.array([[2, 0, 2], [2, 1, 1]])
    evaluated = Dataset.from_dict({"words": [5, 3]})
    assert objective.measure(predictions, labels, evaluated) == {"uas": 4 / 8}


def test_the_score_of_the_official_head_counts_words_and_not_filler(tokenizer):
    objective = objective_of("linguistic", tokenizer, head="official", official_labels="published")
    labels = np.array([[0, 3, 1, 3, 3, 3, 0, 0, 0, 0, 0]])
    evaluated = Dataset.from_dict({"words": [5]})
    assert objective.measure(np.zeros_like(labels), labels, evaluated) == {"uas": 0}
    assert objective.measure(np.full_like(labels, 3), labels, evaluated) == {"uas": 4 / 5}


# --- batches


def test_a_batch_is_padded_to_its_longest_and_may_hold_a_sentence_without_words():
    batch = PadToBatch({"input_ids": 1, "labels": -100, "number": 0})(
        [{"input_ids": [0, 5, 2], "labels": [3], "number": 7}, {"input_ids": [0, 2], "labels": [], "number": 8}]
    )
    assert batch["input_ids"].tolist() == [[0, 5, 2], [0, 2, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[3], [-100]] and batch["number"].tolist() == [7, 8]


def test_an_unknown_objective_is_told_from_the_known_ones():
    with pytest.raises(
        ValueError,
        match=r"no objective 'factal'; there are \['causal_lm', 'factual', 'linguistic', .*\]; did you mean",
    ):
        pretraining.load("factal")
