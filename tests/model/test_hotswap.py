"""An adapter's weights in the place of another's: the same model, compiled or not, answers as after a fresh load."""

import copy
import json

import pytest
import torch
from helpers import batch, save_backbone, shake, small_adapter

from kadapter import (
    KAdapterForSequenceClassification,
    KAdapterModel,
    KAdapterModelWithHeads,
    PreNormAdapterConfig,
)

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone, three seeds of an adapter, of which the last drops out otherwise, and others that don't fit."""
    folder = tmp_path_factory.mktemp("seeds")
    backbone = save_backbone(folder / "backbone", num_hidden_layers=2)
    shapes = {f"seed{number}": small_adapter(layers=[0, 1]) for number in range(3)}
    shapes["seed2"] = small_adapter(layers=[0, 1], hidden_dropout_prob=0.4, attention_probs_dropout_prob=0.3)
    shapes |= {"deeper": small_adapter(layers=[0, 1, 2]), "wider": small_adapter(layers=[0, 1], intermediate_size=40)}
    shapes["lean"] = PreNormAdapterConfig(hidden_size=8, layers=[0, 1])
    for number, (name, shape) in enumerate(shapes.items()):
        model = shake(KAdapterModel.from_backbone(backbone, adapters={"fac": shape}, fusion="delta"), seed=number)
        model.config.adapters["fac"]["training"] = {"corpus": name}
        model.eval().save_pretrained(folder / name)
    other = save_backbone(folder / "other", num_hidden_layers=2, seed=5)
    foreign = KAdapterModel.from_backbone(other, adapters={"fac": small_adapter(layers=[0, 1])})
    foreign.save_pretrained(folder / "foreign")
    return folder


def loaded(folder, name="seed0"):
    return KAdapterModel.from_pretrained(folder / name).eval()


def output(model):
    with torch.no_grad():
        return model(**batch()).last_hidden_state


def bytes_of(model):
    return {key: tensor.numpy().tobytes() for key, tensor in model.adapters.state_dict().items()}


def test_after_an_exchange_all_is_as_after_a_fresh_load_and_the_old_artifact_is_untouched(folder, tmp_path):
    model, fresh = loaded(folder), loaded(folder, "seed1")
    before, stored = output(model), (folder / "seed0" / "model.safetensors").read_bytes()
    places = [parameter.data_ptr() for parameter in model.adapters.parameters()]
    assert model.load_adapter(folder / "seed1", hotswap=True) == ["fac"]
    assert [parameter.data_ptr() for parameter in model.adapters.parameters()] == places
    assert torch.equal(output(model), output(fresh)) and not torch.equal(output(model), before)
    assert (folder / "seed0" / "model.safetensors").read_bytes() == stored
    model.save_pretrained(tmp_path / "model")
    fresh.save_pretrained(tmp_path / "fresh")
    saved, expected = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("model", "fresh"))
    assert saved["adapters"] == expected["adapters"] and saved["adapters"]["fac"]["training"] == {"corpus": "seed1"}
    model.save_adapter(tmp_path / "alone", "fac")
    for name in ("model", "alone"):
        assert torch.equal(output(loaded(tmp_path, name)), output(fresh))


@pytest.mark.slow
def test_a_compiled_model_runs_on_without_being_compiled_again(folder):
    model = loaded(folder)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    run = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        run(**batch())
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
        for name in ("seed1", "seed2", "seed0"):
            model.load_adapter(folder / name, "fac", hotswap=True)
            with torch.compiler.set_stance("fail_on_recompile"):
                found = run(**batch()).last_hidden_state
            assert torch.equal(found, output(loaded(folder, name)))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
        model.load_adapter(folder / "seed1", "second")  # what an exchange spares
        with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError, match="recompile"):
            run(**batch())


def test_what_drops_out_in_training_is_that_of_the_new_adapter(folder):
    model, fresh = loaded(folder), loaded(folder, "seed2")
    model.load_adapter(folder / "seed2", hotswap=True)
    assert model.adapters["fac"].config == fresh.adapters["fac"].config
    for each in (model, fresh):
        each.train_adapter("fac")
        each.train()
        torch.manual_seed(0)
        each.found = each(**batch()).last_hidden_state
    assert torch.equal(model.found, fresh.found) and not torch.equal(model.found, output(fresh.eval()))


