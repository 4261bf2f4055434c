"""Define the sizes of models, and count the floating-point operations that a method needs at least.

A matrix product of (m, k) and (k, n) counts 2 m k n. A backward pass costs as much as a forward pass for the gradient
of the inputs, and again for the gradient of the weights, if they are needed. Only real tokens count, not padding.
Embeddings, layer norms, activations, heads on single tokens and the optimizer, together a few percent, don't count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COMPILED = "ours-8bit-compiled"
QUANTIZED = ("ours-8bit-backbone", COMPILED)  # take part only on request
FRUGAL = ("ours-frugal", "ours-cached-frugal")  # likewise
CONTESTANTS = (
    "official",
    "lora",
    "bottleneck",
    "full",
    "ours",
    "ours-cached",
    "ours-cached-8bit",
    *QUANTIZED,
    *FRUGAL,
)
LORA_RANK, BOTTLENECK = 8, 64  # the default of PEFT, and the usual width of bottleneck adapters in comparisons


@dataclass(frozen=True)
class Size:
    """The shapes of a RoBERTa backbone and of its knowledge adapter."""

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
    "minilm": Size(384, 1536, 6, 12, 30522, 384, 1536),
    "tiny": Size(32, 64, 4, 4, 200, 16, 32, 2, matrix=128),
}


def backbone_forward(size: Size, lengths: Sequence[int]) -> float:
    """Return the operations of the backbone's forward pass over sentences of these lengths."""
    return _blocks(size.blocks, size.width, size.intermediate, lengths)


def adapter_forward(size: Size, lengths: Sequence[int]) -> float:
    """Return the operations of an adapter's forward pass: projections down and up, and the blocks between them."""
    projections = 2 * 2 * size.width * size.adapter_width * sum(lengths)
    blocks = _blocks(size.adapter_blocks, size.adapter_width, size.adapter_intermediate, lengths)
    return size.adapter_layers * (projections + blocks)


def low_rank_forward(size: Size, lengths: Sequence[int], contestant: str) -> float:
    """Return the operations of PEFT's additional weights: LoRA on query and value, or similar to bottlenecks."""
    weights = {"lora": LORA_RANK * 4 * size.width, "bottleneck": BOTTLENECK * (3 * size.width + size.intermediate)}
    return 2 * weights[contestant] * size.blocks * sum(lengths)


def training_step(contestant: str, size: Size, lengths: Sequence[int], adapters: int = 1) -> float:
    """Return the operations of a contestant's forward and backward pass, which its method needs on any hardware."""
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
