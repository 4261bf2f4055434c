"""Loaded knowledge stays as it is until `train_adapter`, and what was changed does not keep old results."""

import json

import pytest
import torch
from helpers import batch, bytes_of, make_model, save_backbone, small_adapter

from kadapter import KAdapterForSequenceClassification, KAdapterForTokenClassification, KAdapterModel

pytestmark = pytest.mark.slow

TRAINING = {"corpus": "invented", "objective": "factual", "results": {"micro_f1": 0.8125}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Artifacts of two adapters with a record of their training, and a head checkpoint with one of them."""
    folder = tmp_path_factory.mktemp("knowledge")
    backbone = save_backbone(folder / "backbone")
    for name in ("fac", "lin"):
        model = make_model(backbone, name)
        model.config.adapters[name]["training"] = TRAINING
        model.save_adapter(folder / name, name)
    head = KAdapterForSequenceClassification.from_pretrained(folder / "fac", num_labels=2)
    head.save_pretrained(folder / "head", bundle_adapters=True)
    return folder


def train(model, labels):
    """Take two steps with whatever trains."""
    model.train()
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(**batch(), labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


LOADED = {
    "a new head on an adapter": lambda folder: KAdapterForSequenceClassification.from_pretrained(folder / "fac"),
    "a head checkpoint": lambda folder: KAdapterForSequenceClassification.from_pretrained(folder / "head"),
    "a composition": lambda folder: KAdapterForSequenceClassification.from_pretrained(
        [folder / "fac", folder / "lin"]
    ),
    "a gated composition": lambda folder: KAdapterForSequenceClassification.from_pretrained(
        [folder / "fac", folder / "lin"], fusion="gated"
    ),
}


@pytest.mark.parametrize("how", LOADED)
def test_training_a_head_moves_no_loaded_adapter_and_trains_head_and_fusion(folder, how):
    model = LOADED[how](folder)
    adapters, head, fusion = (bytes_of(part) for part in (model.kadapter.adapters, model.head, model.kadapter.fusion))
    train(model, torch.tensor([0, 1, 0]))
    assert bytes_of(model.kadapter.adapters) == adapters
    assert bytes_of(model.head) != head and (not fusion or bytes_of(model.kadapter.fusion) != fusion)


def test_a_loaded_adapter_is_in_eval_mode_while_others_train_and_trains_after_train_adapter(folder):
    model = KAdapterForTokenClassification.from_pretrained(folder / "fac")
    model.load_adapter(folder / "lin")
    model.add_adapter("new", small_adapter())
    model.train()
    assert {name: adapter.training for name, adapter in model.kadapter.adapters.items()} == {
        "fac": False,
        "lin": False,
        "new": True,
    }
    before = {name: bytes_of(adapter) for name, adapter in model.kadapter.adapters.items()}
    model.train_adapter("fac")
    train(model, torch.zeros(3, 9, dtype=torch.long))
    moved = [name for name, adapter in model.kadapter.adapters.items() if bytes_of(adapter) != before[name]]
    assert moved == ["fac"]


def recorded(path, name="fac"):
    """The record of an adapter's training in a saved artifact, and the card."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return config["adapters"][name]["training"], (path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("how", ["save_adapter", "save_pretrained"])
def test_an_adapter_that_was_changed_is_saved_without_its_old_results_and_another_keeps_its_own(
    folder, tmp_path, how, caplog
):
    model = KAdapterForSequenceClassification.from_pretrained([folder / "fac", folder / "lin"])
    model.train_adapter("fac")
    train(model, torch.tensor([0, 1, 0]))
    for name in ("fac", "lin"):
        if how == "save_adapter":
            model.save_adapter(tmp_path / name, name)
        else:
            model.save_pretrained(tmp_path / name, bundle_adapters=True)
    training, card = recorded(tmp_path / "fac")
    assert training == {"corpus": "invented", "objective": "factual"} and "'fac' was changed" in caplog.text
    assert how == "save_pretrained" or "0.8125" not in card
    assert recorded(tmp_path / "lin", "lin")[0] == TRAINING
    again = KAdapterModel.from_pretrained(tmp_path / "fac")
    assert bytes_of(again.adapters["fac"]) == bytes_of(model.kadapter.adapters["fac"])


def test_an_adapter_that_was_not_changed_keeps_its_results_through_every_save(folder, tmp_path):
    model = KAdapterForSequenceClassification.from_pretrained(folder / "fac")
    train(model, torch.tensor([0, 1, 0]))
    model.save_adapter(tmp_path / "adapter", "fac")
    model.save_pretrained(tmp_path / "model")
    renamed = KAdapterModel.from_pretrained(folder / "lin")
    renamed.load_adapter(folder / "fac", "other")
    renamed.save_adapter(tmp_path / "other", "other")
    for path, name in (("adapter", "fac"), ("model", "fac"), ("other", "other")):
        assert recorded(tmp_path / path, name)[0] == TRAINING


def test_results_that_were_measured_anew_are_saved_with_a_changed_adapter(folder, tmp_path):
    model = KAdapterModel.from_pretrained(folder / "fac")
    with torch.no_grad():
        next(model.adapters["fac"].parameters()).add_(1)
    new = {**TRAINING, "results": {"micro_f1": 0.5}}
    model.config.adapters["fac"]["training"] = new
    model.save_adapter(tmp_path / "fac", "fac")
    assert recorded(tmp_path / "fac")[0] == new
