"""Top-layer adapters: copies of an encoder's last blocks that begin as what it does and learn outside it."""

import pytest
import torch
from helpers import batch, make_model, output, run_python, save_backbone, shake, tiny_backbone

from kadapter import (
    KAdapterForEntityClassification,
    KAdapterModel,
    KnowledgeAdapterConfig,
    PreNormAdapterConfig,
    TopLayersAdapterConfig,
)

FAMILIES = ["roberta", "bert", "distilbert", "electra"]


def model_of(family="roberta", blocks=2, fusion="delta", **changes):
    adapters = {"top": TopLayersAdapterConfig(num_hidden_layers=blocks)}
    return KAdapterModel.from_backbone(tiny_backbone(family, **changes), adapters=adapters, fusion=fusion).eval()


def taught(model, seed=1):
    """Move an adapter's weights a little, so that it contributes something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in model.adapters:
            for weight in model.adapters[name].parameters():
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.05)
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("blocks", [1, 3])
def test_a_new_adapter_begins_as_what_the_encoder_does(family, blocks):
    model = model_of(family, blocks)
    with torch.no_grad():
        found = model(**batch(family))
    real = batch(family)["attention_mask"].bool()
    assert found.adapter_hidden_states["top"][real].abs().max() < 1e-5 < found.backbone_hidden_state.abs().max()
    assert list(model.adapters["top"].tapped_layers) == [4 - blocks, 4]


def test_the_control_of_random_weights_is_the_copy_before_it_learned():
    drawn = TopLayersAdapterConfig(projection_initializer_range=None)  # as `run_task.py --adapters random` asks for
    model, other = model_of(), model_of()
    other.add_adapter("drawn", drawn)
    for ours, theirs in zip(model.adapters["top"].parameters(), other.adapters["drawn"].parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_its_features_are_those_of_an_encoder_whose_last_blocks_are_its_own():
    model = taught(model_of("bert"))
    whole = tiny_backbone("bert")
    theirs = {"attention.self.query": "attention.query", "attention.self.key": "attention.key"}
    theirs |= {"attention.self.value": "attention.value", "attention.output.dense": "attention.dense"}
    theirs |= {"attention.output.LayerNorm": "attention.layer_norm", "intermediate.dense": "intermediate"}
    theirs |= {"output.dense": "output", "output.LayerNorm": "layer_norm"}
    for block, own in zip(whole.encoder.layer[-2:], model.adapters["top"].blocks, strict=True):
        for name, mine in theirs.items():
            block.get_submodule(name).load_state_dict(own.get_submodule(mine).state_dict())
    with torch.no_grad():
        expected = whole(**batch("bert")).last_hidden_state
        found = model(**batch("bert"))
    real = batch("bert")["attention_mask"].bool()
    assert torch.allclose(found.last_hidden_state[real], expected[real], atol=1e-5)
    assert (found.backbone_hidden_state - expected)[real].abs().max() > 0.1


def test_it_takes_over_all_sizes_of_the_encoder_and_stores_them():
    model = model_of("distilbert")
    stored = model.config.adapters["top"]
    config = model.backbone.config
    assert (stored["hidden_size"], stored["num_attention_heads"]) == (config.dim, config.n_heads)
    assert (stored["intermediate_size"], stored["hidden_act"]) == (config.hidden_dim, config.activation)
    assert stored["layers"] == [2, 4] and stored["kind"] == "top_layers"
    assert KnowledgeAdapterConfig.from_dict(stored) == model.config.adapter_config("top")
    assert model.config.adapter_config("top").description == "copies of the last 2 blocks, width 32"


def test_it_learns_while_the_encoder_keeps_its_bytes_and_frees_no_gradient_into_it():
    model = model_of()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    model.train_adapter("top")
    model.train()
    weights = list(model.adapters["top"].parameters())
    optimizer = torch.optim.SGD(weights, lr=0.1)
    losses = []
    for _ in range(3):
        loss = (model(**batch()).last_hidden_state - 1).square().mean()
        loss.backward()
        assert all(weight.grad is None for weight in model.backbone.parameters())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = model.backbone.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_kept_states_give_the_same_bits_as_the_encoder_and_a_few_positions_those_of_all(tmp_path):
    adapters = {"top": TopLayersAdapterConfig()}
    backbone = save_backbone(tmp_path / "backbone")
    model = KAdapterForEntityClassification.from_backbone(backbone, adapters=adapters, num_labels=3, fusion="delta")
    taught(model.eval().base_model)
    positions = torch.tensor([[4], [2], [1]])
    with torch.no_grad():
        logits = model(**batch(), entity_positions=positions).logits
        states = model.base_model.tap(**batch())
        kept = model(**batch(), hidden_states=dict(states), entity_positions=positions).logits
        everywhere = model.base_model(**batch()).adapter_hidden_states["top"]
        (read,) = (
            states
            for name, states in model.read(**batch(), entity_positions=positions).items()
            if name.endswith(".top")
        )
    assert torch.equal(logits, kept)
    assert torch.allclose(read[:, 0], everywhere[torch.arange(3), positions[:, 0]], atol=1e-6)


def test_padding_does_not_reach_real_tokens():
    model = taught(model_of())
    inputs, padded = batch(), batch(extra=3)
    real = inputs["attention_mask"].bool()
    assert torch.allclose(output(model, **inputs)[real], output(model, **padded)[:, :9][real], atol=1e-5)


def test_it_composes_with_other_kinds_and_loads_again_to_the_bit(tmp_path):
    backbone = save_backbone(tmp_path / "backbone")
    model = make_model(backbone, "fac")
    with torch.no_grad():
        before = model(**batch()).adapter_hidden_states["fac"]
    model.add_adapter("top", TopLayersAdapterConfig(num_hidden_layers=1))
    model.add_adapter("lean", PreNormAdapterConfig(hidden_size=8, num_attention_heads=2))
    for name in ("top", "lean"):
        shake(model.adapters[name], std=0.1)
    with torch.no_grad():
        expected = model(**batch())
    for name in ("fac", "top", "lean"):
        model.save_adapter(tmp_path / name, name)
    again = KAdapterModel.from_pretrained([tmp_path / name for name in ("top", "fac", "lean")])
    with torch.no_grad():
        found = again(**batch())
    for name, states in expected.adapter_hidden_states.items():
        assert torch.equal(found.adapter_hidden_states[name], states)
    assert torch.equal(before, expected.adapter_hidden_states["fac"])


def test_in_mixed_batches_each_row_has_the_bits_of_its_adapter_alone():
    adapters = {name: TopLayersAdapterConfig() for name in ("one", "two")}
    model = taught(KAdapterModel.from_backbone(tiny_backbone(), adapters=adapters, fusion="delta").eval())
    with torch.no_grad():
        mixed = model(**batch(), adapter_names=["two", "__base__", ["one", "two"]]).last_hidden_state
        for row, names in ((0, ["two"]), (2, ["one", "two"])):
            model.set_adapter(names)
            assert torch.equal(mixed[row], model(**batch()).last_hidden_state[row])
        model.disable_adapters()
        assert torch.equal(mixed[1], model(**batch()).last_hidden_state[1])


def test_a_backbone_in_half_precision_is_copied_and_met():
    backbone = tiny_backbone().to(torch.bfloat16)
    model = KAdapterModel.from_backbone(backbone, adapters={"top": TopLayersAdapterConfig()}, fusion="delta").eval()
    assert {weight.dtype for weight in model.adapters["top"].parameters()} == {torch.float32}
    with torch.no_grad():
        found = model(**batch())
    moved = found.adapter_hidden_states["top"][batch()["attention_mask"].bool()]
    assert moved.abs().max() < 0.1 * found.backbone_hidden_state.abs().max()


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("modernbert", "its blocks have none of attention.self.query and attention.q_lin"),
        ("deberta-v2", "its blocks have none of attention.self.query"),
    ],
)
def test_an_encoder_with_other_blocks_is_refused_and_the_model_stays_as_it_was(family, reason):
    model = KAdapterModel.from_backbone(tiny_backbone(family))
    with pytest.raises(ValueError, match=f"copies blocks such as BERT's.*{reason}.*use PreNormAdapterConfig"):
        model.add_adapter("top", TopLayersAdapterConfig())
    assert not model.adapters and not model.config.adapters


def test_blocks_that_have_the_names_and_compute_something_else_are_refused_too():
    class Doubled(torch.nn.Module):
        def forward(self, states):
            return 2 * states

    backbone = tiny_backbone("bert")
    backbone.encoder.layer[3].output.dropout = Doubled()
    model = KAdapterModel.from_backbone(backbone)
    with pytest.raises(ValueError, match="copies of its last blocks make something else of their input, by"):
        model.add_adapter("top", TopLayersAdapterConfig())
    assert not model.adapters


@pytest.mark.parametrize(
    ("values", "error", "sentence"),
    [
        ({"num_hidden_layers": 0}, ValueError, "copies no block; copy at least 1"),
        ({"num_hidden_layers": 9}, ValueError, "num_hidden_layers=9 .* more than the 4 blocks of its encoder"),
        ({"hidden_size": 64}, ValueError, "hidden_size=64 of a top-layer adapter differs from its encoder's 32"),
        (
            {"layers": [0, 2]},
            ValueError,
            r"layers=\[0, 2\] of a top-layer adapter differs from its encoder's \[2, 4\]",
        ),
        ({"hidden_act": "relu"}, ValueError, "hidden_act=relu of a top-layer adapter differs from its encoder's gelu"),
        ({"skip_layers": 2}, ValueError, "skip_layers=2 means nothing for a top-layer adapter"),
        ({"mask_padding": False}, ValueError, "mask_padding=False means nothing for a top-layer adapter"),
        ({"num_hidden_layers": "two"}, TypeError, "num_hidden_layers='two' makes no top-layer adapter"),
    ],
)
def test_what_makes_no_adapter_is_refused_in_a_sentence(values, error, sentence):
    with pytest.raises(error, match=sentence):
        KAdapterModel.from_backbone(tiny_backbone(), adapters={"top": TopLayersAdapterConfig(**values)})


@pytest.mark.thorough
@pytest.mark.slow
def test_its_file_travels_with_its_artifact_and_beside_other_kinds_as_remote_code(tmp_path):
    backbone = save_backbone(tmp_path / "backbone")
    model = taught(KAdapterModel.from_backbone(backbone, adapters={"top": TopLayersAdapterConfig()}).eval())
    model.save_adapter(tmp_path / "top", "top")
    model.add_adapter("lean", PreNormAdapterConfig(hidden_size=8, num_attention_heads=2))
    taught(model).save_pretrained(tmp_path / "both")
    for name in ("top", "both"):
        torch.save(output(KAdapterModel.from_pretrained(tmp_path / name)), tmp_path / f"{name}.pt")
    torch.save(batch(), tmp_path / "inputs.pt")
    code = """
import torch
from transformers import AutoModel, AutoModelForSequenceClassification
inputs = torch.load("inputs.pt", weights_only=True)
for name in ("top", "both"):
    with torch.no_grad():
        found = AutoModel.from_pretrained(name, trust_remote_code=True)(**inputs).last_hidden_state
    assert torch.equal(found, torch.load(f"{name}.pt", weights_only=True))
head = AutoModelForSequenceClassification.from_pretrained("top", trust_remote_code=True, num_labels=2)
assert head(**inputs).logits.shape == (3, 2)
"""
    assert run_python(code, tmp_path).returncode == 0
