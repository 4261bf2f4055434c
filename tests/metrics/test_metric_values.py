"""The values of the metrics, compared with the official code, results worked out by hand, and scikit-learn."""

import json
from collections import Counter

import pytest
from helpers import GOLDEN
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from kadapter.data_builders.semeval2010_task8 import RELATIONS
from kadapter.metrics import accuracy, attachment, entity_typing, load, question_answering, semeval, tacred

OFFICIAL = json.loads((GOLDEN / "metrics.json").read_text())
SETTINGS = {"tacred": {"negative": "28"}}
NAMES = st.sampled_from(["a", "b", "c", "none"])
PAIRS = st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=30)
SETS = st.lists(st.sampled_from("abcde"), unique=True)
SET_PAIRS = st.lists(st.tuples(SETS, SETS), min_size=1, max_size=12)
DIRECTED = [f"{name}({order})" for name in RELATIONS[:3] for order in ("e1,e2", "e2,e1")] + ["Other"]
DIRECTED_PAIRS = st.lists(st.tuples(st.sampled_from(DIRECTED), st.sampled_from(DIRECTED)), min_size=1, max_size=30)
WORDS = st.lists(st.sampled_from(["the", "The", "an", "Nile", "nile,", "river", "!", "2nd"]), max_size=5).map(" ".join)
ANSWERED = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=6)


def columns(pairs):
    predictions, references = zip(*pairs, strict=True)
    return list(predictions), list(references)


def turned(label):
    """Return the same relation in the other direction."""
    first, second = ("e1,e2", "e2,e1") if "e1,e2" in label else ("e2,e1", "e1,e2")
    return label.replace(first, second)


# ---- the official code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OFFICIAL)
def test_scores_are_those_of_the_official_code(name):
    case = OFFICIAL[name]
    results = load(name).compute(case["predictions"], case["references"], **SETTINGS.get(name, {}))
    tolerance = 5.1e-5 if name == "semeval" else 1e-12  # the scorer prints two digits of a percentage
    assert {key: results[key] for key in case["results"]} == pytest.approx(case["results"], abs=tolerance)


# ---- accuracy -----------------------------------------------------------------------------------------------------


def test_accuracy_worked_by_hand():
    results = accuracy.compute(["cat", "cat", "dog", "cow"], ["cat", "dog", "dog", "dog"])
    # F1: cat 2 * 1 / (2 + 1), dog 2 * 1 / (1 + 3), cow 0 of one guess
    assert results == pytest.approx({"accuracy": 0.5, "macro_f1": (2 / 3 + 1 / 2 + 0) / 3, "micro_f1": 0.5})


def test_classes_that_do_not_occur_are_left_out_of_the_mean():
    with_further_classes = accuracy.compute(["cat", "dog"], ["cat", "cat"], classes=["cat", "dog", "cow", "hen"])
    assert with_further_classes == accuracy.compute(["cat", "dog"], ["cat", "cat"])
    assert accuracy.compute(["cat", "dog"], ["cat", "cat"], classes=["cat"]) == pytest.approx(
        {"accuracy": 0.5, "macro_f1": 2 / 3, "micro_f1": 2 / 3}
    )


def test_choices_may_be_numbers_and_are_not_mixed_with_names():
    assert accuracy.compute([0, 3, 1], [0, 3, 2])["accuracy"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="some labels are names and others are numbers"):
        accuracy.compute(["0", "1"], [0, 1])


@given(PAIRS)
def test_accuracy_and_f1_are_those_of_scikit_learn(pairs):
    predictions, references = columns(pairs)
    ours = accuracy.compute(predictions, references)
    assert ours["accuracy"] == pytest.approx(accuracy_score(references, predictions))
    for average in ("macro", "micro"):
        theirs = f1_score(references, predictions, average=average, zero_division=0)
        assert ours[f"{average}_f1"] == pytest.approx(theirs)


# ---- TACRED -------------------------------------------------------------------------------------------------------


def test_tacred_worked_by_hand():
    predictions = ["title", "age", "no_relation", "no_relation", "age", "title"]
    references = ["title", "title", "age", "no_relation", "no_relation", "title"]
    # 2 hits among 4 predicted and 4 true relations
    assert tacred.compute(predictions, references) == {"precision": 0.5, "recall": 0.5, "f1": 0.5}


