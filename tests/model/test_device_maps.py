"""Adapters beside a backbone that `device_map` spreads over devices, some of its weights or all of them on a disk."""

import pytest
import torch
from helpers import batch, make_model, output, save_backbone, save_masked_lm, small_adapter
from safetensors import safe_open
from tiny_decoders import causal_lm, tiny_decoder
from transformers import AutoModel

from kadapter import (
    KAdapterForCausalLM,
    KAdapterForMaskedLM,
    KAdapterForSequenceClassification,
    KAdapterModel,
    KAdapterModelWithHeads,
    TopLayersAdapterConfig,
)

BLOCKS = {f"encoder.layer.{number}": "disk" if number % 2 else "cpu" for number in range(4)}
MAPS = {
    "every second block on the disk": {"embeddings": "cpu", **BLOCKS},
    "the embeddings on the disk": {"embeddings": "disk", "encoder": "cpu"},
    "all on the disk": {"": "disk"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    make_model(save_backbone(folder / "backbone"), "fac", "lin").eval().save_pretrained(folder / "both")
    return folder


@pytest.fixture
def plain(folder):
    return KAdapterModel.from_pretrained(folder / "both")


def dispatched(folder, path, device_map=None, model_class=KAdapterModel):
    device_map = {"": "disk"} if device_map is None else device_map
    return model_class.from_pretrained(path, device_map=device_map, offload_folder=folder / "offloaded")


def devices(module):
    return {parameter.device.type for parameter in module.parameters()}


@pytest.mark.parametrize("device_map", MAPS.values(), ids=MAPS.keys())
def test_outputs_are_those_of_the_backbone_in_memory_and_adapters_stay_in_it(folder, plain, device_map, tmp_path):
    model = dispatched(tmp_path, folder / "both", device_map)
    assert "meta" in devices(model.backbone) and devices(model.adapters) == {"cpu"}
    assert torch.equal(output(model), output(plain))
    rows = {"adapter_names": ["fac", "__base__", ["fac", "lin"]]}
    with torch.no_grad():
        mixed, expected = (each(**batch(), **rows).last_hidden_state for each in (model, plain))
    assert torch.equal(mixed, expected)
    model.save_pretrained(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as saved:
        assert all(key.startswith("adapters.") for key in saved.keys())  # noqa: SIM118 (not a dict)
    assert torch.equal(output(KAdapterModel.from_pretrained(tmp_path / "saved")), output(plain))


def test_adapters_are_added_loaded_exchanged_and_trained_beside_it(folder, plain, tmp_path):
    model = dispatched(tmp_path, folder / "both")
    plain.save_adapter(tmp_path / "fac", "fac")
    for each in (model, plain):
        torch.manual_seed(0)
        each.add_adapter("new", small_adapter())
        each.load_adapter(tmp_path / "fac", "again")
        each.load_adapter(tmp_path / "fac", "lin", hotswap=True)
        each.add_weighted_adapter(["fac", "lin"], [0.5, 0.5], "mean")
        each.train_adapter("new")
        each.train()(**batch()).last_hidden_state.square().mean().backward()
    assert devices(model.adapters) == {"cpu"}
    for ours, theirs in zip(model.adapters["new"].parameters(), plain.adapters["new"].parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_gradients_pass_through_it_to_what_stands_before(folder, plain, tmp_path):
    model, gradients = dispatched(tmp_path, folder / "both"), []
    for each in (model, plain):
        embeds = plain.get_input_embeddings()(batch()["input_ids"]).detach().requires_grad_(True)
        each(inputs_embeds=embeds, attention_mask=batch()["attention_mask"]).last_hidden_state.sum().backward()
        gradients.append(embeds.grad)
    assert torch.equal(*gradients) and gradients[0].abs().sum() > 0


def test_a_module_that_is_offloaded_is_recognised_by_its_checkpoint(folder, plain, tmp_path):
    keywords = {"device_map": {"": "disk"}, "offload_folder": tmp_path, "add_pooling_layer": False}
    module = AutoModel.from_pretrained(folder / "backbone", **keywords)
    model = KAdapterModel.from_backbone(module, adapters={"fac": small_adapter()})
    assert model.config.backbone_fingerprint == plain.config.backbone_fingerprint
    assert devices(model.adapters) == {"cpu"}
    assert torch.equal(output(KAdapterModel.from_pretrained(folder / "both", backbone=module)), output(plain))
    save_backbone(tmp_path / "other", seed=5)
    other = AutoModel.from_pretrained(tmp_path / "other", **keywords)
    with pytest.raises(ValueError, match="has fingerprint"):
        KAdapterModel.from_pretrained(folder / "both", backbone=other)


def test_what_would_change_it_is_refused_and_what_lets_it_go_is_not(folder, plain, tmp_path):
    model = dispatched(tmp_path, folder / "both")
    with pytest.raises(ValueError, match="are read and neither trained, changed nor saved; load it without"):
        model.resize_token_embeddings(70)
    states = model.tap(**batch())
    model.backbone.requires_grad_(True)
    for refused in (lambda: model(**batch()), lambda: model.save_pretrained(tmp_path / "saved"), model.state_dict):
        with pytest.raises(ValueError, match="offloaded by device_map"):
            refused()
    assert not (tmp_path / "saved").exists() and not model.config.backbone_modified
    model.backbone.requires_grad_(False)
    model.release_backbone()
    assert torch.equal(output(model, **batch(), hidden_states=states), output(plain))


@pytest.mark.parametrize("lm_head", ["backbone", "transform", "linear"])
def test_lm_heads_answer_alike_where_all_is_offloaded(tmp_path, lm_head):
    path = save_masked_lm(tmp_path / "lm")
    model = make_model(path, "fac", model_class=KAdapterForMaskedLM, lm_head=lm_head).eval()
    model.save_pretrained(tmp_path / "saved")
    again = dispatched(tmp_path, tmp_path / "saved", model_class=KAdapterForMaskedLM)
    with torch.no_grad():
        assert torch.equal(again(**batch()).logits, model(**batch()).logits)


IN_MEMORY = ("model.embed_tokens", "model.norm", "model.rotary_emb", "model.layers.0", "model.layers.2", "lm_head")
SPLITS = {
    "all on the disk": {"": "disk"},
    "some blocks": {**dict.fromkeys(IN_MEMORY, "cpu"), "model.layers.1": "disk", "model.layers.3": "disk"},
}


@pytest.mark.parametrize("device_map", SPLITS.values(), ids=SPLITS.keys())
def test_decoders_generate_alike(tmp_path, device_map):
    tiny_decoder("llama").save_pretrained(tmp_path / "lm")
    model = causal_lm(str(tmp_path / "lm"), "fac")
    model.save_pretrained(tmp_path / "saved")
    again = dispatched(tmp_path, tmp_path / "saved", device_map, KAdapterForCausalLM)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
        ours, theirs = (each.generate(ids, max_new_tokens=4, do_sample=False) for each in (again, model))
    assert torch.equal(ours, theirs) and "meta" in devices(again.base_model.backbone)


def test_a_shared_weight_that_is_offloaded_in_one_place_alone_is_refused(tmp_path):
    tiny_decoder("gpt2").save_pretrained(tmp_path / "lm")
    causal_lm(str(tmp_path / "lm"), "fac").save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"puts 'lm_head.weight' .* on 'disk' and 'transformer.wte.weight' on 'cpu'"):
        dispatched(tmp_path, tmp_path / "saved", {"transformer": "cpu", "lm_head": "disk"}, KAdapterForCausalLM)


def test_several_heads_share_it(folder, tmp_path):
    head = KAdapterForSequenceClassification.from_pretrained(folder / "both", num_labels=2)
    head.save_pretrained(tmp_path / "head")
    keywords = {"device_map": {"": "disk"}, "offload_folder": tmp_path / "offloaded"}
    several = KAdapterModelWithHeads.from_heads({"one": tmp_path / "head"}, **keywords)
    with torch.no_grad():
        assert torch.equal(several(**batch()).heads["one"].logits, head(**batch()).logits)


@pytest.mark.parametrize("device_map", MAPS.values(), ids=MAPS.keys())
def test_an_adapter_of_copied_blocks_reads_them_from_where_they_wait(device_map, tmp_path):
    backbone, adapters = save_backbone(tmp_path / "backbone"), {"top": TopLayersAdapterConfig()}
    offloaded = {"device_map": device_map, "offload_folder": tmp_path / "offloaded"}
    plain, model = (
        KAdapterModel.from_backbone(backbone, adapters=adapters, fusion="delta", **more).eval()
        for more in ({}, offloaded)
    )
    assert "meta" in devices(model.backbone) and devices(model.adapters) == {"cpu"}
    for ours, theirs in zip(model.adapters.parameters(), plain.adapters.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(output(model), output(plain))
