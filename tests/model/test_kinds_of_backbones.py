"""Which models adapters can stand beside: text encoders that look both ways; all others are refused in a sentence."""

import pytest
import torch
from helpers import FAMILIES, SIZES, tiny_backbone
from huggingface_hub import constants
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, T5Config, T5EncoderModel
from transformers.modeling_outputs import BaseModelOutput

from kadapter import KAdapterModel

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
def test_a_decoder_is_refused_since_an_adapter_would_look_ahead(tmp_path, model_type):
    decoder = tiny(model_type, **DECODERS[model_type])
    with pytest.raises(ValueError, match=r"is a decoder: its tokens see only those before them.*use an encoder"):
        KAdapterModel.from_backbone(decoder)
    decoder.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"backbone '{tmp_path}'.*is a decoder"):
        KAdapterModel.from_backbone(str(tmp_path))


def test_a_decoder_is_refused_before_its_weights_are_fetched(tmp_path):
    AutoConfig.for_model("llama", **LLAMA_LIKE).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(ValueError, match="is a decoder"):
        KAdapterModel.from_backbone(str(tmp_path))


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
    with pytest.raises(ValueError, match=r"own.*is a decoder"):
        KAdapterModel.from_backbone(OwnModel(OwnConfig(looks_ahead=False)))


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
