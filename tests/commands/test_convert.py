"""Checkpoints of the official code become artifacts that compute what the official code computed, to the digit."""

import json
from pathlib import Path

import pytest
import torch
from official_cases import HEADS, LAYERS, SHARED, SMALL, Case, cases, save_backbone, save_official, small_case, wrapped
from safetensors.torch import load_file
from transformers import RobertaConfig, RobertaModel
from typer.testing import CliRunner

import kadapter
from kadapter import (
    KAdapterForDependencyParsing,
    KAdapterForEntityPairClassification,
    KAdapterModel,
    KnowledgeAdapterConfig,
)
from kadapter.commands import app
from kadapter.official.convert import convert_official, official_names

TASKS = ("TACRED.", "openentity.", "figer.", "cosmosqa.")
SHAPE = {"layers": LAYERS, "num_attention_heads": HEADS}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_backbone(load_file(SMALL / "backbone.safetensors"), HEADS, tmp_path_factory.mktemp("backbone"))


def file_of(layout: str, folder: Path) -> Path:
    """A small official file of any layout: a golden case, or a fine-tuned model of the sizes of a task."""
    if layout in ("fac", "lin"):
        return SMALL / f"{layout}.safetensors"
    if not layout.startswith("tuned"):
        return save_official(small_case(layout).tensors, folder / f"{layout}.safetensors")
    width, mentions = 32, 2 if "pair" in layout else 1
    head = {"dense.weight": (width, mentions * width), "dense.bias": (width,), "out_proj.weight": (5, width)}
    tensors = {**wrapped("fac", "lin"), **load_file(SMALL / "task.safetensors"), "out_proj.bias": torch.randn(5)}
    tensors.update({key: torch.randn(shape) for key, shape in head.items()})
    return save_official(tensors, folder / f"{layout}.bin")


def converted(case: Case, folder: Path, *options: str):
    """The model of a case: by the command line to a directory, and from there by from_pretrained."""
    place = save_backbone(case.backbone, case.backbone_heads, folder / "backbone")
    file = save_official(case.tensors, folder / "pytorch_model.bin")
    words = ["convert", "--official", str(file), "--backbone", str(place), *case.options(), "-o", str(folder / "out")]
    result = CliRunner().invoke(app, [*words, *options])
    assert result.exit_code == 0, result.output
    (kind,) = json.loads((folder / "out" / "config.json").read_text())["architectures"]
    return getattr(kadapter, kind).from_pretrained(folder / "out")


def assert_close(ours: torch.Tensor, official: torch.Tensor, tolerance: float) -> None:
    difference, largest = (ours - official).abs().max().item(), official.abs().max().item()
    assert difference <= tolerance * largest, f"differs by {difference}, {difference / largest} of {largest}"


