"""Which head an Auto class gives, by the package and without it, and how a loaded head changes its size."""

import pytest
import torch
import transformers
from helpers import batch, bytes_of, make_model, run_python, save_backbone

from kadapter import (
    KAdapterForDependencyParsing,
    KAdapterForEntityClassification,
    KAdapterForEntityPairClassification,
    KAdapterForSequenceClassification,
    KAdapterForTokenClassification,
)

pytestmark = pytest.mark.slow

TASKS = ("MultipleChoice", "QuestionAnswering", "SequenceClassification", "TokenClassification")
OWN = {
    "typing": (KAdapterForEntityClassification, "SequenceClassification"),
    "pair": (KAdapterForEntityPairClassification, "SequenceClassification"),
    "text": (KAdapterForSequenceClassification, "SequenceClassification"),
    "parse": (KAdapterForDependencyParsing, "TokenClassification"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An adapter's artifact, and a checkpoint of each head in `OWN` with three labels."""
    folder = tmp_path_factory.mktemp("auto")
    backbone = save_backbone(folder / "backbone")
    make_model(backbone, "fac").save_pretrained(folder / "fac")
    make_model(backbone, "lin").save_pretrained(folder / "lin")
    for name, (head, _) in OWN.items():
        model = make_model(backbone, "fac", model_class=head, num_labels=3, arc_size=8)
        model.save_pretrained(folder / name)
    return folder


def auto(task):
    return getattr(transformers, f"AutoModelFor{task}")


@pytest.mark.parametrize("task", TASKS)
def test_on_an_adapter_an_auto_class_makes_the_general_head_which_runs_and_trains(folder, task):
    model = auto(task).from_pretrained(folder / "fac", num_labels=2)
    assert type(model).__name__ == f"KAdapterFor{task}" and model.config.num_labels == 2
    inputs = batch()
    if task == "MultipleChoice":
        inputs = {key: tensor[:, None] for key, tensor in inputs.items()}
    assert torch.isfinite(model(**inputs)[0]).all()


def test_on_a_composition_and_on_a_class_from_config_it_is_the_general_head_too(folder):
    model = auto("SequenceClassification").from_pretrained(folder / "fac", compose_with=[folder / "lin"], num_labels=4)
    assert type(model) is KAdapterForSequenceClassification and model.active_adapters() == ["fac", "lin"]
    made = auto("TokenClassification").from_config(transformers.AutoConfig.from_pretrained(folder / "fac"))
    assert type(made) is KAdapterForTokenClassification


@pytest.mark.parametrize("name", OWN)
def test_a_checkpoint_keeps_its_own_head_under_the_auto_class_that_it_answers_to(folder, name, caplog):
    head, task = OWN[name]
    model, info = auto(task).from_pretrained(folder / name, output_loading_info=True)
    assert type(model) is head and not any(info.values()) and "new" not in caplog.text


def test_under_another_auto_class_a_head_checkpoint_gets_a_new_general_head_and_says_so(folder, caplog):
    model, info = auto("TokenClassification").from_pretrained(
        folder / "typing", num_labels=5, output_loading_info=True
    )
    assert type(model) is KAdapterForTokenClassification and "it is new and needs training" in caplog.text
    assert info["missing_keys"] == {"head.classifier.weight", "head.classifier.bias"}
    assert model(**batch()).logits.shape == (3, 9, 5)
    assert bytes_of(model.base_model) == bytes_of(transformers.AutoModel.from_pretrained(folder / "fac"))


@pytest.mark.slow
@pytest.mark.thorough
def test_without_the_package_an_auto_class_gives_the_same_heads(folder):
    code = f"""
import sys, transformers
own = { ({name: (head.__name__, task) for name, (head, task) in OWN.items()})!r}
for task in {TASKS!r}:
    model = getattr(transformers, f"AutoModelFor{{task}}").from_pretrained("fac", num_labels=2, trust_remote_code=True)
    assert type(model).__name__ == f"KAdapterFor{{task}}" and model.config.num_labels == 2, type(model)
for name, (head, task) in own.items():
    model = getattr(transformers, f"AutoModelFor{{task}}").from_pretrained(name, trust_remote_code=True)
    assert type(model).__name__ == head, (name, type(model))
model = transformers.AutoModelForTokenClassification.from_pretrained("typing", num_labels=5, trust_remote_code=True)
assert type(model).__name__ == "KAdapterForTokenClassification" and model.config.num_labels == 5
"""
    assert run_python(code, folder).returncode == 0


@pytest.mark.parametrize(
    "labels", [{"num_labels": 5}, {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}]
)
@pytest.mark.parametrize("name", ["typing", "text"])
def test_another_number_of_labels_than_a_checkpoints_needs_ignore_mismatched_sizes(folder, name, labels, caplog):
    task = OWN[name][1]
    number = labels.get("num_labels", 2)
    with pytest.raises(
        ValueError, match=rf"'head\.out_proj\.bias' has shape \(3,\).*has \({number},\).*mismatched_sizes"
    ):
        auto(task).from_pretrained(folder / name, **labels)
    options = {**labels, "ignore_mismatched_sizes": True, "output_loading_info": True}
    model, info = auto(task).from_pretrained(folder / name, **options)
    old = auto(task).from_pretrained(folder / name)
    assert model.head.out_proj.out_features == number and torch.isfinite(model.head.out_proj.weight).all()
    assert torch.equal(model.head.dense.weight, old.head.dense.weight)
    assert {key for key, *_ in info["mismatched_keys"]} == {"head.out_proj.weight", "head.out_proj.bias"}
    assert "head.out_proj.weight" in caplog.text and "need training" in caplog.text
    assert bytes_of(model.base_model) == bytes_of(old.base_model)


def test_sizes_that_match_are_loaded_with_ignore_mismatched_sizes_too(folder):
    model = auto("SequenceClassification").from_pretrained(folder / "text", num_labels=3, ignore_mismatched_sizes=True)
    assert bytes_of(model) == bytes_of(auto("SequenceClassification").from_pretrained(folder / "text"))
