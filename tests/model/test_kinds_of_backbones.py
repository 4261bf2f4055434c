"""Which models adapters can stand beside: text encoders, and decoders with adapters that do not look ahead."""

import pytest
import torch
from helpers import FAMILIES, SIZES, shake, tiny_backbone
from huggingface_hub import constants
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, T5Config, T5EncoderModel
from transformers.modeling_outputs import BaseModelOutput

from kadapter import KAdapterModel, KnowledgeAdapterConfig, PreNormAdapterConfig

SPECIAL = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
LLAMA_LIKE = {**SIZES, **SPECIAL, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 40}
DECODERS = {
    "gpt2": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40, **SPECIAL},
    "llama": LLAMA_LIKE,
    "qwen3": LLAMA_LIKE,
    "gpt_neox": {**SIZES, **SPECIAL},
    "bert": {**SIZES, "is_decoder": True},
    "roberta": {**SIZES, "is_decoder": True},
    "clip_text_model": {**SIZES, **SPECIAL, "projection_dim": 32, "max_position_embeddings": 40},
}
NO_TEXT = {
    "vit": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    "clip": {},
    "wav2vec2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
}


def tiny(model_type, **values):
    torch.manual_seed(0)
    return AutoModel.from_config(AutoConfig.for_model(model_type, **values)).eval()


@pytest.mark.parametrize("model_type", DECODERS)
def test_beside_a_decoder_an_adapter_that_would_look_ahead_is_refused_and_another_kind_named(model_type):
    decoder = tiny(model_type, **DECODERS[model_type])
    refused = (
        rf"'fac' is of kind 'k_adapter', which looks both ways, and the backbone \({model_type}\) is a decoder: its "
        r"tokens see only those before them.*use PreNormAdapterConfig\(\), kind 'prenorm'"
    )
    with pytest.raises(ValueError, match=refused):
        KAdapterModel.from_backbone(decoder, adapters={"fac": KnowledgeAdapterConfig()})
    model = KAdapterModel.from_backbone(decoder)
    with pytest.raises(ValueError, match=refused):
        model.add_adapter("fac")
    assert model.active_adapters() == [] and model.config.adapters == {}
    model.add_adapter("fac", PreNormAdapterConfig())
    assert model.config.adapters["fac"]["causal"] is True


@pytest.mark.parametrize("model_type", DECODERS)
def test_beside_a_decoder_a_new_adapter_changes_no_bit_and_a_later_token_no_earlier_output(model_type):
    decoder = tiny(model_type, **DECODERS[model_type])
    small = {"hidden_size": 16, "intermediate_size": 16}
    configs = {"fac": PreNormAdapterConfig(**small), "both": PreNormAdapterConfig(**small, causal=False)}
    model = KAdapterModel.from_backbone(decoder, adapters=configs).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 10]])  # alike but for the last token
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).last_hidden_state, decoder(input_ids=ids).last_hidden_state)
        shake(model)
        states = model(input_ids=ids).adapter_hidden_states
    assert torch.equal(states["fac"][0, :4], states["fac"][1, :4])
    assert all(not torch.equal(states[name][0, 4], states[name][1, 4]) for name in configs)
    assert not torch.equal(states["both"][0, :4], states["both"][1, :4])  # which was asked to look ahead


@pytest.mark.parametrize("model_type", NO_TEXT)
def test_what_reads_no_text_is_refused_by_what_it_reads_instead(tmp_path, model_type):
    AutoConfig.for_model(model_type, **NO_TEXT[model_type]).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ValueError, match=f"{model_type}.*a backbone is one text encoder"):
        KAdapterModel.from_backbone(str(tmp_path))


@pytest.mark.parametrize("model_type", ["gemma3_text", "xlnet"])
def test_a_model_of_a_decoders_kind_that_looks_both_ways_is_taken(model_type):
    values = {
        "gemma3_text": {**LLAMA_LIKE, "use_bidirectional_attention": True},
        "xlnet": {"vocab_size": 60, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    }[model_type]
    model = KAdapterModel.from_backbone(tiny(model_type, **values))
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert model(input_ids=ids).last_hidden_state.shape == (1, 3, 32)


def test_the_encoder_of_an_encoder_with_a_decoder_is_taken_and_the_whole_refused():
    config = T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    model = KAdapterModel.from_backbone(T5EncoderModel(config).eval())
    model.add_adapter("fac")
    with torch.no_grad():
        assert model(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state.shape == (1, 3, 32)
    with pytest.raises(ValueError, match="an encoder with a decoder"):
        KAdapterModel.from_backbone(tiny("t5", vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_encoders_is_taken_as_before_and_its_mode_kept(family):
    backbone = tiny_backbone(family).train()
    assert KAdapterModel.from_backbone(backbone).backbone is backbone


class OwnConfig(PreTrainedConfig):
    model_type = "own"
    hidden_size: int = 32
    num_hidden_layers: int = 1
    looks_ahead: bool = True


class OwnModel(PreTrainedModel):
    """A model of somebody's own: each token's state holds the mean of all tokens, or of those before it."""

    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = torch.nn.Embedding(60, config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False):
        first = self.embeddings(input_ids)
        counts = torch.arange(1, first.shape[1] + 1)[:, None]
        context = first.mean(1, keepdim=True) if self.config.looks_ahead else first.cumsum(1) / counts
        return BaseModelOutput(first + context, (first, first + context))


def test_a_model_of_code_of_its_own_is_judged_by_what_it_does():
    AutoConfig.register("own", OwnConfig, exist_ok=True)
    AutoModel.register(OwnConfig, OwnModel, exist_ok=True)
    encoder = OwnModel(OwnConfig())
    assert KAdapterModel.from_backbone(encoder).backbone is encoder
    decoder = KAdapterModel.from_backbone(OwnModel(OwnConfig(looks_ahead=False)))
    assert decoder.causal and not KAdapterModel.from_backbone(encoder).causal
    with pytest.raises(ValueError, match=r"\(own\) is a decoder"):
        decoder.add_adapter("fac")


def test_a_module_of_any_cached_commit_is_pinned_to_that_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository, commits = tmp_path / "models--org--encoder", {"a" * 40: 0, "b" * 40: 1}
    for commit, seed in commits.items():
        tiny_backbone(seed=seed).save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("b" * 40)
    for commit in commits:
        module = AutoModel.from_pretrained("org/encoder", revision=commit, cache_dir=tmp_path)
        model = KAdapterModel.from_backbone(module)
        assert model.config.backbone_revision == commit and model.config.backbone_fingerprint
        assert model.config.backbone_name_or_path == "org/encoder"
    with torch.no_grad():
        next(module.parameters()).add_(1.0)
    assert KAdapterModel.from_backbone(module).config.backbone_fingerprint is None
