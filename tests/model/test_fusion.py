"""Fusions and control adapters: what they start as, what they learn, what stays out."""

import re

import pytest
import torch
from helpers import batch, bytes_of, make_model, output, save_backbone, shake, small_adapter, tiny_backbone
from torch.nn import functional as F
from transformers import AutoModel

from kadapter import KAdapterConfig, KAdapterForSequenceClassification, KAdapterModel, KnowledgeAdapterConfig

GATED = ["gated", "gated_token"]


def gated(*names, fusion="gated", **kwargs):
    adapters = {name: small_adapter() for name in names}
    return KAdapterModel.from_backbone(tiny_backbone(), adapters=adapters, fusion=fusion, **kwargs).eval()


def test_the_largest_contribution_at_each_token_is_added_and_no_other(tmp_path):
    backbone = save_backbone(tmp_path / "backbone")
    model = make_model(backbone, "fac", "lin", fusion="max")
    with torch.no_grad():
        found = model(**batch())
    first = torch.tensor([True, False, False, True])[None, :, None]  # each is the larger somewhere
    last, large, small = torch.randn(1, 4, 32), torch.full((1, 4, 32), 2.0), torch.full((1, 4, 32), -1.0)
    contributions = {"fac": torch.where(first, large, small), "lin": torch.where(first, small, large)}
    assert torch.equal(model.fusion(last, contributions), last + large)
    sizes = [states.norm(dim=-1, keepdim=True) for states in found.adapter_hidden_states.values()]
    chosen = torch.where(sizes[0] >= sizes[1], *found.adapter_hidden_states.values())
    assert torch.equal(found.last_hidden_state, found.backbone_hidden_state + chosen)
    model.set_adapter("lin")
    alone = found.backbone_hidden_state + found.adapter_hidden_states["lin"]
    assert torch.equal(output(model), alone)
    model.disable_adapters()
    assert torch.equal(output(model), found.backbone_hidden_state)
    model.enable_adapters()
    for name in ("fac", "lin"):
        model.save_adapter(tmp_path / name, name)
    again = KAdapterModel.from_pretrained([tmp_path / "fac", tmp_path / "lin"])
    assert again.config.fusion == "max" and torch.equal(output(again), found.last_hidden_state)
    added = KAdapterModel.from_pretrained(tmp_path / "fac", compose_with=[tmp_path / "lin"], fusion="delta")
    added.delete_adapter("fac")
    assert torch.equal(output(added), alone)


@pytest.mark.parametrize("fusion", GATED)
def test_gated_fusion_starts_as_the_plain_backbone_whatever_the_adapters(fusion):
    model = gated("fac", "lin", fusion=fusion)
    shake(model.adapters, std=3.0)
    with torch.no_grad():
        found = model(**batch())
    assert torch.equal(found.last_hidden_state, F.layer_norm(found.backbone_hidden_state, (32,)))
    assert model.fusion.gates() == {"fac": 0.0, "lin": 0.0}
    assert torch.equal(output(gated(fusion=fusion)), found.last_hidden_state)  # without any adapter


def test_gated_fusion_adds_what_each_gate_lets_through():
    model = shake(gated("fac", "lin"))
    with torch.no_grad():
        found = model(**batch())
        expected = model.fusion.layer_norm(found.backbone_hidden_state)
        for name, states in found.adapter_hidden_states.items():
            one = model.fusion.sources[name]
            expected = expected + one.gate * one.dense(F.layer_norm(states, (32,)))
    torch.testing.assert_close(found.last_hidden_state, expected)


def test_a_gate_is_opened_by_each_token_for_itself():
    model = gated("fac", fusion="gated_token")
    gate = model.fusion.sources["fac"]
    with torch.no_grad():
        gate.gate.fill_(0.25)
        gate.weight[3] = 32.0  # the mean over 32 channels is then channel 3
        found = model(**batch())
        normed = F.layer_norm(found.backbone_hidden_state, (32,))
        added = gate.dense(F.layer_norm(found.adapter_hidden_states["fac"], (32,)))
    torch.testing.assert_close(found.last_hidden_state, normed + (0.25 + normed[..., 3:4]) * added)


def test_a_gate_of_tokens_without_weights_is_the_scalar_and_learns_beside_it():
    model, scalar = gated("fac", fusion="gated_token"), shake(gated("fac"))
    model.adapters.load_state_dict(scalar.adapters.state_dict())
    assert model.fusion.load_state_dict(scalar.fusion.state_dict(), strict=False).missing_keys == [
        "sources.fac.weight"
    ]
    assert torch.equal(output(model), output(scalar))
    model.train_adapter([])
    model(**batch()).last_hidden_state.square().sum().backward()
    assert all(one.grad.abs().sum() > 0 for one in model.fusion.sources["fac"].parameters())


