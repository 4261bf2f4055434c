"""Composing: every form gives the same bits, and what does not belong together is refused."""

import pytest
import torch
from helpers import batch, bytes_of, make_model, output, save_backbone, small_adapter
from transformers import AutoModel

from kadapter import KAdapterForEntityPairClassification, KAdapterModel
from kadapter.configuration_kadapter import split_composition


@pytest.fixture
def backbone(tmp_path):
    return save_backbone(tmp_path / "backbone")


@pytest.fixture
def org(tmp_path, backbone, monkeypatch):
    """A directory in which org/kadapter-fac and org/kadapter-lin stand, and which is the current one."""
    model = make_model(backbone, "fac", "lin")
    for name in ("fac", "lin"):
        model.save_adapter(tmp_path / "org" / f"kadapter-{name}", name)
    monkeypatch.chdir(tmp_path)
    return model


def forms(prefix):
    fac, lin = f"{prefix}-fac", f"{prefix}-lin"
    yield KAdapterModel.from_pretrained([fac, lin])
    yield KAdapterModel.from_pretrained(fac, compose_with=[lin])
    yield KAdapterModel.from_pretrained(fac, compose_with=lin)
    yield AutoModel.from_pretrained(fac, compose_with=[lin])
    yield KAdapterModel.from_pretrained(f"{prefix}-fac+lin")
    yield KAdapterModel.from_pretrained(f"{fac}+{lin}")


def test_all_forms_of_composing_give_the_same_bits(org):
    expected = output(org)
    for model in forms("org/kadapter"):
        assert torch.equal(output(model), expected) and list(model.adapters) == ["fac", "lin"]


def test_absolute_paths_compose_too_whatever_stands_above_them(tmp_path, backbone):
    above = tmp_path / "a+b"
    model = make_model(backbone, "fac", "lin")
    for name in ("fac", "lin"):
        model.save_adapter(above / f"x-{name}", name)
    assert torch.equal(output(KAdapterModel.from_pretrained(above / "x-fac+lin")), output(model))
    assert list(KAdapterModel.from_pretrained(above / "x-fac").adapters) == ["fac"]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("org/kadapter-fac+lin", ["org/kadapter-fac", "org/kadapter-lin"]),
        ("org/k-adapter-fac+lin+more", ["org/k-adapter-fac", "org/k-adapter-lin", "org/k-adapter-more"]),
        ("org/kadapter-fac+other/kadapter-lin", ["org/kadapter-fac", "other/kadapter-lin"]),
        ("my-org/fac+lin", ["my-org/fac", "my-org/lin"]),
        ("fac+lin", ["fac", "lin"]),
        ("org/kadapter-fac", ["org/kadapter-fac"]),
    ],
)
def test_the_shorthand_names_its_parts(name, parts):
    assert split_composition(name) == parts


def test_a_directory_of_that_very_name_wins(org, tmp_path):
    org.save_pretrained(tmp_path / "org" / "kadapter-fac+lin")
    with torch.no_grad():
        org.adapters["fac"].layers[0].up_project.bias[0] += 1
    org.save_adapter(tmp_path / "org" / "kadapter-fac", "fac")
    found = KAdapterModel.from_pretrained("org/kadapter-fac+lin")
    assert bytes_of(found) != bytes_of(KAdapterModel.from_pretrained(["org/kadapter-fac", "org/kadapter-lin"]))
    assert bytes_of(found) == bytes_of(AutoModel.from_pretrained("org/kadapter-fac+lin"))


def test_a_composition_is_the_backbone_and_the_sum_of_its_adapters(org):
    with torch.no_grad():
        found = KAdapterModel.from_pretrained("org/kadapter-fac+lin")(**batch())
    expected = found.backbone_hidden_state + found.adapter_hidden_states["fac"] + found.adapter_hidden_states["lin"]
    assert torch.equal(found.last_hidden_state, expected)


def test_a_saved_composition_is_one_artifact(org, tmp_path):
    composed = KAdapterModel.from_pretrained("org/kadapter-fac+lin")
    composed.save_pretrained(tmp_path / "both")
    assert bytes_of(AutoModel.from_pretrained(tmp_path / "both")) == bytes_of(composed)


def test_a_head_stands_on_a_composition(org, caplog):
    model = KAdapterForEntityPairClassification.from_pretrained("org/kadapter-fac+lin", num_labels=4)
    assert torch.equal(output(model.base_model), output(org)) and model.head.out_proj.out_features == 4
    assert "it is new and needs training" in caplog.text


def test_heads_and_learned_fusions_of_the_parts_stay_behind(tmp_path, backbone, org, caplog):
    head = make_model(
        backbone, "typed", model_class=KAdapterForEntityPairClassification, fusion="concat", num_labels=3
    )
    head.save_pretrained(tmp_path / "typed")
    model = KAdapterModel.from_pretrained(["org/kadapter-fac", tmp_path / "typed"])
    assert list(model.adapters) == ["fac", "typed"] and model.config.fusion == "add" and model.config.num_labels == 2
    assert "the learned fusion of" in caplog.text


def test_an_adapter_that_occurs_twice_is_named_with_the_remedy(org):
    with pytest.raises(ValueError, match=r"adapter 'fac' of .* is in another part already; .*adapter_name"):
        KAdapterModel.from_pretrained(["org/kadapter-fac", "org/kadapter-fac"])


def test_parts_of_two_backbones_are_refused(org, tmp_path):
    other = make_model(save_backbone(tmp_path / "other", seed=8), "more")
    other.save_adapter(tmp_path / "more", "more")
    with pytest.raises(ValueError, match="was made for another backbone"):
        KAdapterModel.from_pretrained(["org/kadapter-fac", tmp_path / "more"])


def test_nothing_to_compose_and_a_revision_for_several_are_told(org):
    with pytest.raises(ValueError, match="the list of artifacts is empty"):
        KAdapterModel.from_pretrained([])
    with pytest.raises(ValueError, match="can't mean all of"):
        KAdapterModel.from_pretrained(["org/kadapter-fac", "org/kadapter-lin"], revision="main")


def test_a_missing_part_is_named(org):
    with pytest.raises(OSError, match="org/kadapter-none"):
        KAdapterModel.from_pretrained("org/kadapter-fac+none")


def test_composing_runs_no_code_of_a_part_and_unpickles_nothing(org, tmp_path):
    part = tmp_path / "org" / "kadapter-lin"
    for name in ("modeling_kadapter.py", "configuration_kadapter.py"):
        (part / name).write_text("raise SystemExit('this was run')")
    (part / "pytorch_model.bin").write_bytes(b"no pickle")
    assert torch.equal(output(KAdapterModel.from_pretrained("org/kadapter-fac+lin")), output(org))


def test_a_name_with_a_plus_is_not_pushed_but_another_offered(org):
    for push in (org.push_to_hub, lambda name: org.push_adapter_to_hub(name, "fac")):
        with pytest.raises(ValueError, match="push to 'org/kadapter-fac-lin'"):
            push("org/kadapter-fac+lin")


def test_parts_of_different_shapes_compose(backbone, tmp_path):
    model = make_model(backbone, "fac")
    model.add_adapter("small", small_adapter(layers=[1], hidden_size=4, num_attention_heads=1))
    for name in ("fac", "small"):
        model.save_adapter(tmp_path / name, name)
    assert bytes_of(KAdapterModel.from_pretrained([tmp_path / "fac", tmp_path / "small"])) == bytes_of(model)
