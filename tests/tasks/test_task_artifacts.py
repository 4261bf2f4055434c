"""A head's artifact holds what was trained, and refers to unchanged adapters by source, revision and hash."""

import json
import shutil

import pytest
import torch
from helpers import batch, bytes_of, make_model, run_python, save_backbone, shake, small_adapter
from hub_server import running_hub
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification

from kadapter import KAdapterForEntityClassification, KAdapterModel

pytestmark = pytest.mark.slow

POSITIONS = torch.tensor([[1], [2], [0]])


@pytest.fixture
def backbone(tmp_path):
    return save_backbone(tmp_path / "backbone")


@pytest.fixture
def adapters(tmp_path, backbone):
    """Two adapters of their own directories."""
    model = make_model(backbone, "fac", "lin")
    for name in ("fac", "lin"):
        model.save_adapter(tmp_path / name, name)
    return [tmp_path / "fac", tmp_path / "lin"]


@pytest.fixture
def head(adapters):
    """A head and a fusion, trained on two frozen adapters."""
    model = KAdapterForEntityClassification.from_pretrained(adapters, num_labels=3)
    model.train_adapter([])
    with torch.no_grad():
        for one in model.parameters():
            if one.requires_grad:
                one.add_(0.1)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(**batch(), entity_positions=POSITIONS).logits


def adapters_in(folder):
    keys = [key.removeprefix("kadapter.") for key in load_file(folder / "model.safetensors")]
    return {key.split(".")[1] for key in keys if key.startswith("adapters.")}


def sources_in(folder):
    config = json.loads((folder / "config.json").read_text())
    return {name: values["source"] for name, values in config["adapters"].items() if values["source"]}


def test_adapters_of_local_directories_are_held_by_default_and_the_artifact_stands_alone(tmp_path, head, adapters):
    head.save_pretrained(tmp_path / "task")
    assert adapters_in(tmp_path / "task") == {"fac", "lin"} and sources_in(tmp_path / "task") == {}
    for one in adapters:
        shutil.rmtree(one)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "task")
    assert torch.equal(logits(again), logits(head)) and bytes_of(again) == bytes_of(head)


def test_unchanged_adapters_are_referred_to_by_source_and_hash_and_fetched_from_there(tmp_path, head, adapters):
    head.save_pretrained(tmp_path / "task", bundle_adapters=False)
    assert adapters_in(tmp_path / "task") == set()
    source = sources_in(tmp_path / "task")["lin"]
    assert source == head.config.adapters["lin"]["source"] and len(source.pop("hash")) == 64
    assert source == {"name_or_path": str(adapters[1]), "revision": None, "subfolder": "", "adapter": "lin"}
    again = KAdapterForEntityClassification.from_pretrained(tmp_path / "task")
    assert torch.equal(logits(again), logits(head)) and bytes_of(again) == bytes_of(head)
    assert bytes_of(AutoModel.from_pretrained(tmp_path / "task")) == bytes_of(head.base_model)


def test_an_artifact_that_refers_is_composed_extended_and_saved_anew_like_any_other(tmp_path, head, backbone):
    head.save_pretrained(tmp_path / "task", bundle_adapters=False)
    make_model(backbone, "more").save_adapter(tmp_path / "more", "more")
    both = KAdapterModel.from_pretrained([tmp_path / "task", tmp_path / "more"])
    assert list(both.adapters) == ["fac", "lin", "more"]
    loaded = make_model(backbone, "own")
    assert loaded.load_adapter(tmp_path / "task") == ["fac", "lin"]
    again = KAdapterForEntityClassification.from_pretrained(tmp_path / "task")
    again.save_pretrained(tmp_path / "again", bundle_adapters=False)
    assert sources_in(tmp_path / "again") == sources_in(tmp_path / "task")
    again.save_pretrained(tmp_path / "whole", bundle_adapters=True)
    assert adapters_in(tmp_path / "whole") == {"fac", "lin"} and sources_in(tmp_path / "whole") == {}
    again.save_adapter(tmp_path / "one", "fac")
    assert sources_in(tmp_path / "one") == {}


def test_an_adapter_that_was_trained_or_is_new_is_always_held(tmp_path, head):
    with torch.no_grad():
        head.base_model.adapters["lin"].layers[0].up_project.bias[0] += 1
    head.add_adapter("new", small_adapter())
    head.add_adapter("taps", {"num_hidden_layers": 0})
    head.save_pretrained(tmp_path / "task", bundle_adapters=False)
    assert adapters_in(tmp_path / "task") == {"lin", "new"} and set(sources_in(tmp_path / "task")) == {"fac"}
    again = KAdapterForEntityClassification.from_pretrained(tmp_path / "task")
    assert torch.equal(logits(again), logits(head))


def test_a_renamed_adapter_is_found_by_its_name_at_the_source(tmp_path, backbone, adapters):
    model = shake(KAdapterForEntityClassification.from_backbone(backbone)).eval()
    model.load_adapter(adapters[0], "facts")
    model.save_pretrained(tmp_path / "task", bundle_adapters=False)
    assert sources_in(tmp_path / "task")["facts"]["adapter"] == "fac"
    assert torch.equal(logits(KAdapterForEntityClassification.from_pretrained(tmp_path / "task")), logits(model))