def test_precision_is_one_if_no_relation_is_predicted():
    nothing = ["no_relation"] * 2
    assert tacred.compute(nothing, ["age", "no_relation"]) == {"precision": 1.0, "recall": 0.0, "f1": 0.0}
    assert tacred.compute(["age", "age"], nothing) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


@given(PAIRS)
def test_tacred_is_the_micro_score_of_scikit_learn_without_the_negative_label(pairs):
    predictions, references = columns(pairs)
    ours = tacred.compute(predictions, references, negative="none")
    labels = ["a", "b", "c"]
    *theirs, _ = precision_recall_fscore_support(
        references, predictions, labels=labels, average="micro", zero_division=0
    )
    if set(predictions) == {"none"}:
        assert ours.pop("precision") == 1.0
        theirs.pop(0)
    assert list(ours.values()) == pytest.approx(theirs)


# ---- SemEval ------------------------------------------------------------------------------------------------------


def test_semeval_worked_by_hand():
    cause, topic = "Cause-Effect({})", "Message-Topic({})"
    pairs = [
        (cause.format("e1,e2"), cause.format("e1,e2")),
        (cause.format("e2,e1"), cause.format("e1,e2")),  # the wrong direction: missed, and wrongly predicted
        (cause.format("e1,e2"), topic.format("e1,e2")),
        (topic.format("e2,e1"), topic.format("e2,e1")),
        ("Other", topic.format("e1,e2")),
        ("Entity-Origin(e1,e2)", "Other"),  # a relation in no reference is left out of the mean
    ]
    results = semeval.compute(*columns(pairs))
    cause_f1, topic_f1 = 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2), 2 * 1 * (1 / 3) / (1 + 1 / 3)
    assert results["macro_f1"] == pytest.approx((cause_f1 + topic_f1) / 2)
    assert results["accuracy"] == pytest.approx(2 / 6)


@given(DIRECTED_PAIRS)
def test_the_direction_of_all_labels_together_changes_no_score(pairs):
    predictions, references = columns(pairs)
    again = semeval.compute(list(map(turned, predictions)), list(map(turned, references)))
    assert again == pytest.approx(semeval.compute(predictions, references))


@given(DIRECTED_PAIRS)
def test_the_macro_score_is_the_mean_of_each_relation_counted_alone(pairs):
    scores = []
    for relation in {true.partition("(")[0] for _, true in pairs} - {"Other"}:
        right = sum(label == true and true.startswith(relation) for label, true in pairs)
        predicted = sum(label.startswith(relation) for label, _ in pairs)
        scores.append(2 * right / (predicted + sum(true.startswith(relation) for _, true in pairs)))
    assert semeval.compute(*columns(pairs))["macro_f1"] == pytest.approx(sum(scores) / len(scores) if scores else 0)


@given(DIRECTED_PAIRS)
def test_relations_that_do_not_occur_change_no_score(pairs):
    expected = pytest.approx(semeval.compute(*columns(pairs)))
    assert semeval.compute(*columns(pairs), relations=RELATIONS) == expected


@pytest.mark.parametrize("label", ["Cause-Effect", "Cause-Effect(e1,e1)", "Other(e1,e2)", "_Other", ""])
def test_labels_that_are_no_relation_with_a_direction_are_refused(label):
    with pytest.raises(ValueError, match="is none of SemEval-2010 task 8; it must be 'Other' or the name of a rel"):
        semeval.compute([label], ["Other"])


def test_labels_that_are_none_of_the_named_relations_are_refused():
    with pytest.raises(
        ValueError, match=r"label 'cause-effect\(e1,e2\)' is none of .* 'Other' or one of Cause-Effect"
    ):
        semeval.compute(["cause-effect(e1,e2)"], ["Other"], relations=RELATIONS)


# ---- entity typing ------------------------------------------------------------------------------------------------


def test_typing_worked_by_hand():
    predictions = [["person", "artist"], [], ["place"], ["event", "place"]]
    references = [["person"], ["person"], ["place"], []]
    results = entity_typing.compute(predictions, references)
    macro, micro = ((1 / 2 + 0 + 1 + 0) / 4, (1 + 0 + 1 + 0) / 4), (2 / 5, 2 / 3)
    expected = {"strict_accuracy": 1 / 4}
    for name, (precision, recall) in (("macro", macro), ("micro", micro)):
        harmonic = 2 * precision * recall / (precision + recall)
        expected |= {f"{name}_precision": precision, f"{name}_recall": recall, f"{name}_f1": harmonic}
    assert results == pytest.approx(expected)


