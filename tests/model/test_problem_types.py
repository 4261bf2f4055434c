"""What a text's labels mean to the sequence head, by transformers' rules, and what they can't mean to others."""

import pytest
import torch
from helpers import batch, make_model, save_backbone, small_adapter
from transformers import AutoModelForSequenceClassification
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from kadapter import (
    KAdapterForDependencyParsing,
    KAdapterForEntityClassification,
    KAdapterForEntityPairClassification,
    KAdapterForMultipleChoice,
    KAdapterForQuestionAnswering,
    KAdapterForSequenceClassification,
    KAdapterForTokenClassification,
)

pytestmark = pytest.mark.slow

# num_labels, problem_type asked for, labels of three texts, problem_type that is stored.
PROBLEMS = {
    "one number": (1, None, torch.tensor([0.5, -2.0, 7.0]), "regression"),
    "one number in a column": (1, None, torch.tensor([[0.5], [-2.0], [7.0]]), "regression"),
    "several numbers": (2, "regression", torch.tensor([[0.5, 3.0], [-2.0, 1.0], [7.0, 0.0]]), "regression"),
    "classes": (4, None, torch.tensor([3, 0, 1]), "single_label_classification"),
    "several labels": (2, None, torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]), "multi_label_classification"),
    "several labels asked for": (
        2,
        "multi_label_classification",
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        "multi_label_classification",
    ),
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("problems") / "backbone")


def text_model(backbone, num_labels, problem_type=None):
    return make_model(
        backbone,
        "fac",
        model_class=KAdapterForSequenceClassification,
        num_labels=num_labels,
        problem_type=problem_type,
    )


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_loss_is_that_of_transformers_and_the_problem_is_stored_and_saved(backbone, tmp_path, problem):
    num_labels, problem_type, labels, stored = PROBLEMS[problem]
    model = text_model(backbone, num_labels, problem_type)
    found = model(**batch(), labels=labels)
    found.loss.backward()
    theirs = type("Config", (), {"num_labels": num_labels, "problem_type": problem_type})
    torch.testing.assert_close(found.loss, ForSequenceClassificationLoss(labels, found.logits, theirs))
    assert model.config.problem_type == theirs.problem_type == stored
    share = model(**batch(), labels=labels, num_items_in_batch=2 * labels.numel()).loss
    torch.testing.assert_close(share, found.loss / 2)
    model.save_pretrained(tmp_path / "out")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert again.config.problem_type == stored
    torch.testing.assert_close(again(**batch(), labels=labels).loss, found.loss)


@pytest.mark.parametrize(
    ("num_labels", "problem_type", "labels", "sentence"),
    [
        (3, None, torch.tensor([0.5, 1.0, 0.0]), r"shape \(3,\) and must have \(3, 3\)"),
        (3, None, torch.tensor([[0, 1, 0]] * 3), r"must be \(3,\) whole numbers"),
        (3, "single_label_classification", torch.tensor([0.0, 1.0, 2.0]), "torch.float32, and must be"),
        (3, "single_label_classification", torch.tensor([0, -1, 2]), "label -1 is none of the 3 classes"),
        (3, "multi_label_classification", torch.tensor([0, 1, 2]), r"must have \(3, 3\)"),
        (2, "multi_label_classification", torch.tensor([[0.0, -100.0]] * 3), "0 or 1 each"),
        (2, "regression", torch.tensor([0.5, 1.0, 2.0]), r"must have \(3, 2\)"),
        (1, None, torch.tensor([0.5, 1.0]), r"must have \(3, 1\)"),
    ],
)
def test_labels_of_another_problem_end_in_a_sentence_and_decide_nothing(
    backbone, num_labels, problem_type, labels, sentence
):
    model = text_model(backbone, num_labels, problem_type)
    with pytest.raises(ValueError, match=sentence):
        model(**batch(), labels=labels)
    assert model.config.problem_type == problem_type


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification", "single_label_classification"])
@pytest.mark.parametrize(
    "head",
    [
        KAdapterForEntityClassification,
        KAdapterForEntityPairClassification,
        KAdapterForTokenClassification,
        KAdapterForMultipleChoice,
        KAdapterForQuestionAnswering,
        KAdapterForDependencyParsing,
    ],
)
def test_a_head_with_one_loss_refuses_other_problems_when_it_is_made_and_loaded(
    backbone, tmp_path, head, problem_type
):
    own = "multi_label" if head is KAdapterForEntityClassification else "single_label"
    if problem_type.startswith(own):
        assert head.from_backbone(backbone, problem_type=problem_type).config.problem_type == problem_type
        return
    with pytest.raises(ValueError, match=f"problem_type='{problem_type}' means nothing to {head.__name__}"):
        head.from_backbone(backbone, adapters={"fac": small_adapter()}, problem_type=problem_type)
    make_model(backbone, "fac").save_pretrained(tmp_path / "fac")
    with pytest.raises(ValueError, match=f"problem_type='{problem_type}' means nothing to {head.__name__}"):
        head.from_pretrained(tmp_path / "fac", problem_type=problem_type)


def test_another_head_on_a_checkpoint_takes_none_of_its_problem(backbone, tmp_path):
    text_model(backbone, 2, "regression").save_pretrained(tmp_path / "text")
    assert KAdapterForTokenClassification.from_pretrained(tmp_path / "text").config.problem_type is None


def test_a_misspelt_problem_is_named_with_those_there_are(backbone):
    with pytest.raises(ValueError, match=r"problem_type='regresion' means nothing .* or regression; choose"):
        text_model(backbone, 1, "regresion")
