"""The official code (microsoft/K-Adapter, commit 43651cd), number by number; see golden/README.md."""

import pytest
import torch
from helpers import GOLDEN, golden
from transformers import RobertaConfig, RobertaModel

from kadapter import (
    KAdapterForDependencyParsing,
    KAdapterForEntityPairClassification,
    KAdapterModel,
    KnowledgeAdapterConfig,
)

PRETRAINING = ("pretrain_fac.skip0", "pretrain_fac.skip2", "pretrain_fac.skip3", "pretrain_lin")
TASKS = sorted(path.stem for path in GOLDEN.glob("RobertaModelwithAdapter.*"))
# Our names for the official ones, in the order in which they are replaced.
NAMES = (
    ("encoder.layer.", "blocks."),
    (".attention.self.", ".attention."),
    (".attention.output.dense", ".attention.dense"),
    (".attention.output.LayerNorm", ".attention.layer_norm"),
    (".intermediate.dense", ".intermediate"),
    (".output.dense", ".output"),
    (".output.LayerNorm", ".layer_norm"),
    ("self_attention.self.", "head.attention."),
    ("self_attention.output.dense", "head.attention.dense"),
    ("self_attention.output.LayerNorm", "head.attention.layer_norm"),
)


def ours(key, name):
    """Our name for a tensor of the official pre-training model of adapter `name`."""
    if key.startswith("adapter."):
        key = f"kadapter.adapters.{name}.layers.{key.removeprefix('adapter.')}"
    elif key.startswith("com_dense."):
        key = key.replace("com_dense", f"kadapter.fusion.projections.{name}")
    elif key.startswith(("dense.", "out_proj.")):
        key = f"head.{key}"
    if key.startswith("self_attention."):
        return next(key.replace(old, new) for old, new in NAMES[7:] if old in key)
    for old, new in NAMES[:7]:
        if not (old == ".output.dense" and ".attention." in key):
            key = key.replace(old, new)
    return key