@pytest.mark.parametrize("fusion", GATED)
def test_a_third_adapter_behind_a_shut_gate_changes_no_bit(fusion):
    model = shake(gated("fac", "lin", fusion=fusion))
    before, gates = output(model), model.fusion.gates()
    model.add_adapter("random", small_adapter(projection_initializer_range=None))
    assert torch.equal(output(model), before)
    assert model.fusion.gates() == {**gates, "random": 0.0}
    model.delete_adapter("random")
    assert torch.equal(output(model), before)


def test_a_gate_tells_the_root_mean_square_of_what_white_states_would_add():
    fusion = gated("fac").fusion
    one = fusion.sources["fac"]
    with torch.no_grad():
        one.gate.fill_(-0.5)
        one.dense.weight.zero_()
        one.dense.weight[:8, 0] = 3.0  # 8 of 32 outputs are 3 times a value of variance 1
        one.dense.bias.zero_()
        one.dense.bias[8:24] = 1.0  # 16 others are 1
    assert fusion.gates() == {"fac": pytest.approx(0.5 * ((8 * 9 + 16) / 32) ** 0.5)}
    white = torch.randn(200_000, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        added = one.gate * one.dense(white)
    assert added.square().mean().sqrt().item() == pytest.approx(fusion.gates()["fac"], rel=1e-2)


def test_a_gate_of_tokens_tells_its_root_mean_square_over_white_states():
    fusion = gated("fac", fusion="gated_token").fusion
    gate = shake(fusion.sources["fac"], std=1.0)
    states, normed = torch.randn(2, 200_000, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        added = gate(states, normed)
    assert added.square().mean().sqrt().item() == pytest.approx(fusion.gates()["fac"], rel=2e-2)


def test_a_gate_opens_for_the_adapter_that_helps_and_is_told_by_its_size():
    torch.manual_seed(0)
    model = KAdapterForSequenceClassification.from_backbone(
        tiny_backbone(), adapters={"good": {}, "noise": {}}, fusion="gated", classifier_dropout=0.0
    )
    model.train_adapter([])
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=3e-3)
    for _ in range(100):
        labels, noise = torch.randint(0, 2, (64,)), torch.randn(3, 64, 1, 32)
        noise[1, :, 0, :8] += 2.0 * labels[:, None]  # the good adapter alone knows the label
        states = {"backbone": noise[0], "adapters.good": noise[1], "adapters.noise": noise[2]}
        optimizer.zero_grad()
        model(states=states, labels=labels).loss.backward()
        optimizer.step()
    gates = model.base_model.fusion.gates()
    assert gates["good"] > 2 * gates["noise"] > 0


def test_adapters_are_chosen_and_disabled_under_gated_fusion():
    model = shake(gated("fac", "lin"))
    both = output(model)
    model.set_adapter("lin")
    alone = output(model)
    model.disable_adapters()
    with torch.no_grad():
        found = model(**batch())
    assert torch.equal(found.last_hidden_state, model.fusion.layer_norm(found.backbone_hidden_state))
    model.set_adapter(["fac", "lin"])
    assert torch.equal(output(model), both) and not torch.equal(alone, both)


@pytest.mark.parametrize("fusion", [*GATED, "concat"])
def test_a_learned_fusion_is_saved_with_its_model_and_comes_back(fusion, tmp_path):
    model = make_model(save_backbone(tmp_path / "backbone"), "fac", "lin", fusion=fusion, inner_projections=True)
    model.save_pretrained(tmp_path / "out")
    again = KAdapterModel.from_pretrained(tmp_path / "out")
    assert bytes_of(again) == bytes_of(model) and again.fusion.gates() == model.fusion.gates()
    assert again.config.inner_projections and torch.equal(output(again), output(model))


def test_inner_projections_stay_frozen_whatever_trains():
    adapters = {"fac": small_adapter(), "lin": small_adapter()}
    model = KAdapterForSequenceClassification.from_backbone(
        tiny_backbone(), adapters=adapters, fusion="concat", inner_projections=True
    )
    for names in ([], ["fac"], ["fac", "lin"]):
        model.train_adapter(names)
        frozen = {key for key, one in model.named_parameters() if "fusion" in key and not one.requires_grad}
        assert frozen == {key for key, _ in model.named_parameters() if ".inner." in key} and len(frozen) == 4


def delta(*names, **adapter):
    adapters = {name: small_adapter(**adapter) for name in names}
    return KAdapterModel.from_backbone(tiny_backbone(), adapters=adapters, fusion="delta").eval()


@pytest.mark.parametrize("skip_layers", [0, 2])
def test_delta_fusion_is_the_backbone_to_the_bit_where_up_projections_are_zero(skip_layers):
    model = delta("fac", "lin", skip_layers=skip_layers)
    shake(model.adapters, std=3.0)
    with torch.no_grad():
        for adapter in model.adapters.values():
            for layer in adapter.layers:
                for one in layer.up_project.parameters():
                    one.zero_()
        found = model(**batch())
    assert torch.equal(found.last_hidden_state, found.backbone_hidden_state)
    assert all(not states.any() for states in found.adapter_hidden_states.values())


@pytest.mark.parametrize(("skip_layers", "times"), [(0, (1, 1, 1)), (2, (2, 2, 2)), (3, (2, 2, 1))])
def test_delta_fusion_adds_the_outputs_without_the_states_that_are_tapped(skip_layers, times):
    """Worked out by hand: skipping 2 doubles all that there is after layer 2; skipping 3 adds layer 2 once more."""
    model = shake(delta("fac", "lin", skip_layers=skip_layers))
    with torch.no_grad():
        found = model(**batch(), output_hidden_states=True)
        model.config.fusion = "add"
        model.renew_fusion()
        added = model(**batch())
    states = found.hidden_states
    tapped = sum(number * states[layer] for number, layer in zip(times, (0, 2, 4), strict=True))
    if skip_layers == 2:
        tapped = tapped - states[4]  # which is tapped after the doubling
    expected = found.backbone_hidden_state
    for name, whole in added.adapter_hidden_states.items():
        torch.testing.assert_close(found.adapter_hidden_states[name], whole - tapped, atol=1e-4, rtol=1e-4)
        expected = expected + found.adapter_hidden_states[name]
    assert torch.equal(found.last_hidden_state, expected)


@pytest.mark.parametrize("positions", [1, 9])
def test_contributions_at_positions_are_those_of_the_whole_sequence(positions):
    model, inputs = shake(delta("fac", "lin")), batch(lengths=(20, 18, 12))
    at = torch.arange(positions).repeat(3, 1)
    with torch.no_grad():
        whole, (_, chosen) = model(**inputs).adapter_hidden_states, model.encode(**inputs, at=at)
        _, others = model.contributions(**inputs)
    for name, states in chosen.items():
        torch.testing.assert_close(states, whole[name][:, :positions])
        assert torch.equal(others[name], whole[name])


def test_delta_fusion_of_adapters_without_blocks_is_the_backbone():
    model = delta("taps", num_hidden_layers=0)
    with torch.no_grad():
        found = model(**batch())
    assert torch.equal(found.last_hidden_state, found.backbone_hidden_state)


def test_a_new_adapter_hardly_moves_delta_fusion_and_moves_add_fusion_far():
    shifts = {}
    for fusion in ("add", "delta"):
        model = KAdapterModel.from_backbone(tiny_backbone(), adapters={"fac": small_adapter()}, fusion=fusion).eval()
        with torch.no_grad():
            found = model(**batch())
        shifts[fusion] = (found.last_hidden_state - found.backbone_hidden_state).square().mean().item()
    assert shifts["delta"] < 1e-4 and shifts["add"] > 0.5


def test_an_adapter_whose_projections_start_at_zero_trains_under_delta_fusion():
    torch.manual_seed(0)
    model = KAdapterForSequenceClassification.from_backbone(
        tiny_backbone(),
        adapters={"fac": small_adapter(projection_initializer_range=0)},
        fusion="delta",
        num_labels=3,
        classifier_dropout=0.0,
    )
    model.train_adapter("fac")
    model.head.requires_grad_(False)
    model.eval()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(**batch(), labels=torch.tensor([0, 1, 2])).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    layer = model.base_model.adapters["fac"].layers[0]
    assert losses[-1] < 0.1 * losses[0]
    assert layer.up_project.weight.any() and layer.down_project.weight.any()


def test_a_negative_initializer_range_is_refused():
    with pytest.raises(ValueError, match=r"projection_initializer_range=-0\.1 is a standard deviation, so at least 0"):
        KnowledgeAdapterConfig(projection_initializer_range=-0.1)


def test_fusions_without_weights_are_exchanged_when_adapters_are_loaded(tmp_path, caplog):
    model = make_model(save_backbone(tmp_path / "backbone"), "fac")
    model.save_adapter(tmp_path / "fac", "fac")
    changed = KAdapterModel.from_pretrained(tmp_path / "fac", fusion="delta")
    by_auto = AutoModel.from_pretrained(tmp_path / "fac", fusion="delta")
    with torch.no_grad():
        found = changed(**batch())
    assert "training" not in caplog.text
    assert torch.equal(found.last_hidden_state, found.backbone_hidden_state + found.adapter_hidden_states["fac"])
    assert torch.equal(output(by_auto), found.last_hidden_state)
    changed.save_pretrained(tmp_path / "delta")
    assert torch.equal(output(KAdapterModel.from_pretrained(tmp_path / "delta")), found.last_hidden_state)
    back = KAdapterModel.from_pretrained(tmp_path / "delta", fusion="add")
    assert torch.equal(output(back), output(model))


def test_an_adapter_saved_out_of_a_delta_model_and_a_composition_of_such_are_fused_by_delta(tmp_path):
    backbone = save_backbone(tmp_path / "backbone")
    for name in ("fac", "lin"):
        make_model(backbone, name, fusion="delta").save_adapter(tmp_path / name, name)
    make_model(backbone, "third").save_adapter(tmp_path / "third", "third")
    paths = [str(tmp_path / name) for name in ("fac", "lin", "third")]
    assert KAdapterModel.from_pretrained(paths[:2]).config.fusion == "delta"
    assert KAdapterModel.from_pretrained(paths).config.fusion == "add"


def test_states_read_for_another_fusion_are_refused():
    inputs, models = batch(), {}
    for fusion in ("add", "delta"):
        models[fusion] = KAdapterForSequenceClassification.from_backbone(
            tiny_backbone(), adapters={"fac": small_adapter()}, fusion=fusion
        ).eval()
    with pytest.raises(ValueError, match=r"states hold \['adapters.fac', 'backbone'\], and this model reads "):
        models["delta"](states=models["add"].read(**inputs))


def test_an_adapter_of_no_blocks_is_the_sum_of_the_states_it_taps(tmp_path):
    model = KAdapterModel.from_backbone(
        save_backbone(tmp_path / "backbone"), adapters={"taps": small_adapter(num_hidden_layers=0)}
    ).eval()
    assert list(model.adapters.parameters()) == []
    with torch.no_grad():
        found = model(**batch(), output_hidden_states=True)
    states = found.hidden_states
    torch.testing.assert_close(found.adapter_hidden_states["taps"], states[0] + states[2] + states[4])
    model.save_pretrained(tmp_path / "out")
    assert torch.equal(output(KAdapterModel.from_pretrained(tmp_path / "out")), found.last_hidden_state)


def test_a_head_trains_beside_an_adapter_without_parameters():
    model = KAdapterForSequenceClassification.from_backbone(
        tiny_backbone(), adapters={"taps": small_adapter(num_hidden_layers=0)}, fusion="concat", dtype=torch.bfloat16
    )
    model.train_adapter([])
    model(**batch(), labels=torch.tensor([0, 1, 0])).loss.backward()
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)
    model.train_adapter("taps")


def test_without_an_initializer_range_an_adapter_starts_as_torch_starts_any_linear():
    near = KAdapterModel.from_backbone(tiny_backbone(), adapters={"one": small_adapter()})
    far = KAdapterModel.from_backbone(
        tiny_backbone(), adapters={"one": small_adapter(projection_initializer_range=None)}
    )
    near, far = (model.adapters["one"].layers[0].down_project for model in (near, far))
    assert near.weight.abs().max() < 2e-3 and near.bias.abs().max() == 0
    assert far.weight.std().item() == pytest.approx((3 * 32) ** -0.5, rel=0.2) and far.bias.abs().max() > 0


@pytest.mark.parametrize("value", ["x", 1.5, [8]])
def test_a_value_of_another_type_is_told_in_one_sentence(value):
    with pytest.raises(TypeError, match=rf"^hidden_size={re.escape(repr(value))} makes no knowledge adapter: .*int"):
        KnowledgeAdapterConfig(hidden_size=value)
    with pytest.raises(TypeError, match=r"^the adapter configuration of 'fac': hidden_size="):
        KAdapterConfig(adapters={"fac": {"hidden_size": value}})
