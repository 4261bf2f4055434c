"""Build the contestants' models with random weights, in the shapes of a `Size` and directly in their dtype."""

from __future__ import annotations

from typing import Any

import torch
from _work import BOTTLENECK, LORA_RANK, Size
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, RobertaConfig, RobertaModel
from transformers.models.bert.modeling_bert import BertEncoder

from kadapter.configuration_kadapter import KnowledgeAdapterConfig, default_layers
from kadapter.heads_kadapter import KAdapterForEntityPairClassification
from kadapter.modeling_kadapter import KAdapterModel
from kadapter.trainers.common.backbone_options import eight_bits

PAD, RELATIONS = 1, 80  # RoBERTa's padding id; the number of relations of FewRel


def backbone(size: Size, dtype: torch.dtype = torch.float32, pooler: bool = False, **settings: Any) -> RobertaModel:
    """Return a RoBERTa encoder in training mode."""
    config = RobertaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.blocks,
        num_attention_heads=size.heads,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        **settings,
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # casting afterwards would raise the peak of memory
    try:
        return RobertaModel(config, add_pooling_layer=pooler).train()
    finally:
        torch.set_default_dtype(default)


def adapter_config(size: Size) -> KnowledgeAdapterConfig:
    """Return the shape of the knowledge adapter, which is the paper's for roberta-large."""
    return KnowledgeAdapterConfig(
        hidden_size=size.adapter_width,
        intermediate_size=size.adapter_intermediate,
        num_attention_heads=size.adapter_heads,
        num_hidden_layers=size.adapter_blocks,
    )


def ours(
    size: Size, dtype: torch.dtype, adapters: int = 1, quantized: bool = False
) -> KAdapterForEntityPairClassification:
    """Return trainable float32 knowledge adapters under a head, on a frozen backbone of a dtype.

    A quantized backbone multiplies in 8 bits, as with --quantize_backbone of run_adapter.py.
    """
    fields, plain = {"fusion": "concat", "num_labels": RELATIONS}, backbone(size, dtype)
    if quantized:
        from torchao.quantization import quantize_

        quantize_(plain, eight_bits(plain.device))
    model = KAdapterForEntityPairClassification.from_backbone(plain, **fields)
    model.train_adapter(_add_adapters(model, size, adapters))
    return model


def composed(size: Size, dtype: torch.dtype, adapters: int) -> nn.Module:
    """Return a backbone with added adapters, or the plain backbone without any, in a dtype and in eval mode."""
    plain = backbone(size, dtype).eval()
    if not adapters:
        return plain
    model = KAdapterModel.from_backbone(plain, fusion="add")
    _add_adapters(model, size, adapters)
    return model.to(dtype).eval()


def _add_adapters(model: Any, size: Size, number: int) -> list[str]:
    names = [f"adapter{index}" for index in range(number)]
    for name in names:
        model.add_adapter(name, adapter_config(size))
    return names


class PairClassifier(nn.Module):
    """A relation head on the two marked tokens of an encoder, which PEFT may have wrapped."""

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(2 * width, RELATIONS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, entity_positions: Tensor, labels: Tensor) -> dict:
        """Return the loss under "loss"."""
        hidden_states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        sentences = torch.arange(len(hidden_states), device=hidden_states.device)[:, None]
        logits = self.head(hidden_states[sentences, entity_positions].flatten(1)).float()
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def full(size: Size) -> PairClassifier:
    """Return the whole encoder under a head, all of it trainable."""
    return PairClassifier(backbone(size), size.width)


def low_rank(size: Size, contestant: str) -> PairClassifier:
    """Return an encoder with trainable LoRA weights of PEFT: rank 8 on query and value, or similar to bottlenecks.

    PEFT has no bottleneck adapters (Houlsby et al., 2019). A LoRA of their width in their two positions, on the
    outputs of attention and feed-forward, comes closest: equal weights and products, but no activation between them.
    """
    from peft import LoraConfig, get_peft_model

    settings = {
        "lora": {"r": LORA_RANK, "target_modules": ["query", "value"]},
        "bottleneck": {"r": BOTTLENECK, "target_modules": ["output.dense"]},
    }
    return PairClassifier(get_peft_model(backbone(size), LoraConfig(**settings[contestant])), size.width)


class Official(nn.Module):
    """The factual adapter's training model as published (fac-adapter.py), including its inefficiencies.

    All hidden states are kept, the pooler runs, attention is eager, adapters attend to padding, and the head projects
    all positions before it selects two of them by products with one-hot rows. The backbone requires no gradient, so
    autograd builds no graph for it even without no_grad.
    """

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.backbone = backbone(size, pooler=True, attn_implementation="eager").requires_grad_(False).eval()
        self.layers = default_layers(size.blocks)
        self.adapters = nn.ModuleList(OfficialLayer(size) for _ in self.layers)
        self.mix, self.dense = (nn.Linear(2 * size.width, size.width) for _ in range(2))
        self.dropout, self.out = nn.Dropout(0.1), nn.Linear(size.width, RELATIONS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, entity_positions: Tensor, labels: Tensor) -> Tensor:
        """Return the loss."""
        output = self.backbone(input_ids, attention_mask=attention_mask, output_hidden_states=True)
        hidden_states = torch.zeros_like(output.last_hidden_state)
        for layer, adapter in zip(self.layers, self.adapters, strict=True):
            hidden_states = adapter(output.hidden_states[layer] + hidden_states)
        mixed = self.mix(torch.cat([output.last_hidden_state, hidden_states], dim=2))
        rows = F.one_hot(entity_positions, input_ids.shape[1]).to(mixed)  # (B, 2, S)
        pair = torch.cat([torch.bmm(rows[:, n : n + 1], mixed).squeeze(1) for n in range(2)], dim=1)
        return F.cross_entropy(self.out(self.dropout(self.dense(pair))), labels)


class OfficialLayer(nn.Module):
    """An adapter layer as published: the BERT encoder of transformers between two projections."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        config = BertConfig(
            hidden_size=size.adapter_width,
            intermediate_size=size.adapter_intermediate,
            num_hidden_layers=size.adapter_blocks,
            num_attention_heads=size.adapter_heads,
            attn_implementation="eager",
        )
        self.down, self.up = nn.Linear(size.width, config.hidden_size), nn.Linear(config.hidden_size, size.width)
        self.encoder = BertEncoder(config)
        for projection in (self.down, self.up):
            nn.init.normal_(projection.weight, std=2e-4)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map (batch, sequence, width) to the same shape."""
        return hidden_states + self.up(self.encoder(self.down(hidden_states)).last_hidden_state)
