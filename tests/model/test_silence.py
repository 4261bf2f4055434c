"""Adapters that are silent where they have little to say: what is left out, and that it is left out everywhere."""

import json

import pytest
import torch
from helpers import batch, output, tiny_backbone
from tiny_decoders import causal_lm, small_prenorm, teach, texts, tiny_decoder

from kadapter import KAdapterForCausalLM, KAdapterModel, PreNormAdapterConfig


def sizes_of(contribution):
    return contribution.square().mean(-1).sqrt()


def twins(share=1.0):
    """Two models of the same weights, of which the second is silent below the median size of its contributions."""
    backbone = tiny_decoder()
    loud = causal_lm(backbone, "facts")
    inputs = texts(side="right")
    with torch.no_grad():
        _, told = loud.base_model.contributions(**inputs)
    sizes = sizes_of(told["facts"])[inputs["attention_mask"] == 1]
    silent = causal_lm(backbone, adapters={"facts": small_prenorm(silent_below=share)})
    adapter = silent.base_model.adapters["facts"]
    adapter.load_state_dict(loud.base_model.adapters["facts"].state_dict(), strict=False)
    adapter.backbone_rms.fill_(sizes.median().item() / share * 1.0001)
    return loud, silent, inputs, told["facts"]


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_a_token_is_read_by_the_backbone_alone_where_the_adapter_has_little_to_say(share):
    loud, silent, inputs, told = twins(share)
    adapter = silent.base_model.adapters["facts"]
    quiet = (sizes_of(told) < share * adapter.backbone_rms) & (inputs["attention_mask"] == 1)
    speaks = ~quiet & (inputs["attention_mask"] == 1)
    with torch.no_grad():
        found, spoken = silent.base_model(**inputs), loud.base_model(**inputs)
    assert 3 < quiet.sum() and 3 < speaks.sum()
    assert torch.equal(found.last_hidden_state[quiet], found.backbone_hidden_state[quiet])
    assert torch.equal(found.last_hidden_state[speaks], spoken.last_hidden_state[speaks])
    assert not torch.equal(spoken.last_hidden_state[quiet], found.last_hidden_state[quiet])


def test_nothing_is_left_out_while_an_adapter_trains():
    loud, silent, inputs, _ = twins()
    for model in (loud, silent):
        model.train_adapter("facts")
        model.train()
    assert torch.equal(silent(**inputs).logits, loud(**inputs).logits)
    for model in (loud, silent):
        model.base_model.adapters["facts"].requires_grad_(False)
        model.train()  # a head, say, beside the frozen adapter
    assert not torch.equal(silent(**inputs).logits, loud(**inputs).logits)


def test_saved_and_loaded_it_is_silent_below_the_same_size(tmp_path):
    _, silent, inputs, _ = twins(0.2)
    silent.save_adapter(tmp_path / "facts", "facts")
    written = json.loads((tmp_path / "facts" / "config.json").read_text(encoding="utf-8"))["adapters"]["facts"]
    assert written["silent_below"] == 0.2
    again = KAdapterForCausalLM.from_backbone(tiny_decoder())
    again.load_adapter(tmp_path / "facts")
    again.eval()
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, silent(**inputs).logits)
    assert again.base_model.adapters["facts"].config.description.endswith("silent below 0.2")


def test_texts_are_generated_with_the_cache_as_without_it_and_a_batch_as_its_rows():
    _, silent, _, _ = twins()
    inputs = texts(side="left")
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    cached = silent.generate(**inputs, **options)
    assert torch.equal(cached, silent.generate(**inputs, **options, use_cache=False))
    for row in range(3):
        alone = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        kept = alone["attention_mask"][0].bool()
        alone = {name: tensor[:, kept] for name, tensor in alone.items()}
        assert torch.equal(silent.generate(**alone, **options)[0, -12:], cached[row, -12:])


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1, 1], [0.5, 0], [1, -1]])
def test_the_sum_of_adapters_is_silent_below_the_average_whatever_its_weights(weights):
    model = KAdapterForCausalLM.from_backbone(
        tiny_decoder(), adapters={name: small_prenorm(silent_below=0.5) for name in ("one", "two")}
    )
    teach(model)
    for name, unit in {"one": 2.0, "two": 4.0}.items():
        model.base_model.adapters[name].backbone_rms.fill_(unit)
    model.add_weighted_adapter(["one", "two"], weights, "both")
    assert model.base_model.adapters["both"].backbone_rms == 3.0


def test_beside_an_encoder_it_is_silent_alike():
    model = KAdapterModel.from_backbone(
        tiny_backbone("roberta"), adapters={"fac": small_prenorm(silent_below=1.0)}, fusion="delta"
    ).eval()
    teach(model)
    model.adapters["fac"].backbone_rms.fill_(1e6)
    with torch.no_grad():
        found = model(**batch())
    assert torch.equal(found.last_hidden_state, found.backbone_hidden_state)
    model.adapters["fac"].backbone_rms.fill_(1e-6)
    assert not torch.equal(output(model), found.backbone_hidden_state)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_a_size_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"silent_below=.* must be a number of at least 0, which is for never"):
        PreNormAdapterConfig(silent_below=value)
