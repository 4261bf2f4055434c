"""Small random decoders of every family, with their LM heads, and adapters beside them that say something."""

import torch
from helpers import SIZES
from tiny_runs import tokenizer_of
from transformers import AutoConfig, AutoModelForCausalLM

from kadapter import KAdapterForCausalLM, PreNormAdapterConfig

LONGEST = 64
SPECIAL = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
USUAL = {**SIZES, **SPECIAL, "max_position_embeddings": LONGEST}
GROUPED = {**USUAL, "num_key_value_heads": 2}
SOFT_CAP = 5.0
DECODERS = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "gpt2": {"vocab_size": 60, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": LONGEST, **SPECIAL},
    "gemma": {**GROUPED, "head_dim": 8},
    "gemma2": {**GROUPED, "head_dim": 8, "sliding_window": 4, "final_logit_softcapping": SOFT_CAP},
    "mistral": {**GROUPED, "sliding_window": 5},
    "opt": {**USUAL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt_neox": USUAL,  # its LM head is not tied to its embeddings
    "granite": {**GROUPED, "logits_scaling": 3.0},
}


def tiny_decoder(family="llama", seed=0, **changes):
    """A random language model of 4 blocks, 32 wide, whose weights are large enough to tell tokens apart."""
    config = AutoConfig.for_model(family, **{**DECODERS[family], **changes})
    model = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def small_prenorm(**changes):
    values = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "layers": [0, 2, 4]}
    return PreNormAdapterConfig(**{**values, **changes})


def causal_lm(backbone, *names, trained=True, **kwargs):
    """A language model with adapters of these names, whose up-projections are no zeros if they are `trained`."""
    adapters = {name: small_prenorm() for name in names}
    model = KAdapterForCausalLM.from_backbone(backbone, **{"adapters": adapters, **kwargs}).eval()
    return teach(model) if trained else model


def teach(model, seed=1):
    """Give the up-projections of all adapters large random weights, as training does, and leave the rest."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.base_model.adapters.named_parameters():
            if ".up_project." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def texts(lengths=(9, 6, 4), side="left", seed=3):
    """Token ids and mask of so many tokens each, padded on a side."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), SPECIAL["pad_token_id"])
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        place = slice(0, length) if side == "right" else slice(max(lengths) - length, None)
        ids[row, place] = torch.randint(5, 60, (length,), generator=generator)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def write_decoder(folder, texts, family="llama", **changes):
    """Write a random language model and a byte-level tokenizer of texts, which adds a start and an end."""
    tokenizer = tokenizer_of(texts)
    tokenizer.save_pretrained(folder)
    tiny_decoder(family, vocab_size=len(tokenizer), **changes).save_pretrained(folder)
    return tokenizer


def by_token(model, tokenizer, text, answer):
    """The log-probability of each token of an answer behind a text, read one after the other without any batch."""
    ids = tokenizer(text).input_ids[:-1]  # without the end
    logs = []
    for token in tokenizer(answer, add_special_tokens=False).input_ids:
        with torch.no_grad():
            scores = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        logs.append((scores, token))
        ids = [*ids, token]
    return logs
