"""A verb that fails leaves the model as it was, and what it says is a sentence."""

import json

import pytest
import torch
from helpers import batch, bytes_of, make_model, output, save_backbone, small_adapter
from safetensors import safe_open
from safetensors.torch import save_file

from kadapter import KAdapterForSequenceClassification, KAdapterModel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("artifacts")
    backbone = save_backbone(folder / "backbone")
    for name in ("fac", "lin"):
        make_model(backbone, name).save_pretrained(folder / name)
    return folder


@pytest.fixture
def model(folder):
    return KAdapterModel.from_pretrained(folder / "fac")


def with_tensors(folder, target, change):
    """A copy of the adapter lin whose tensors are changed, its record and hashes as they were."""
    target.mkdir()
    (target / "config.json").write_bytes((folder / "lin" / "config.json").read_bytes())
    with safe_open(folder / "lin" / "model.safetensors", framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {key: change(key, opened.get_tensor(key)) for key in opened.keys()}  # noqa: SIM118 (not a dict)
    save_file(tensors, target / "model.safetensors", metadata=metadata)
    return target


def state_of(model):
    active, enabled = model.active_adapters(), model.base_model.adapters.enabled
    return json.dumps(model.config.adapters, default=str), active, enabled, bytes_of(model.base_model.adapters)


NAMES = ("_modules", "_parameters", "_forward_hooks", "training", "keys", "state_dict", "half", "T_destination")
FAILING = {
    "an unknown activation": lambda model: model.add_adapter("own", {"hidden_act": "glu"}),
    "a layer beyond the encoder": lambda model: model.add_adapter("own", {"layers": [0, 9]}),
    "a taken name": lambda model: model.add_adapter("fac", small_adapter()),
    "an unknown adapter beside a known one": lambda model: model.delete_adapter(["fac", "nowhere"]),
    "an unknown adapter to train": lambda model: model.train_adapter(["fac", "nowhere"]),
    **{f"the name {name}": lambda model, name=name: model.add_adapter(name, small_adapter()) for name in NAMES},
}


@pytest.mark.parametrize("fail", FAILING.values(), ids=FAILING.keys())
def test_a_verb_that_fails_leaves_model_and_next_save_as_they_were(model, tmp_path, fail):
    before = state_of(model)
    with pytest.raises(ValueError, match=r"\w"):
        fail(model)
    assert state_of(model) == before
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(output(KAdapterModel.from_pretrained(tmp_path / "saved")), output(model))


DTYPES = {
    "int8": lambda key, tensor: tensor.to(torch.int8),
    "float8": lambda key, tensor: tensor.to(torch.float8_e4m3fn),
    "bool": lambda key, tensor: tensor > 0,
    "one float16 among float32": lambda key, tensor: tensor.half() if "down_project.bias" in key else tensor,
}


@pytest.mark.parametrize("change", DTYPES.values(), ids=DTYPES.keys())
def test_tensors_of_a_dtype_that_can_not_be_used_are_refused_and_leave_no_phantom(folder, model, tmp_path, change):
    changed, before = with_tensors(folder, tmp_path / "changed", change), state_of(model)
    with pytest.raises(ValueError, match=r"tensor 'adapters\.lin\..*' is torch\."):
        model.load_adapter(changed)
    assert state_of(model) == before
    with pytest.raises(ValueError, match=r"tensor 'adapters\.lin\..*' is torch\."):
        KAdapterModel.from_pretrained(changed)


@pytest.mark.parametrize("dtype", [torch.int8, "int8", torch.float8_e4m3fn, torch.bool, torch.complex64])
def test_a_dtype_that_can_not_be_computed_with_is_refused(folder, dtype):
    with pytest.raises(ValueError, match=r"dtype=torch\.\w+ can't be computed with; give one of torch\.float32"):
        KAdapterModel.from_pretrained(folder / "fac", dtype=dtype)


def test_adapters_of_two_dtypes_may_stand_side_by_side(folder, tmp_path):
    half = with_tensors(folder, tmp_path / "half", lambda key, tensor: tensor.bfloat16())
    model = KAdapterModel.from_pretrained(folder / "fac")
    model.load_adapter(half, verify=False)  # the hash beside it is that of float32
    model.save_pretrained(tmp_path / "both")
    assert torch.equal(output(KAdapterModel.from_pretrained(tmp_path / "both")), output(model))


def test_an_adapter_named_twice_is_deleted_once(folder):
    model = KAdapterModel.from_pretrained([folder / "fac", folder / "lin"])
    model.delete_adapter(["fac", "fac"])
    assert list(model.adapters) == ["lin"]


@pytest.mark.parametrize("shape", [(3, 8), (3, 10), (2, 9), (9,), (3, 1, 9, 9)])
def test_a_mask_of_another_shape_than_the_inputs_is_named(folder, shape):
    model = KAdapterForSequenceClassification.from_pretrained(folder / "fac", num_labels=2)
    inputs = {**batch(), "attention_mask": torch.ones(shape, dtype=torch.long)}
    for part in (model, model.kadapter):
        with pytest.raises(ValueError, match=r"attention_mask has shape .* must have \(3, 9\)"):
            part(**inputs)
