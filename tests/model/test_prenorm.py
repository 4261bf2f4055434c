"""Pre-norm adapters beside encoders: a lean kind that changes nothing before it is trained."""

import json

import pytest
import torch
from helpers import batch, make_model, output, run_python, save_backbone, shake, tiny_backbone
from tiny_decoders import small_prenorm, teach

from kadapter import (
    KAdapterForEntityClassification,
    KAdapterModel,
    KnowledgeAdapterConfig,
    PreNormAdapter,
    PreNormAdapterConfig,
)

FAMILIES = ["roberta", "bert", "distilbert", "deberta-v2"]


def model_of(*names, family="roberta", trained=True, **kwargs):
    adapters = {name: small_prenorm() for name in names}
    model = KAdapterModel.from_backbone(tiny_backbone(family), adapters=adapters, **kwargs).eval()
    return teach(model) if trained else model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_adapter_changes_no_bit_under_any_fusion_without_weights(family):
    for fusion in ("add", "delta"):
        model = model_of("fac", family=family, trained=False, fusion=fusion)
        with torch.no_grad():
            found = model(**batch(family))
        assert torch.equal(found.last_hidden_state, found.backbone_hidden_state)
        assert not found.adapter_hidden_states["fac"].any()
        teach(model)
        assert not torch.equal(output(model, **batch(family)), found.last_hidden_state)


def test_an_adapter_is_what_its_formula_says():
    model = model_of("fac")
    adapter, inputs = model.adapters["fac"], batch()
    with torch.no_grad():
        states = model.tap(**inputs)
        h = torch.zeros(3, 9, 32)
        for layer, at in zip(adapter.layers, (0, 2, 4), strict=True):
            inner = layer.down_project(states[at] / states[at].square().mean(-1, keepdim=True).add(1e-6).sqrt() + h)
            for block in layer.blocks:
                normed = block.attention_norm(inner)
                query, key, value = block.attention.query_key_value(normed).chunk(3, dim=-1)
                contexts = []
                for head in (slice(0, 8), slice(8, 16)):
                    scores = query[..., head] @ key[..., head].transpose(1, 2) / 8**0.5
                    scores = scores.masked_fill(inputs["attention_mask"][:, None] == 0, -torch.inf)
                    contexts.append(scores.softmax(-1) @ value[..., head])
                inner = inner + block.attention.dense(torch.cat(contexts, dim=-1))
                middle = torch.nn.functional.gelu(block.intermediate(block.output_norm(inner)))
                inner = inner + block.output(middle)
            h = h + layer.up_project(inner)
        found = model(**inputs)
    assert torch.allclose(found.adapter_hidden_states["fac"], h, atol=1e-5)
    assert torch.equal(found.last_hidden_state, found.backbone_hidden_state + found.adapter_hidden_states["fac"])


def test_it_looks_both_ways_beside_an_encoder_and_sees_no_padding():
    model = model_of("fac")
    assert model.config.adapters["fac"]["causal"] is False
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]])
    with torch.no_grad():
        states = model(input_ids=ids).adapter_hidden_states["fac"]
    assert (states[0, 0] - states[1, 0]).abs().max() > 1e-4
    inputs, padded = batch(), batch(extra=3)
    real = inputs["attention_mask"].bool()
    assert torch.allclose(output(model, **inputs)[real], output(model, **padded)[:, :9][real], atol=1e-5)


def test_one_that_is_asked_to_look_back_only_does_so_beside_an_encoder_too():
    adapters = {"fac": small_prenorm(causal=True)}
    model = teach(KAdapterModel.from_backbone(tiny_backbone(), adapters=adapters).eval())
    states = {layer: torch.randn(1, 5, 32) for layer in (0, 2, 4, -1)}
    later = {layer: torch.cat([state[:, :4], torch.randn(1, 1, 32)], dim=1) for layer, state in states.items()}
    with torch.no_grad():
        before, after = (model(hidden_states=dict(tapped)).adapter_hidden_states["fac"] for tapped in (states, later))
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.equal(before[:, 4], after[:, 4])


def test_no_scale_of_the_tapped_states_matters():
    adapter = PreNormAdapter(small_prenorm().for_backbone(4, 32), 32).eval()
    torch.nn.init.normal_(adapter.layers[-1].up_project.weight)
    states = [torch.randn(2, 5, 32) for _ in range(3)]
    with torch.no_grad():
        usual, large = adapter(states, None), adapter([state * 24_580 for state in states], None)
    assert torch.allclose(usual, large, atol=1e-4) and usual.abs().max() > 0.1