def test_an_adapter_is_never_left_out_of_the_directory_that_it_came_from(tmp_path, head):
    head.save_pretrained(tmp_path / "task")
    again = KAdapterForEntityClassification.from_pretrained(tmp_path / "task")
    again.save_pretrained(tmp_path / "task", bundle_adapters=False)
    assert adapters_in(tmp_path / "task") == {"fac", "lin"}


def test_a_model_without_a_head_holds_all_adapters_unless_told(tmp_path, adapters):
    model = KAdapterModel.from_pretrained(adapters)
    model.save_pretrained(tmp_path / "both")
    assert sources_in(tmp_path / "both") == {}
    model.save_pretrained(tmp_path / "neither", bundle_adapters=False)
    assert set(sources_in(tmp_path / "neither")) == {"fac", "lin"}


def test_a_missing_adapter_is_an_error_that_names_it_and_its_place(tmp_path, head, adapters):
    head.save_pretrained(tmp_path / "task", bundle_adapters=False)
    shutil.rmtree(adapters[1])
    with pytest.raises(OSError, match=r"adapter 'lin', with which .*task was trained, can't be read from '.*lin'"):
        KAdapterForEntityClassification.from_pretrained(tmp_path / "task")


def test_an_adapter_that_has_changed_is_an_error_that_tells_both_hashes(tmp_path, head, adapters, backbone):
    head.save_pretrained(tmp_path / "task", bundle_adapters=False)
    was = head.config.adapters["lin"]["source"]["hash"][:12]
    path = adapters[1] / "model.safetensors"
    kept = path.read_bytes()
    tensors = load_file(path)
    tensors["adapters.lin.layers.0.up_project.bias"][0] += 1
    save_file(tensors, path)
    with pytest.raises(ValueError, match=rf"adapter 'lin' has changed since .*task was trained .*, not {was}"):
        KAdapterForEntityClassification.from_pretrained(tmp_path / "task")
    path.write_bytes(kept)
    other = shake(KAdapterModel.from_backbone(backbone, adapters={"lin": small_adapter(layers=[0, 1, 4])}))
    other.load_state_dict(load_file(path))  # the same tensors at other layers
    other.save_adapter(adapters[1], "lin")
    with pytest.raises(ValueError, match="adapter 'lin' has changed since"):
        KAdapterForEntityClassification.from_pretrained(tmp_path / "task")
    make_model(backbone, "fac").save_adapter(adapters[1], "fac")
    with pytest.raises(ValueError, match="holds none for 'lin'"):
        KAdapterForEntityClassification.from_pretrained(tmp_path / "task")


def test_an_unfrozen_backbone_is_saved_with_the_head_that_refers_to_its_adapters(tmp_path, head):
    head.base_model.backbone.requires_grad_(True)
    with torch.no_grad():
        head.get_input_embeddings().weight.add_(0.1)
    head.save_pretrained(tmp_path / "task", bundle_adapters=False)
    assert adapters_in(tmp_path / "task") == set()
    again = KAdapterForEntityClassification.from_pretrained(tmp_path / "task")
    assert torch.equal(logits(again), logits(head)) and again.config.backbone_modified


PUSHING = """
import torch
from kadapter import KAdapterForEntityClassification
first = "FIRST"
model = KAdapterForEntityClassification.from_pretrained("org/fac", num_labels=3, backbone="backbone")
assert model.config.adapters["fac"]["source"]["revision"] == first, model.config.adapters
model.save_pretrained("task")
model.save_pretrained("whole", bundle_adapters=True)
torch.save(model(**torch.load("inputs.pt"), entity_positions=torch.tensor([[1], [2], [0]])).logits, "logits.pt")
"""
LOADING = """
import torch
from transformers import AutoModelForSequenceClassification
from safetensors import safe_open
for name, held in (("task", False), ("whole", True)):
    with safe_open(f"{name}/model.safetensors", framework="pt") as opened:
        assert any(key.startswith("kadapter.adapters.") for key in opened.keys()) == held
    model = AutoModelForSequenceClassification.from_pretrained(name, trust_remote_code=True)
    found = model(**torch.load("inputs.pt"), entity_positions=torch.tensor([[1], [2], [0]])).logits
    assert torch.equal(found, torch.load("logits.pt")), name
"""


@pytest.mark.thorough
@pytest.mark.slow
def test_an_adapter_of_the_hub_is_referred_to_by_its_commit_though_newer_ones_follow(tmp_path, backbone):
    model = make_model(backbone, "fac")
    model.save_adapter(tmp_path / "fac", "fac")
    torch.save(batch(), tmp_path / "inputs.pt")
    with running_hub() as hub:
        first = hub.commit("org/fac", {one.name: one.read_bytes() for one in (tmp_path / "fac").iterdir()})
        online = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test", "offline": False}
        run_python(PUSHING.replace("FIRST", first), tmp_path, package=True, **online)
        shake(model, seed=7).save_adapter(tmp_path / "newer", "fac")
        hub.commit("org/fac", {one.name: one.read_bytes() for one in (tmp_path / "newer").iterdir()})
        loaded = run_python(LOADING, tmp_path, **{**online, "HF_HUB_CACHE": str(tmp_path / "fresh")})
    assert loaded.returncode == 0
