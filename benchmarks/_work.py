"""Sizes of models, and the floating-point operations that a method can't do without.

A matrix product of (m, k) and (k, n) counts 2 m k n; a backward pass costs a forward pass for the gradient of what
goes in, and another for that of the weights, where either is needed. Counted are real tokens, not padding; not counted
are embeddings, layer norms, activations, heads on single tokens and the optimizer, together a few percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COMPILED = "ours-8bit-compiled"
QUANTIZED = ("ours-8bit-backbone", COMPILED)  # take part only where they are asked for
CONTESTANTS = ("official", "lora", "bottleneck", "full", "ours", "ours-cached", "ours-cached-8bit", *QUANTIZED)
LORA_RANK, BOTTLENECK = 8, 64  # PEFT's default, and the width at which bottleneck adapters are usually compared


@dataclass(frozen=True)
class Size:
    """The shape of a backbone, which is RoBERTa's, and of a knowledge adapter beside it."""

    width: int
    intermediate: int
    blocks: int
    heads: int
    vocabulary: int
    adapter_width: int = 768
    adapter_intermediate: int = 3072
    adapter_heads: int = 12
    adapter_blocks: int = 2
    adapter_layers: int = 3
    matrix: int = 2048  # side of the square matrices whose product measures the limit


SIZES = {
    "large": Size(1024, 4096, 24, 16, 50265),
    "base": Size(768, 3072, 12, 12, 50265),
    "tiny": Size(32, 64, 4, 4, 200, 16, 32, 2, matrix=128),
}


def backbone_forward(size: Size, lengths: Sequence[int]) -> float:
    """Operations of the backbone's forward pass over sentences of these lengths."""
    return _blocks(size.blocks, size.width, size.intermediate, lengths)


def adapter_forward(size: Size, lengths: Sequence[int]) -> float:
    """Operations of one knowledge adapter's forward pass: projections down and up, and the blocks between them."""
    projections = 2 * 2 * size.width * size.adapter_width * sum(lengths)
    blocks = _blocks(size.adapter_blocks, size.adapter_width, size.adapter_intermediate, lengths)
    return size.adapter_layers * (projections + blocks)


def low_rank_forward(size: Size, lengths: Sequence[int], contestant: str) -> float:
    """Operations of what PEFT adds: LoRA on query and value, or in the manner of bottleneck adapters."""
    weights = {"lora": LORA_RANK * 4 * size.width, "bottleneck": BOTTLENECK * (3 * size.width + size.intermediate)}
    return 2 * weights[contestant] * size.blocks * sum(lengths)


def training_step(contestant: str, size: Size, lengths: Sequence[int], adapters: int = 1) -> float:
    """Operations of forward and backward pass of a contestant, as its method needs them on whatever hardware."""
    backbone = backbone_forward(size, lengths)
    if contestant == "full":
        return 3 * backbone
    if contestant in ("lora", "bottleneck"):  # the gradient passes through the frozen weights, which need none
        return 2 * backbone + 3 * low_rank_forward(size, lengths, contestant)
    trained = 3 * adapters * adapter_forward(size, lengths)
    return trained if "cached" in contestant else backbone + trained


def _blocks(number: int, width: int, intermediate: int, lengths: Sequence[int]) -> float:
    dense = 2 * (4 * width**2 + 2 * width * intermediate) * sum(lengths)
    attention = 4 * width * sum(length**2 for length in lengths)
    return number * (dense + attention)