def test_the_order_and_repetition_of_labels_mean_nothing():
    assert entity_typing.compute([["b", "a", "a"]], [["a", "b"]])["strict_accuracy"] == 1
    with pytest.raises(ValueError, match="prediction 0 is 'person'; it must be a list of label names"):
        entity_typing.compute(["person"], [["person"]])


@given(SET_PAIRS)
def test_typing_scores_are_those_of_scikit_learn(pairs):
    matrices = [[[int(label in labels) for label in "abcde"] for labels in column] for column in columns(pairs)]
    ours = entity_typing.compute(*columns(pairs))
    assert ours["strict_accuracy"] == pytest.approx(accuracy_score(matrices[1], matrices[0]))
    for name, average in (("macro", "samples"), ("micro", "micro")):
        precision, recall, harmonic, _ = precision_recall_fscore_support(
            matrices[1], matrices[0], average=average, zero_division=0
        )
        assert ours[f"{name}_precision"] == pytest.approx(precision)
        assert ours[f"{name}_recall"] == pytest.approx(recall)
        if name == "micro":  # scikit-learn's mean of each example's F1 is another score than the F1 of the means
            assert ours["micro_f1"] == pytest.approx(harmonic)


# ---- question answering -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "overlap"),
    [
        ("The Nile.", ["nile"], 1, 1),
        ("Lake Victoria", ["Nile", "Victoria"], 0, 2 / 3),
        ("an a the", ["!"], 1, 1),
        ("the", ["Nile"], 0, 0),
        ("to be or not to be", ["to be to be"], 0, 2 * 4 / 10),
        ("Theatre", ["atre"], 0, 0),
        ("twenty-one", ["twenty one"], 0, 0),
        ("Zoë\u00a0 Ann", ["zoë ann"], 1, 1),
    ],
)
def test_answers_worked_by_hand(answer, accepted, exact, overlap):
    results = question_answering.compute([answer], [accepted])
    assert results == pytest.approx({"exact_match": exact, "f1": overlap})


def test_a_question_without_an_acceptable_answer_is_refused():
    with pytest.raises(ValueError, match=r"reference 1 is .*; it must be a list of one or more acceptable answers"):
        question_answering.compute(["Nile", "Nile"], [["Nile"], []])


@given(ANSWERED)
def test_answers_score_as_their_words_do_and_more_references_never_hurt(pairs):
    predictions, references = columns(pairs)
    results = question_answering.compute(predictions, references)
    assert 0 <= results["exact_match"] <= results["f1"] <= 1
    more = question_answering.compute(predictions, [[*accepted, "Nile"] for accepted in references])
    assert more["f1"] >= results["f1"] and more["exact_match"] >= results["exact_match"]
    plain = [question_answering.normalise(answer) for answer in predictions]
    assert question_answering.compute(plain, references) == results
    assert [Counter(answer.split()) for answer in plain] == [
        Counter(word for word in answer.lower().replace(",", "").replace("!", "").split() if word not in {"the", "an"})
        for answer in predictions
    ]


# ---- attachment ---------------------------------------------------------------------------------------------------

SENTENCES = st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9), min_size=1)


@given(SENTENCES, st.integers(1, 20))
def test_the_score_is_the_share_of_right_words_and_lost_words_are_wrong(sentences, lost):
    predictions = [[guess for guess, _ in sentence] for sentence in sentences]
    references = [[head for _, head in sentence] for sentence in sentences]
    right = sum(guess == head for sentence in sentences for guess, head in sentence)
    words = sum(map(len, sentences))
    assert attachment.compute(predictions, references) == pytest.approx({"uas": right / words})
    longer = [*references[:-1], references[-1] + [0] * lost]
    assert attachment.compute(predictions, longer) == pytest.approx({"uas": right / (words + lost)})


def test_more_predicted_heads_than_words_are_refused():
    with pytest.raises(ValueError, match="sentence 1 has 3 predicted heads and 2 words"):
        attachment.compute([[0], [2, 0, 1]], [[0], [2, 0]])