def test_an_adapter_that_trained_and_was_frozen_can_be_exchanged(folder):
    model = loaded(folder)
    model.train_adapter("fac")
    with pytest.raises(ValueError, match="'fac' trains, and an optimizer would go on with what it knows of the old"):
        model.load_adapter(folder / "seed1", hotswap=True)
    model.adapters["fac"].requires_grad_(False)
    model.load_adapter(folder / "seed1", hotswap=True)
    assert torch.equal(output(model), output(loaded(folder, "seed1")))
    assert not any(parameter.requires_grad for parameter in model.adapters.parameters())


REFUSED = {
    "another depth": ("deeper", "fac", r"has layers=\[0, 1, 2\], and 'fac' has \[0, 1\]; only adapters of one shape"),
    "another width": ("wider", "fac", "has intermediate_size=40, and 'fac' has .*take each other's place"),
    "another kind": ("lean", "fac", "has kind='prenorm', and 'fac' has 'k_adapter'"),
    "an unknown name": ("seed1", "lin", "no adapter 'lin'; there are"),
    "another backbone": ("foreign", "fac", "backbone"),
}


@pytest.mark.parametrize(("name", "place", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_refused_and_nothing_is_changed(folder, name, place, reason):
    model = loaded(folder)
    before, config = bytes_of(model), copy.deepcopy(model.config.adapters)
    with pytest.raises(ValueError, match=reason):
        model.load_adapter(folder / name, place, hotswap=True)
    assert bytes_of(model) == before and model.config.adapters == config and list(model.adapters) == ["fac"]


def test_damaged_weights_change_nothing_and_of_several_adapters_all_or_none_are_exchanged(folder, tmp_path):
    shapes = {name: small_adapter(layers=[0, 1]) for name in ("fac", "lin")}
    both, other = (KAdapterModel.from_backbone(folder / "backbone", adapters=shapes).eval() for _ in range(2))
    both.save_pretrained(tmp_path / "both")
    shake(other, seed=9)
    other.save_pretrained(tmp_path / "other")
    weights = tmp_path / "other" / "model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-4] + b"\x00\x00\x80\x3f")
    model = loaded(tmp_path, "both")
    before = bytes_of(model)
    with pytest.raises(ValueError, match="are not those that were saved"):
        model.load_adapter(tmp_path / "other", hotswap=True)
    assert bytes_of(model) == before
    weights.write_bytes(sound)
    assert model.load_adapter(tmp_path / "other", hotswap=True) == ["fac", "lin"]
    assert torch.equal(output(model), output(other))
    model.adapters["lin"].requires_grad_(True)
    before = bytes_of(model)
    with pytest.raises(ValueError, match="'lin' trains"):
        model.load_adapter(tmp_path / "both", hotswap=True)
    assert bytes_of(model) == before


def test_fusion_and_head_stay_and_weights_are_held_in_the_dtype_that_is_there(folder, tmp_path):
    model = KAdapterForSequenceClassification.from_pretrained(folder / "seed0", num_labels=3, fusion="gated")
    adapters = shake(model, std=0.3).base_model.adapters.requires_grad_(False).to(torch.bfloat16)
    kept = {key: value.clone() for key, value in model.state_dict().items() if ".adapters." not in key}
    model.load_adapter(folder / "seed1", hotswap=True)
    fresh = loaded(folder, "seed1").adapters.to(torch.bfloat16).state_dict()
    for key, tensor in adapters.state_dict().items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, fresh[key])
    assert any("gate" in key for key in kept) and any("head" in key for key in kept)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in kept.items())


def test_an_adapter_that_heads_share_is_exchanged_for_all_of_them(folder, tmp_path):
    for number in range(2):
        head = KAdapterForSequenceClassification.from_pretrained(folder / "seed0", num_labels=2 + number)
        shake(head.head, seed=number)
        head.save_pretrained(tmp_path / f"head{number}")
    several = KAdapterModelWithHeads.from_heads({"one": tmp_path / "head0", "two": tmp_path / "head1"})
    several.heads["one"].load_adapter(folder / "seed1", hotswap=True)
    several.save_pretrained(tmp_path / "several")
    again = KAdapterModelWithHeads.from_pretrained(tmp_path / "several")
    with torch.no_grad():
        found, expected = again(**batch()).heads, several(**batch()).heads
        for number, name in enumerate(("one", "two")):
            assert torch.equal(found[name].logits, expected[name].logits)
            own = KAdapterForSequenceClassification.from_pretrained(tmp_path / f"head{number}")
            own.load_adapter(folder / "seed1", hotswap=True)
            assert torch.equal(own(**batch()).logits, found[name].logits)