@pytest.fixture(scope="module")
def backbone():
    config = RobertaConfig(
        vocab_size=120,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=66,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    module = RobertaModel(config, add_pooling_layer=False)
    module.load_state_dict({key.removeprefix("model."): one for key, one in golden("backbone").items()})
    return module.eval()


def adapter_config(skip=0):
    return KnowledgeAdapterConfig(
        layers=[0, 2, 4],
        hidden_size=48,
        num_attention_heads=4,
        intermediate_size=96,
        skip_layers=skip,
        mask_padding=False,
    )


def pretraining(case, backbone):
    """The pre-training model of a case with the official weights, its inputs and all that was recorded."""
    kind, _, skip = case.removeprefix("pretrain_").partition(".skip")
    adapters = {kind: adapter_config(int(skip or 0))}
    if kind == "fac":
        model = KAdapterForEntityPairClassification.from_backbone(
            backbone, fusion="concat", adapters=adapters, num_labels=7
        )
    else:
        model = KAdapterForDependencyParsing.from_backbone(
            backbone, fusion="concat", adapters=adapters, dependency_head="official", num_positions=16
        )
    model.load_state_dict({ours(key, kind): one for key, one in golden(kind).items()})
    recorded = golden(case)
    names = ("input_ids", "attention_mask", "labels")
    inputs = {name: recorded[f"inputs.{name}"] for name in names}
    inputs["position_ids"] = torch.arange(2, 18).expand(3, -1)
    if kind == "fac":
        opening = [recorded[f"inputs.{one}_special_start_id"].argmax(dim=1) for one in ("subj", "obj")]
        inputs["entity_positions"] = torch.stack(opening, dim=1)
    return model.eval(), inputs, recorded, kind


def assert_close(found, expected, tolerance, what):
    worst, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    assert worst <= tolerance * largest, f"{what}: {worst / largest:.2e} of its largest entry"


@pytest.mark.parametrize("case", PRETRAINING)
def test_the_pre_training_models_give_the_official_logits_and_loss(case, backbone):
    model, inputs, recorded, _ = pretraining(case, backbone)
    with torch.no_grad():
        found = model(**inputs)
    assert_close(found.logits, recorded["outputs.logits"], 2e-6, "logits")
    assert_close(found.loss, recorded["outputs.loss"], 2e-6, "loss")


@pytest.mark.parametrize("case", PRETRAINING)
def test_every_parameter_gets_the_official_gradient(case, backbone):
    model, inputs, recorded, kind = pretraining(case, backbone)
    model(**inputs).loss.backward()
    parameters = dict(model.named_parameters())
    gradients = {key.removeprefix("grads."): one for key, one in recorded.items() if key.startswith("grads.")}
    assert len(gradients) == len([one for one in parameters.values() if one.requires_grad])
    for key, expected in gradients.items():
        found = parameters[ours(key, kind)].grad.flatten()
        sample, largest = expected[:-1], expected[-1]
        worst = (found[:: max(1, found.numel() // 24)] - sample).abs().max()
        # A key's bias shifts all scores of a query alike, which softmax does not see: its true gradient is zero, and
        # what is recorded is rounding alone. There only the size can be compared.
        floor = 1e-7 if key.endswith("key.bias") else 0.0
        assert worst <= 1e-5 * largest + floor, f"{key}: {worst / largest:.2e} of its largest entry"
        assert abs(found.abs().max() - largest) <= 1e-5 * largest + floor, key


@pytest.mark.parametrize("case", ["pretrain_fac.skip0", "pretrain_lin"])
def test_each_adapter_layer_takes_and_gives_the_official_states(case, backbone):
    model, inputs, recorded, kind = pretraining(case, backbone)
    seen = {}
    for number, layer in enumerate(model.base_model.adapters[kind].layers):
        layer.register_forward_hook(
            lambda _, given, result, number=number: seen.update(
                {f"outputs.adapter{number}.in": given[0], f"outputs.adapter{number}.out": result}
            )
        )
    with torch.no_grad():
        model(**inputs)
    compared = [key for key in seen if key in recorded]
    assert len(compared) == (6 if kind == "fac" else 3)
    for key in compared:
        assert_close(seen[key], recorded[key], 2e-6, key)


@pytest.mark.parametrize("case", ["pretrain_fac.skip2", "pretrain_fac.skip3"])
def test_the_last_layer_gives_the_official_state_whatever_is_skipped(case, backbone):
    model, inputs, recorded, _ = pretraining(case, backbone)
    seen = []
    model.base_model.adapters["fac"].layers[-1].register_forward_hook(lambda _, given, result: seen.append(result))
    with torch.no_grad():
        model(**inputs)
    assert_close(seen[0], recorded["outputs.adapter_last_raw"], 2e-6, "the last layer's output")


@pytest.mark.parametrize("case", TASKS)
def test_both_fusions_give_the_official_features(case, backbone):
    kinds, fusion = case.partition(".")[2].rsplit("_", 1)
    names = kinds.removeprefix("single_").split("_")
    adapters = {name: adapter_config() for name in names}
    model = KAdapterModel.from_backbone(backbone, adapters=adapters, fusion=fusion).eval()
    weights = {}
    for name in names:
        every = {ours(key, name).removeprefix("kadapter."): one for key, one in golden(name).items()}
        weights.update({key: one for key, one in every.items() if key.startswith("adapters.")})
    if fusion == "concat":
        task = golden("task")
        for kind in ("weight", "bias"):
            weights.update({f"fusion.projections.{name}.{kind}": task[f"task_dense_{name}.{kind}"] for name in names})
            if len(names) > 1:
                weights[f"fusion.combine.{kind}"] = task[f"task_dense.{kind}"]
    model.load_state_dict(weights)
    recorded = golden(case)
    inputs = {name: recorded[f"inputs.{name}"] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found = model(**inputs, position_ids=torch.arange(2, 18).expand(3, -1))
    assert_close(found.last_hidden_state, recorded["outputs.task_features"], 2e-6, "fused features")
    for name in names:
        if f"outputs.{name}_adapter.out" in recorded:
            assert_close(found.adapter_hidden_states[name], recorded[f"outputs.{name}_adapter.out"], 2e-6, name)
