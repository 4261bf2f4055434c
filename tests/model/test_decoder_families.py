"""Families of decoders whose language models read more of their base model than its last state, or keep no cache."""

import pytest
import torch
from tiny_decoders import GROUPED, SPECIAL, USUAL, causal_lm, texts, tiny_decoder
from transformers import GenerationConfig

FEW = {"vocab_size": 60, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, **SPECIAL}
EXPERTS = {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LINEAR = {f"linear_{name}": size for name, size in (("num_key_heads", 2), ("num_value_heads", 4), ("key_head_dim", 8))}
NARROW = {"hidden_size_per_layer_input": 8, "laurel_rank": 4, "altup_num_inputs": 2, "num_kv_shared_layers": 0} | {
    "vocab_size_per_layer_input": 60,
    "activation_sparsity_pattern": [0.0] * 4,
}
FAMILIES = {
    "mixtral": {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**EXPERTS, "head_dim": 8},
    "falcon_h1": {**GROUPED, "mamba_d_ssm": 32, "mamba_n_heads": 8, "mamba_d_head": 4, "lm_head_multiplier": 0.5},
    "mamba": {**USUAL, "state_size": 4},
    "openai-gpt": FEW,
    "ctrl": {**FEW, "dff": 48},
    "biogpt": USUAL,
    "xglm": {**USUAL, "d_model": 32, "num_layers": 4, "attention_heads": 4, "ffn_dim": 48},
    "roberta": {**USUAL, "is_decoder": True},
    "qwen3_5_text": {**GROUPED, **LINEAR, "head_dim": 8, "linear_value_head_dim": 8},
    "gemma3n_text": {**GROUPED, **NARROW, "head_dim": 8, "intermediate_size": [48] * 4},
    "llama4_text": {**GROUPED, "num_local_experts": 2, "head_dim": 8, "intermediate_size_mlp": 16},
}
TABLES = ("openai-gpt", "ctrl", "biogpt", "xglm", "roberta")  # of positions
UNCACHED = ("mamba", "openai-gpt")


def decoder(family):
    return tiny_decoder(family, **FAMILIES[family])


@torch.no_grad()
def logits(model, **inputs):
    return model(**inputs).logits


def said(model, **options):
    return model.generate(**{**texts(), "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, **options})


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Lets `tiny_decoder` build these families, too."""
    monkeypatch.setattr("tiny_decoders.DECODERS", {family: {} for family in FAMILIES})


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "falcon_h1", "mamba", "openai-gpt"])
def test_a_new_adapter_changes_no_bit_whatever_a_family_reads_of_its_base_model(family):
    backbone = decoder(family)
    new, trained = causal_lm(backbone, "fac", trained=False), causal_lm(backbone, "fac")
    inputs = texts(side="right")
    real = inputs["attention_mask"].bool()
    assert torch.equal(logits(new, **inputs)[real], logits(backbone, **inputs)[real])
    assert torch.equal(said(new), said(backbone))
    assert not torch.equal(said(trained), said(backbone))


@pytest.mark.parametrize("family", TABLES)
def test_positions_of_every_table_are_counted_from_the_first_token_of_a_text(family):
    model, inputs = causal_lm(decoder(family), "fac"), texts()
    whole = logits(model, **inputs)
    for row, mask in enumerate(inputs["attention_mask"].bool()):
        alone = logits(model, input_ids=inputs["input_ids"][row, mask][None])[0]
        assert torch.allclose(whole[row, mask], alone, atol=1e-3)


def test_positions_of_a_roberta_that_decodes_go_on_behind_padding_in_the_cache():
    model, inputs = causal_lm(decoder("roberta"), "fac"), texts()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        first = model(ids[:, :6], mask[:, :6], use_cache=True)
        rest = model(ids[:, 6:], mask, past_key_values=first.past_key_values).logits
    assert torch.allclose(rest, logits(model, **inputs)[:, 6:], atol=1e-3)


@pytest.mark.parametrize("family", UNCACHED)
def test_a_backbone_without_a_usual_cache_generates_without_one_and_refuses_it_in_a_sentence(family):
    model = causal_lm(decoder(family), "fac")
    assert model(**texts()).past_key_values is None
    assert torch.equal(said(model), said(model, generation_config=GenerationConfig(pad_token_id=1)))
    kept = "keeps no cache in which adapters could keep theirs; leave out use_cache and past_key_values"
    with pytest.raises(ValueError, match=kept):
        model(**texts(), use_cache=True)
    with pytest.raises(ValueError, match=kept):
        said(model, use_cache=True)


def test_candidates_are_refused_beside_a_backbone_whose_cache_can_not_go_back():
    model, backbone = causal_lm(decoder("qwen3_5_text"), "fac"), decoder("qwen3_5_text")
    one = {"input_ids": torch.tensor([[5, 6, 7, 8] * 3]), "attention_mask": torch.ones(1, 12, dtype=torch.long)}
    for candidates in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": backbone}):
        for own in (backbone, model):
            with pytest.raises(ValueError, match="assisted generation is not supported with stateful models"):
                said(own, **one, **candidates)


def test_states_of_another_shape_and_language_models_without_a_base_are_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"Gemma3nTextModel returned hidden state 0 as \(2, 3, 9, 32\) and the last"):
        logits(causal_lm(decoder("gemma3n_text"), "fac"), **texts())
    with pytest.raises(ValueError, match="a Llama4ForCausalLM, does not say which part of it lies beneath its"):
        causal_lm(decoder("llama4_text"), "fac")