def test_it_stands_beside_a_published_adapter_and_changes_no_bit_of_it(tmp_path):
    backbone = save_backbone(tmp_path / "backbone")
    model = make_model(backbone, "fac")
    with torch.no_grad():
        before = model(**batch()).adapter_hidden_states["fac"]
    model.add_adapter("lean", small_prenorm())
    shake(model.adapters["lean"])
    with torch.no_grad():
        both = model(**batch())
    assert torch.equal(both.adapter_hidden_states["fac"], before)
    model.save_adapter(tmp_path / "lean", "lean")
    model.save_adapter(tmp_path / "fac", "fac")
    again = KAdapterModel.from_pretrained([tmp_path / "fac", tmp_path / "lean"])
    assert torch.equal(output(again), both.last_hidden_state)
    written = json.loads((tmp_path / "lean" / "config.json").read_text(encoding="utf-8"))["adapters"]["lean"]
    assert written["kind"] == "prenorm" and written["causal"] is False


def test_a_head_that_reads_a_few_positions_reads_what_all_positions_hold(tmp_path):
    adapters = {"fac": small_prenorm()}
    backbone = save_backbone(tmp_path / "backbone")
    model = KAdapterForEntityClassification.from_backbone(backbone, adapters=adapters, num_labels=3).eval()
    teach(model)
    positions = torch.tensor([[4], [2], [1]])
    states = model.read(**batch(), entity_positions=positions)
    with torch.no_grad():
        everywhere = model.base_model(**batch()).adapter_hidden_states["fac"]
    assert torch.allclose(states["adapters.fac"][:, 0], everywhere[torch.arange(3), positions[:, 0]], atol=1e-6)


def test_all_of_it_learns_with_activation_checkpointing_as_without():
    model = model_of("fac")
    model.train_adapter("fac")
    model.train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(**batch()).last_hidden_state.square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.adapters["fac"].parameters()])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*gradients, strict=True))
    assert all(gradient.any() for gradient in gradients[0][1:])


def test_what_is_left_out_of_its_shape_is_filled_in_and_stored():
    shape = PreNormAdapterConfig().for_backbone(12, 768)
    assert (shape.hidden_size, shape.num_attention_heads, shape.intermediate_size) == (192, 3, 768)
    assert list(shape.layers) == [0, 5, 10] and shape.causal is False
    assert PreNormAdapterConfig().for_backbone(12, 768, causal=True).causal is True
    assert PreNormAdapterConfig(causal=False).for_backbone(12, 768, causal=True).causal is False
    assert KnowledgeAdapterConfig.from_dict(shape.to_dict()) == shape
    assert shape.description.endswith("2 blocks, 3 heads, bidirectional")


@pytest.mark.parametrize(
    ("values", "error", "sentence"),
    [
        ({"skip_layers": 2}, ValueError, "skip_layers=2 means nothing for a pre-norm adapter; leave it out"),
        ({"mask_padding": False}, ValueError, "mask_padding=False means nothing for a pre-norm adapter"),
        ({"hidden_act": "geluu"}, ValueError, "hidden_act='geluu' must be one of .*did you mean 'gelu'"),
        ({"hidden_size": 50, "num_attention_heads": 3}, ValueError, "hidden_size=50 .* must be divisible by"),
        ({"layers": [3, 3]}, ValueError, "strictly increasing"),
        ({"causal": "yes"}, TypeError, "causal='yes' makes no pre-norm adapter"),
    ],
)
def test_what_makes_no_adapter_is_refused_in_a_sentence(values, error, sentence):
    with pytest.raises(error, match=sentence):
        PreNormAdapterConfig(**values)


@pytest.mark.thorough
@pytest.mark.slow
def test_its_file_travels_with_its_artifact_as_remote_code(tmp_path):
    backbone = save_backbone(tmp_path / "backbone")
    model = KAdapterModel.from_backbone(backbone, adapters={"lean": small_prenorm()}).eval()
    teach(model).save_adapter(tmp_path / "lean", "lean")
    torch.save(output(model), tmp_path / "expected.pt")
    torch.save(batch(), tmp_path / "inputs.pt")
    code = """
import torch
from transformers import AutoModel, AutoModelForSequenceClassification
inputs, expected = (torch.load(f"{name}.pt", weights_only=True) for name in ("inputs", "expected"))
with torch.no_grad():
    found = AutoModel.from_pretrained("lean", trust_remote_code=True)(**inputs).last_hidden_state
assert torch.equal(found, expected)
head = AutoModelForSequenceClassification.from_pretrained("lean", trust_remote_code=True, num_labels=2)
assert head(**inputs).logits.shape == (3, 2)
"""
    assert run_python(code, tmp_path).returncode == 0