def assert_same_gradient(name: str, ours: torch.Tensor, case: Case) -> None:
    """Compare a gradient with the recorded one, or with every n-th entry of it and its largest."""
    official = case.grads[name]
    if case.sampled:
        flat = ours.flatten()
        ours = torch.cat([flat[:: max(1, flat.numel() // 24)], flat.abs().max()[None]])
    # A key's bias adds one number to all scores of a query, and a bias behind the adapters one to all choices, which
    # softmax forgets: its gradient is zero, and what is recorded is rounding, about 1e-8 of the other gradients.
    floor = 1e-2 if "cosmosqa." in case.name and name.endswith(".bias") else 1e-3 if name.endswith("key.bias") else 0.0
    largest = max(official.abs().max().item(), floor)
    difference = (ours - official).abs().max().item()
    assert difference <= 1e-5 * largest, f"the gradient of {name} differs by {difference} of {largest}"


# ---- exactness ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", cases("pretrain_"))
def test_a_converted_pretraining_model_has_the_official_outputs_and_gradients(make, tmp_path):
    case = make[0](make[1])
    model = converted(case, tmp_path, "--keep-head", "--name", case.adapter_name)
    model.train_adapter(case.adapter_name)
    output = model(**case.model_inputs())
    assert_close(output.logits, case.outputs["logits"], 2e-6)
    assert_close(output.loss[None], case.outputs["loss"].reshape(1), 2e-6)
    output.loss.backward()
    parameters, names = dict(model.named_parameters()), official_names(model)
    assert sorted(names.values()) == sorted(case.grads) == sorted(case.tensors)
    for ours, official in names.items():
        assert_same_gradient(official, parameters[ours].grad, case)


@pytest.mark.parametrize("make", cases("RobertaModelwithAdapter."))
def test_a_converted_model_with_adapters_has_the_official_outputs(make, tmp_path):
    case = make[0](make[1])
    model = converted(case, tmp_path)
    output = model(**case.model_inputs())
    assert_close(output.last_hidden_state, case.outputs["task_features"], 2e-6)
    for name, states in output.adapter_hidden_states.items():
        if f"{name}_adapter.out" in case.outputs:
            assert_close(states, case.outputs[f"{name}_adapter.out"], 2e-6)
    assert model.config.fusion == case.name.rpartition("_")[2]
    assert not model.config.backbone_modified


@pytest.mark.parametrize("make", cases("pretrain_fac.skip0", "pretrain_fac.skip2", "pretrain_lin"))
def test_without_its_head_a_pretraining_file_gives_the_adapter_alone(make, tmp_path):
    case = make[0](make[1])
    model = converted(case, tmp_path, "--drop-head", "--name", "facts")
    output = model(
        **{key: one for key, one in case.model_inputs().items() if key not in ("labels", "entity_positions")}
    )
    last_layer = "adapter_last_raw" if "adapter_last_raw" in case.outputs else f"adapter{len(case.layers) - 1}.out"
    assert_close(output.adapter_hidden_states["facts"], case.outputs[last_layer], 2e-6)
    assert model.config.fusion == "add"
    parameters = dict(model.named_parameters())
    for ours, official in official_names(model).items():
        assert torch.equal(parameters[ours], case.tensors[official])


@pytest.mark.parametrize("make", cases(*TASKS))
def test_a_converted_task_model_has_the_official_logits_and_loss(make, tmp_path):
    case = make[0](make[1])
    model = converted(case, tmp_path, "--keep-head")
    assert set(official_names(model).values()) == set(case.tensors)
    with torch.no_grad():
        output = model(**case.model_inputs())
        inputs = case.model_inputs()
        labels = inputs.pop("labels")
        again = model(states=model.read(**inputs), labels=labels)
    assert_close(output.logits, case.outputs["logits"], 1e-5)
    assert_close(output.loss[None], case.outputs["loss"].reshape(1), 1e-5)
    assert torch.equal(again.logits, output.logits) and torch.equal(again.loss, output.loss)


@pytest.mark.parametrize("make", cases(*TASKS))
def test_a_task_models_gradients_are_the_official_ones_and_flow_through_frozen_adapters(make, tmp_path):
    case = make[0](make[1])
    model = converted(case, tmp_path, "--keep-head")
    model.train_adapter([])
    backbone = model.base_model.backbone.requires_grad_(True)
    backbone.embeddings.word_embeddings.padding_idx = 0  # of whose row the official code keeps no gradient
    model(**case.model_inputs()).loss.backward()
    names = official_names(model)
    found = {names[ours]: one.grad for ours, one in model.named_parameters() if ours in names and one.grad is not None}
    found = {key: one for key, one in found.items() if not key.startswith("model.")}
    assert set(found) == set(case.grads)
    for official, gradient in found.items():
        assert_same_gradient(official, gradient, case)
    norm = torch.stack([one.grad.norm() for one in backbone.parameters() if one.grad is not None]).norm()
    assert_close(norm[None], torch.tensor([case.backbone_grad_norm]), 1e-5)


@pytest.mark.parametrize("make", cases(*TASKS))
def test_a_fine_tuned_file_gives_its_adapters_and_fusion_bit_for_bit(make, tmp_path):
    case = make[0](make[1])
    model = converted(case, tmp_path)
    names = official_names(model)
    head = {key for key in case.tensors if key.startswith(("dense.", "out_proj.", "classifier."))}
    assert set(names.values()) == set(case.tensors) - head
    assert all(torch.equal(model.get_parameter(ours), case.tensors[official]) for ours, official in names.items())


# ---- layouts and names --------------------------------------------------------------------------------------------

ALL = [
    *(("fac", True), ("fac", False), ("lin", True), ("lin", False), ("tuned-pair", True), ("tuned-typing", False)),
    *((file.stem, False) for file in sorted(SMALL.glob("RobertaModelwithAdapter.*"))),
]


@pytest.mark.parametrize(("layout", "keep_head"), ALL)
def test_every_parameter_has_an_official_name_and_the_tensor_of_that_name(layout, keep_head, backbone, tmp_path):
    file = file_of(layout, tmp_path)
    name = layout if layout in ("fac", "lin") else None
    model = convert_official(file, backbone, **SHAPE, name=name, keep_head=keep_head)
    model.save_pretrained(tmp_path / "out")
    names = official_names(type(model).from_pretrained(tmp_path / "out"))
    assert names == official_names(model)
    assert set(names) == {key for key, _ in model.named_parameters() if "backbone." not in key}
    tensors = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    assert all(torch.equal(model.get_parameter(ours), tensors[official]) for ours, official in names.items())


def test_models_that_were_never_converted_have_official_names_too(backbone):
    shape = KnowledgeAdapterConfig(layers=LAYERS, hidden_size=48, num_attention_heads=4, intermediate_size=96)
    model = KAdapterModel.from_backbone(backbone, fusion="concat", adapters={"fac": shape, "lin": shape})
    file = small_case("RobertaModelwithAdapter.fac_lin_concat").tensors
    assert set(official_names(model).values()) == {key for key in file if not key.startswith("model.")}
    single = KAdapterModel.from_backbone(backbone, adapters={"lin": shape})
    assert set(official_names(single).values()) == set(wrapped("lin"))
    pair = KAdapterForEntityPairClassification.from_backbone(backbone, fusion="concat", adapters={"fac": shape})
    assert set(official_names(pair).values()) == set(load_file(SMALL / "fac.safetensors"))
    model.config.backbone_modified = True
    assert set(official_names(model).values()) == set(file)


def test_a_renamed_adapter_keeps_the_official_names_of_its_file(backbone, tmp_path):
    file = file_of("RobertaModelwithAdapter.single_lin_concat", tmp_path)
    convert_official(file, backbone, **SHAPE, name="grammar").save_pretrained(tmp_path / "out")
    model = KAdapterModel.from_pretrained(tmp_path / "out")
    assert list(model.config.adapters) == ["grammar"]
    assert set(official_names(model).values()) == {*wrapped("lin"), "task_dense_lin.weight", "task_dense_lin.bias"}


@pytest.mark.parametrize("name", ["fac", "lin"])
def test_at_full_size_names_and_shapes_are_those_of_the_released_files(name):
    file = SHARED / f"statedict_{name}_roberta-large.json"
    if not file.exists():
        pytest.skip("../shared/golden/kadapter is not here")
    large = RobertaConfig(vocab_size=9, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16)
    fields = {"fac": {"num_labels": 410}, "lin": {"dependency_head": "official", "num_positions": 64}}[name]
    kind = {"fac": KAdapterForEntityPairClassification, "lin": KAdapterForDependencyParsing}[name]
    with torch.device("meta"):
        model = kind.from_backbone(RobertaModel(large), fusion="concat", adapters={name: {}}, **fields)
    assert model.config.adapter_config(name).layers == [0, 11, 22]
    shapes = {official: list(model.get_parameter(ours).shape) for ours, official in official_names(model).items()}
    assert shapes == json.loads(file.read_text())


def test_adapters_converted_apart_and_composed_are_told_apart_by_name(backbone, tmp_path):
    for name in ("fac", "lin"):
        convert_official(SMALL / f"{name}.safetensors", backbone, **SHAPE, name=name).save_pretrained(tmp_path / name)
    model = KAdapterModel.from_pretrained([tmp_path / "fac", tmp_path / "lin"])
    assert set(official_names(model).values()) == set(wrapped("fac", "lin"))


def test_a_head_that_the_official_code_does_not_have_has_no_official_names(backbone):
    model = KAdapterForDependencyParsing.from_backbone(backbone, adapters={"lin": {"layers": [0]}})
    with pytest.raises(ValueError, match=r"the official code has no head with a parameter like 'dependent\.weight'"):
        official_names(model)


@pytest.mark.parametrize("zipped", [True, False])
def test_bin_files_of_old_and_new_torch_hold_the_same(zipped, backbone, tmp_path):
    tensors = load_file(SMALL / "fac.safetensors")
    torch.save(tensors, tmp_path / "old.bin", _use_new_zipfile_serialization=zipped)
    model = convert_official(tmp_path / "old.bin", backbone, **SHAPE, name="fac")
    names = official_names(model)
    assert all(torch.equal(model.get_parameter(ours), tensors[official]) for ours, official in names.items())


def test_fusion_add_leaves_the_learned_projections_out_and_says_so(backbone, tmp_path):
    said = []
    file = file_of("RobertaModelwithAdapter.fac_lin_concat", tmp_path)
    model = convert_official(file, backbone, **SHAPE, fusion="add", log=said.append)
    assert model.config.fusion == "add"
    assert any("task_dense, task_dense_fac, task_dense_lin" in line for line in said)


def test_a_file_that_names_its_adapters_makes_no_use_of_a_name(backbone, tmp_path):
    said = []
    file = file_of("RobertaModelwithAdapter.fac_lin_add", tmp_path)
    model = convert_official(file, backbone, **SHAPE, name="both", log=said.append)
    assert list(model.config.adapters) == ["fac", "lin"]
    assert "name 'both' is not used: the file names its adapters fac and lin" in said


# ---- the backbone -------------------------------------------------------------------------------------------------


def test_a_backbone_that_was_trained_along_is_saved_and_loaded_with_the_adapters(backbone, tmp_path):
    said, tensors = [], small_case("RobertaModelwithAdapter.fac_lin_concat").tensors
    key = "model.encoder.layer.1.output.dense.weight"
    tensors[key] = tensors[key] + 0.01
    file = save_official(tensors, tmp_path / "tuned.bin")
    convert_official(file, backbone, **SHAPE, log=said.append).save_pretrained(tmp_path / "out")
    model = KAdapterModel.from_pretrained(tmp_path / "out")
    names = official_names(model)
    assert set(names.values()) == set(tensors)
    assert all(torch.equal(model.get_parameter(ours), tensors[official]) for ours, official in names.items())
    assert any("differs from" in line and "in 1 of 69 tensors" in line for line in said)


def test_an_equal_backbone_is_not_saved_again(backbone, tmp_path):
    said = []
    file = file_of("RobertaModelwithAdapter.fac_lin_add", tmp_path)
    convert_official(file, backbone, **SHAPE, log=said.append).save_pretrained(tmp_path / "out")
    assert not any("backbone" in key for key in load_file(tmp_path / "out" / "model.safetensors"))
    assert any("bit for bit and is not saved again" in line for line in said)


def test_a_fine_tuned_file_without_its_backbone_is_converted_with_a_warning(backbone, tmp_path):
    said = []
    convert_official(file_of("tuned-pair", tmp_path), backbone, **SHAPE, keep_head=True, log=said.append)
    assert any("holds no backbone, and the official script fine-tuned its backbone" in line for line in said)
