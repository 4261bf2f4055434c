"""Renaming adapters, and what a model tells of them."""

import json

import pytest
import torch
from helpers import batch, bytes_of, make_model, output, save_backbone, tiny_backbone

from kadapter import KAdapterForTokenClassification, KAdapterModel


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.mark.parametrize("fusion", ["add", "concat", "gated", "gated_token", "delta"])
def test_a_renamed_adapter_changes_no_bit_and_saves_and_loads_by_its_new_name(backbone, fusion, tmp_path):
    model = make_model(backbone, "fac", "lin", "med", fusion=fusion)
    before, weights = output(model), bytes_of(model)
    model.rename_adapter("fac", "facts")
    assert list(model.config.adapters) == list(model.base_model.adapters) == ["facts", "lin", "med"]
    assert torch.equal(output(model), before)
    assert bytes_of(model) == {key.replace(".fac.", ".facts."): value for key, value in weights.items()}
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(output(KAdapterModel.from_pretrained(tmp_path / "saved")), before)
    model.save_adapter(tmp_path / "facts", "facts")
    assert list(json.loads((tmp_path / "facts" / "config.json").read_text())["adapters"]) == ["facts"]


def test_a_renamed_adapter_stays_active_and_a_head_renames_too(backbone, tmp_path):
    model = make_model(backbone, "fac", "lin", model_class=KAdapterForTokenClassification, num_labels=3)
    model.set_adapter("lin")
    before = model(**batch()).logits
    model.rename_adapter("lin", "grammar")
    assert model.active_adapters() == ["grammar"] and torch.equal(model(**batch()).logits, before)
    model.set_adapter(["fac", "grammar"])
    model.save_pretrained(tmp_path / "head")
    loaded = KAdapterForTokenClassification.from_pretrained(tmp_path / "head")
    assert torch.equal(loaded(**batch()).logits, model(**batch()).logits)


def test_an_adapter_that_a_head_refers_to_may_have_been_renamed(backbone, tmp_path):
    make_model(backbone, "fac").save_pretrained(tmp_path / "fac")
    model = KAdapterForTokenClassification.from_pretrained(tmp_path / "fac", num_labels=3)
    model.rename_adapter("fac", "facts")
    model.save_pretrained(tmp_path / "head", bundle_adapters=False)
    loaded = KAdapterForTokenClassification.from_pretrained(tmp_path / "head")
    assert loaded.active_adapters() == ["facts"]
    assert torch.equal(loaded(**batch()).logits, model(**batch()).logits)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("med", "facts", r"no adapter 'med'; there are \['fac', 'lin'\]"),
        ("fac", "lin", "there is an adapter 'lin' already"),
        ("fac", "fac", "there is an adapter 'fac' already"),
        ("fac", "a.b", "adapter name 'a.b' may hold only letters"),
    ],
)
def test_a_name_that_is_unknown_taken_or_unfit_changes_nothing(backbone, old, new, reason):
    model = make_model(backbone, "fac", "lin", fusion="concat")
    weights = bytes_of(model)
    with pytest.raises(ValueError, match=reason):
        model.rename_adapter(old, new)
    assert bytes_of(model) == weights and list(model.config.adapters) == ["fac", "lin"]


def test_the_status_tells_what_is_active_what_trains_and_how_much_there_is():
    model = make_model(tiny_backbone(), "fac", "lin", fusion="gated")
    model.train_adapter("lin")
    status = model.get_adapter_status()
    assert status.enabled and status.active_adapters == status.available_adapters == ["fac", "lin"]
    assert status.requires_grad == {"fac": False, "lin": True} and status.kinds["fac"] == "k_adapter"
    assert status.devices == {"fac": ["cpu"], "lin": ["cpu"]} and status.dtypes["lin"] == ["torch.float32"]
    own = sum(one.numel() for one in model.base_model.adapters["lin"].parameters())
    fusion = sum(one.numel() for one in model.base_model.fusion.parameters() if one.requires_grad)
    assert status.parameters["lin"] == own and status.trainable_params == own + fusion
    assert status.total_params == sum(one.numel() for one in model.parameters())
    next(model.base_model.adapters["lin"].parameters()).requires_grad_(False)
    model.disable_adapters()
    changed = model.get_adapter_status()
    assert changed.requires_grad["lin"] == "irregular" and not changed.enabled and changed.active_adapters == []
