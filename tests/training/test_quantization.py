"""A backbone that multiplies in 8 bits by torchao: it alone, whatever is trained, saved or kept beside it."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from helpers import batch, make_model, output, save_backbone, shake
from tiny_runs import flags, write_ground
from torch import nn
from transformers import TorchAoConfig

from kadapter import (
    KAdapterForSequenceClassification,
    KAdapterModel,
    KAdapterModelWithHeads,
    TopLayersAdapterConfig,
)
from kadapter.trainers import run_adapter
from kadapter.trainers.common.backbone_options import eight_bits as configuration_of_8_bits
from kadapter.trainers.feature_cache.options import CacheArguments, open_features

torchao = pytest.importorskip("torchao.quantization", reason="torchao comes with the extra quantization")


@pytest.fixture
def eight_bits():
    return TorchAoConfig(configuration_of_8_bits(torch.device("cpu")))


@pytest.fixture
def plain(tmp_path):
    return make_model(save_backbone(tmp_path / "backbone"), "fac")


@pytest.fixture
def quantized(plain, tmp_path, eight_bits):
    return make_model(str(tmp_path / "backbone"), "fac", quantization_config=eight_bits)


def weights(module):
    return {type(one.weight.data) for one in module.modules() if isinstance(one, nn.Linear)}


def test_the_backbone_alone_is_held_in_8_bits_and_reads_nearly_the_same(plain, quantized):
    assert weights(quantized.backbone) == {torchao.Int8Tensor} and weights(quantized.adapters) == {torch.Tensor}
    expected = output(plain)
    assert 0 < (output(quantized) - expected).norm() < 0.02 * expected.norm()


def test_adapters_train_beside_it_and_are_saved_as_beside_any_other(plain, quantized, tmp_path, eight_bits):
    for name, model in (("plain", plain), ("quantized", quantized)):
        model.save_pretrained(tmp_path / name)
    saved = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "quantized")]
    assert saved[0] == saved[1]
    path = tmp_path / "quantized"
    assert torch.equal(output(KAdapterModel.from_pretrained(path)), output(plain))
    again = KAdapterModel.from_pretrained(path, backbone_kwargs={"quantization_config": eight_bits})
    assert weights(again.adapters) == {torch.Tensor} and torch.equal(output(again), output(quantized))
    quantized.train()(**batch()).last_hidden_state.square().mean().backward()
    assert all(one.grad is not None for one in quantized.adapters.parameters())


def test_rows_verbs_and_heads_are_as_beside_any_other(plain, quantized, tmp_path, eight_bits):
    for name, seed in (("old", 1), ("new", 2)):
        shake(plain, seed=seed).save_adapter(tmp_path / name, "fac")
    for name in ("old", "new"):
        quantized.load_adapter(tmp_path / name, name)
    quantized.set_adapter("new")
    expected, names = output(quantized), ["old", "__base__", "new"]
    with torch.no_grad():
        mixed = quantized(**batch(), adapter_names=names).last_hidden_state
        assert torch.equal(mixed[1], quantized(**batch()).backbone_hidden_state[1])
    assert torch.equal(mixed[2], expected[2]) and not torch.equal(mixed[0], expected[0])
    quantized.set_adapter("old")
    assert torch.equal(output(quantized)[0], mixed[0])
    quantized.load_adapter(tmp_path / "new", "old", hotswap=True)
    assert torch.equal(output(quantized), expected)
    head = KAdapterForSequenceClassification.from_pretrained(tmp_path / "new", num_labels=2)
    head.save_pretrained(tmp_path / "head")
    quantization = {"quantization_config": eight_bits}
    several = KAdapterModelWithHeads.from_heads({"one": tmp_path / "head"}, **quantization)
    alone = KAdapterForSequenceClassification.from_pretrained(tmp_path / "head", backbone_kwargs=quantization)
    with torch.no_grad():
        assert torch.equal(several(**batch()).heads["one"].logits, alone(**batch()).logits)
    several.save_pretrained(tmp_path / "several")
    again = KAdapterModelWithHeads.from_pretrained(tmp_path / "several")
    with torch.no_grad():
        assert torch.equal(again(**batch()).heads["one"].logits, head(**batch()).logits)


def test_it_is_neither_trained_nor_resized_nor_saved(quantized, tmp_path):
    with pytest.raises(ValueError, match="quantised by quantization_config, so they are read and neither trained"):
        quantized.resize_token_embeddings(70)
    quantized.backbone.requires_grad_(True)
    for refused in (lambda: quantized(**batch()), lambda: quantized.save_pretrained(tmp_path / "saved")):
        with pytest.raises(ValueError, match="load it without quantization_config, or keep it frozen"):
            refused()
    assert not (tmp_path / "saved").exists()


def test_it_is_released_and_what_it_read_is_kept_apart_from_what_others_read(plain, quantized, tmp_path):
    data = Dataset.from_dict({"input_ids": [[0, 7, 8, 2]], "length": [4]})
    run = SimpleNamespace(per_device_train_batch_size=1, bf16=False, fp16=False, device=torch.device("cpu"))
    flags = CacheArguments(cache_features=str(tmp_path / "features"))
    folders = {
        open_features(flags, model, {"train": data}, run, verbose=False)[0].folder for model in (plain, quantized)
    }
    assert len(folders) == 2
    states, expected = quantized.tap(**batch()), output(quantized)
    quantized.release_backbone()
    assert torch.equal(output(quantized, **batch(), hidden_states=states), expected)


def test_an_adapter_is_trained_beside_it_by_a_flag(tmp_path):
    ground = write_ground(tmp_path / "ground")
    short = ["--max_steps", "2", "--report_to", "none", "--quantize_backbone"]
    losses = {
        given: run_adapter.main(flags(ground, "factual", tmp_path / given, *short, given))["eval_loss"]
        for given in ("true", "false")
    }
    assert losses["true"] != losses["false"] and losses["true"] == pytest.approx(losses["false"], rel=0.05)
    artifact = KAdapterModel.from_pretrained(tmp_path / "true")
    assert weights(artifact) == {torch.Tensor}
    again = flags(ground, "factual", tmp_path / "true", *short, "true", "--do_train", "false")
    assert run_adapter.main(again)["eval_loss"] == losses["true"]


def test_without_torchao_the_flag_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    given = flags(tmp_path, "factual", tmp_path / "out", "--quantize_backbone", "true")
    with pytest.raises(ValueError, match=r"--quantize_backbone needs torchao; pip install 'kadapter\[quantization\]'"):
        run_adapter.main(given)


def test_blocks_in_8_bits_are_not_copied_into_an_adapter(quantized):
    with pytest.raises(ValueError, match=r"its weight of attention\.self\.query is not there as plain numbers"):
        quantized.add_adapter("top", TopLayersAdapterConfig())
    assert list(quantized.adapters) == ["fac"]
