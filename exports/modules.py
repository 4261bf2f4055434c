"""What is traced: the encoder with its taps, an adapter, fusion and head, or all of them.

Dimensions: B batch, S sequence, n positions that a head reads, H backbone width, K adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..backbone_kadapter import Positions, run_and_tap
from ..fusion_kadapter import AddFusion, ConcatFusion, GatedFusion, MaxFusion
from ..heads_kadapter import KAdapterHeadModel
from ..language_modeling_kadapter import KAdapterForMaskedLM

__all__ = ["AdapterGraph", "EncoderGraph", "FusionGraph", "WholeGraph"]


class EncoderGraph(nn.Module):
    """The frozen encoder: token ids to its last hidden state and those that adapters tap."""

    def __init__(self, backbone: nn.Module, positions: Positions, layers: Sequence[int], **keywords: Any) -> None:
        super().__init__()
        self.backbone, self.layers, self.positions, self.keywords = backbone, list(layers), positions, keywords

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Return (batch, sequence, hidden) each, the last first; positions are counted past padding on the left."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs["position_ids"] = self.positions.number(attention_mask, by_mask_alone=False)
        given = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        output, states = run_and_tap(self.backbone, {**given, **self.keywords, "return_dict": True}, self.layers)
        return (output.last_hidden_state, *(states[layer] for layer in self.layers))


class AdapterGraph(nn.Module):
    """One adapter: the hidden states that it taps to its output, or to its contribution alone."""

    def __init__(self, adapter: Any, contributions: bool) -> None:
        super().__init__()
        self.adapter = adapter
        self.chosen = {"contribution": True} if contributions and adapter.holds_tapped_states else {}

    def forward(self, hidden_states: list[Tensor], attention_mask: Tensor) -> tuple[Tensor]:
        """Map hidden states (batch, sequence, hidden) to the same shape."""
        return (self.adapter(hidden_states, attention_mask, **self.chosen),)


class FusionGraph(nn.Module):
    """Fusion and, where there is one, head: (B, n, H) of encoder and adapters to fused features and logits."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.fusion, self.head = model.base_model.fusion, getattr(model, "head", None)
        self.embeddings = model.get_input_embeddings() if isinstance(model, KAdapterForMaskedLM) else None
        self.logits = [model.logits] if isinstance(model, KAdapterHeadModel) else []  # a list holds no module

    def forward(
        self,
        backbone_hidden_state: Tensor,
        adapter_hidden_states: Tensor,
        present: Tensor,
        attention_mask: Tensor | None = None,
        word_positions: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Fuse (B, n, H) with (K, B, n, H), of which rows go through those that are `present` (K, B), 1 or 0."""
        fused = fuse(self.fusion, backbone_hidden_state, adapter_hidden_states, present)
        inputs = {"attention_mask": attention_mask, "word_positions": word_positions}
        return (fused, *(logits(fused, inputs) for logits in self.logits))


def fuse(fusion: AddFusion, backbone: Tensor, adapters: Tensor, present: Tensor) -> Tensor:
    """Fuse as `fusion_kadapter.py` does, without the adapters that a row does not go through."""
    shares = present[:, :, None, None]  # (K, B, 1, 1)
    if isinstance(fusion, ConcatFusion):
        fused = fusion(backbone, dict(zip(fusion.projections, adapters.unbind(), strict=True)))
        return torch.where((present > 0).all(dim=0)[:, None, None], fused, backbone)
    if isinstance(fusion, GatedFusion):
        fused = normed = fusion.layer_norm(backbone)
        for number, gate in enumerate(fusion.sources.values()):
            fused = fused + shares[number] * gate(adapters[number], normed)
        return fused
    adapters = adapters * shares  # of zeros, absent rows stay zeros
    if isinstance(fusion, MaxFusion):
        largest = adapters.norm(dim=-1, keepdim=True).argmax(dim=0, keepdim=True)  # (1, B, n, 1)
        return backbone + adapters.gather(0, largest.expand(-1, -1, -1, adapters.shape[-1]))[0]
    return backbone + adapters.sum(dim=0)


class WholeGraph(nn.Module):
    """Encoder, active adapters, fusion and head in one."""

    def __init__(self, model: Any, outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.outputs = model, list(outputs)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        entity_positions: Tensor | None = None,
        word_positions: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return what the model returns by the names of its outputs."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        inputs |= {"entity_positions": entity_positions, "word_positions": word_positions}
        output = self.model(**{name: tensor for name, tensor in inputs.items() if tensor is not None})
        return tuple(getattr(output, name) for name in self.outputs)
