"""Fusion: what becomes of the backbone's last hidden state and the outputs of several adapters.

Dimensions: B batch, S sequence, H backbone width, K adapters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .artifacts_kadapter import adapter_hash
from .configuration_kadapter import BASE, KAdapterConfig, KnowledgeAdapterConfig
from .rows_kadapter import Linear, RowAdapters

__all__ = [
    "AddFusion",
    "ConcatFusion",
    "DeltaFusion",
    "GatedFusion",
    "MaxFusion",
    "TokenGatedFusion",
    "check_same_shape",
    "new_fusion",
    "take_weights",
    "weighted_sum",
]


class AddFusion(nn.Module):
    """R + the sum of the adapters' outputs: no parameters, and what composing without training gives."""

    reads = "adapters"  # of each adapter its output; or its "contributions"

    def __init__(self, names: Sequence[str], hidden_size: int) -> None:
        super().__init__()

    def forward(self, backbone: Tensor, adapters: dict[str, Tensor]) -> Tensor:
        """Fuse R and the active adapters' outputs, all (..., hidden)."""
        for states in adapters.values():
            backbone = backbone.to(states.device) + states
        return backbone

    def fuse_rows(self, backbone: Tensor, adapters: dict[str, Tensor], row_adapters: RowAdapters | None) -> Tensor:
        """Fuse R and of each row the outputs of its own adapters, all (batch, ..., hidden); None for all of each."""
        if row_adapters is None:
            return self(backbone, adapters)
        fused = []
        for names, rows in row_adapters.groups.items():
            own = {name: row_adapters.select(adapters[name], rows) for name in names if name in adapters}
            with row_adapters.only(rows):
                fused.append(self(row_adapters.select(backbone, rows), own))
        return row_adapters.joined(fused, backbone.device)

    def check_rows(self, row_adapters: RowAdapters) -> None:
        """Refuse adapters of a row that this fusion can't fuse alone."""

    def keep(self, old: Any) -> bool:
        """Take over what was learned for the adapters that stay; True if something must be trained anew."""
        return False

    def rename(self, old: str, new: str) -> None:
        """Call what was learned for an adapter by its new name, in its old place."""
        for modules in self.children():
            if isinstance(modules, nn.ModuleDict):
                renamed = {new if name == old else name: module for name, module in modules.items()}
                modules.clear()
                modules.update(renamed)

    def gates(self) -> dict[str, float]:
        """Return how far each adapter is let through; none are without gates."""
        return {}


class DeltaFusion(AddFusion):
    """R + the sum of the adapters' contributions: no parameters, and R itself where they contribute nothing.

    An adapter's output holds the hidden states that it taps, so "add" moves R before an adapter has learned anything.
    """

    reads = "contributions"


class MaxFusion(DeltaFusion):
    """R + at each token the largest of the adapters' contributions by their norm: no parameters.

    Where adapters are silent about what others know, nothing is added to what the one that knows it says.
    """

    def forward(self, backbone: Tensor, adapters: dict[str, Tensor]) -> Tensor:
        """Fuse R and the active adapters' contributions, all (..., hidden)."""
        if not adapters:
            return backbone
        each = torch.stack([states.to(backbone.device) for states in adapters.values()])  # (adapters, ..., hidden)
        largest = each.norm(dim=-1, keepdim=True).argmax(dim=0, keepdim=True)
        return backbone + each.gather(0, largest.expand_as(each[:1]))[0]


class ConcatFusion(AddFusion):
    """Linear of [R; A] for each adapter and, where there are several, a Linear over those (the official "concat").

    The official CosmosQA model has an inner Linear of [R; A] before each, at random and frozen; its `a_rate` and
    `b_rate` are taken for 1, and others can be multiplied into the halves of that Linear's weight.
    """

    def __init__(self, names: Sequence[str], hidden_size: int, inner_projections: bool = False) -> None:
        super().__init__(names, hidden_size)
        self.projections = nn.ModuleDict({name: Linear(2 * hidden_size, hidden_size) for name in names})
        self.combine = Linear(len(names) * hidden_size, hidden_size) if len(names) > 1 else None
        inner = names if inner_projections else ()
        self.inner = nn.ModuleDict({name: Linear(2 * hidden_size, hidden_size) for name in inner})
        self.inner.requires_grad_(False)

    def forward(self, backbone: Tensor, adapters: dict[str, Tensor]) -> Tensor:
        """Fuse R and the active adapters' outputs, all (..., hidden)."""
        if not adapters:
            return backbone
        features = []
        for name, projection in self.projections.items():
            states = adapters[name]
            if name in self.inner:
                states = _joined(self.inner[name], backbone, states)
            features.append(_joined(projection, backbone, states))
        if self.combine is None:
            return features[0]
        return self.combine(torch.cat(features, dim=-1).to(self.combine.weight.dtype))

    def check_rows(self, row_adapters: RowAdapters) -> None:
        """Refuse a row with some of the adapters alone.

        Raises:
            ValueError: there is such a row.
        """
        fused = list(self.projections)
        for row, names in enumerate(row_adapters.names):
            if names and not set(fused) <= set(names):
                raise ValueError(
                    f"adapter_names[{row}] = {list(names)}, and fusion 'concat' was trained for all of {fused} "
                    f"together, so it has no weights for some alone; name all in this row, or {BASE!r}"
                )

    def requires_grad_(self, requires_grad: bool = True) -> ConcatFusion:
        """Train all but the inner projections, or nothing."""
        super().requires_grad_(requires_grad)
        self.inner.requires_grad_(False)
        return self

    def keep(self, old: Any) -> bool:
        """Take over each adapter's projection; what combines several is new, unless they are the same as before."""
        for ours, theirs in ((self.projections, old.projections), (self.inner, old.inner)):
            for name in set(ours) & set(theirs):
                ours[name] = theirs[name]
        if list(self.projections) == list(old.projections):  # a plug-in without features came or went
            self.combine = old.combine
            return False
        return self.combine is not None


def _joined(projection: Any, backbone: Tensor, states: Tensor) -> Tensor:
    both = torch.cat([backbone.to(states), states], dim=-1)  # (..., 2H)
    return projection(both.to(projection.weight.dtype))


class Gate(nn.Module):
    """One adapter's way into the fused features: gate * Linear(layer norm of A), shut at the start."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))
        self.dense = Linear(hidden_size, hidden_size)

    def forward(self, states: Tensor, normed: Tensor) -> Tensor:
        """Map A, and R after its layer norm, both (..., hidden), to what is added to the latter."""
        states = F.layer_norm(states.to(self.dense.weight.dtype), states.shape[-1:])
        return self.openness(normed) * self.dense(states)

    def openness(self, normed: Tensor) -> Tensor:
        """Return the gate, which is the same for all tokens of R."""
        return self.gate

    def mean_square(self) -> Tensor:
        """Return the mean square of the gate."""
        return self.gate.square()


class TokenGate(Gate):
    """A gate that each token opens for itself: gate + the mean over all channels of weight * layer norm of R.

    As a mean it opens no more quickly than the scalar alone, beside which it starts: shut.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.weight = nn.Parameter(torch.zeros(hidden_size))

    def openness(self, normed: Tensor) -> Tensor:
        """Return the gates of all tokens (..., 1)."""
        return self.gate + (self.weight * normed).mean(dim=-1, keepdim=True)

    def mean_square(self) -> Tensor:
        """Return the mean square of the gates, for which the layer-normed R is taken to be white."""
        return self.gate.square() + self.weight.square().sum() / len(self.weight) ** 2


class GatedFusion(AddFusion):
    """Layer norm of R + for each adapter gate * Linear(layer norm of A).

    Gates are zero at the start, so that training starts from the plain backbone and lets in what helps; an adapter
    that does not help stays out.
    """

    gate_class = Gate

    def __init__(self, names: Sequence[str], hidden_size: int) -> None:
        super().__init__(names, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size)
        self.sources = nn.ModuleDict({name: self.gate_class(hidden_size) for name in names})

    def forward(self, backbone: Tensor, adapters: dict[str, Tensor]) -> Tensor:
        """Fuse R and the active adapters' outputs, all (..., hidden)."""
        fused = normed = self.layer_norm(backbone.to(self.layer_norm.weight))
        for name, states in adapters.items():
            fused = fused + self.sources[name](states.to(fused.device), normed)
        return fused

    def keep(self, old: Any) -> bool:
        """Take over the layer norm and each adapter's gate; a new one is shut and harms nothing."""
        self.layer_norm = old.layer_norm
        for name in set(self.sources) & set(old.sources):
            self.sources[name] = old.sources[name]
        return False

    def gates(self) -> dict[str, float]:
        """Return the size of what each adapter adds to the layer-normed backbone, as a root mean square.

        It is |gate| times that of the Linear, for which a layer-normed input is taken to be white: the gate alone
        would not tell, since the Linear can grow in its place.
        """
        sizes = {}
        gate: Any
        for name, gate in self.sources.items():
            weight, bias = gate.dense.weight.detach().double(), gate.dense.bias.detach().double()
            square = (weight.square().sum() + bias.square().sum()) / len(bias)
            sizes[name] = float((gate.mean_square().detach().double() * square).sqrt())
        return sizes


class TokenGatedFusion(GatedFusion):
    """As "gated", with gates that each token opens for itself."""

    gate_class = TokenGate


def new_fusion(config: KAdapterConfig, names: Sequence[str]) -> AddFusion:
    """Return a new fusion, as the configuration says, for adapters of these names."""
    if config.fusion == "concat":
        return ConcatFusion(names, config.hidden_size, config.inner_projections)
    learned = {"gated": GatedFusion, "gated_token": TokenGatedFusion}
    fusions = {"add": AddFusion, "delta": DeltaFusion, "max": MaxFusion, **learned}
    return fusions[config.fusion](names, config.hidden_size)


# ---- adapters of one shape: several in one, and one in another's place ----------------------------------------------


# What adapters may differ in and still be of one shape: how they train, and what is said of them.
FREE = ("hidden_dropout_prob", "attention_probs_dropout_prob", "projection_initializer_range", "training", "source")


def weighted_sum(
    modules: Mapping[str, nn.Module],
    shapes: Mapping[str, dict[str, Any]],
    names: Sequence[str],
    weights: Sequence[float],
    combination_type: str = "linear",
) -> tuple[KnowledgeAdapterConfig, dict[str, Tensor]]:
    """Return configuration and tensors of the weighted sum of adapters, in the dtype of the first.

    Args:
        modules: adapters by name.
        shapes: their stored configurations.
        names: which of them are added.
        weights: of each its weight; a single one with weight 1 is copied to the bit.
        combination_type: "linear"; the others of PEFT are for matrices of low rank.

    Raises:
        TypeError: a weight is no number.
        ValueError: there is no adapter, or no such adapter, weights are fewer, more or not finite, or adapters differ
            in their shape or their kind.
    """
    if combination_type != "linear":
        raise ValueError(f"combination_type={combination_type!r} is not possible here; give 'linear'")
    _check_summands(modules, names, weights)
    for name in names[1:]:
        check_same_shape(names[0], shapes[names[0]], name, shapes[name], "have a sum")
    states = [modules[name].state_dict() for name in names]
    measured = {key for key, _ in modules[names[0]].named_buffers()}  # no weights, such as a size of the backbone's
    even = [1 / len(names)] * len(names)
    tensors = {
        key: _sum([state[key] for state in states], even if key in measured else weights)
        if tensor.is_floating_point()
        else tensor.clone()
        for key, tensor in states[0].items()
    }
    parents = [
        {"adapter": name, "weight": float(weight), "hash": adapter_hash(shapes[name], state)}
        for name, weight, state in zip(names, weights, states, strict=True)
    ]
    shape = {**shapes[names[0]], "training": {"parents": parents}, "source": {}}
    return KnowledgeAdapterConfig.from_dict(shape), tensors


def _check_summands(modules: Mapping[str, nn.Module], names: Sequence[str], weights: Sequence[float]) -> None:
    if isinstance(names, str) or not names:
        raise ValueError(f"adapters={names!r} must be a list of at least one adapter; there are {list(modules)}")
    for name in names:
        if name not in modules:
            raise ValueError(f"no adapter {name!r}; there are {list(modules)}")
    if len(weights) != len(names):
        raise ValueError(f"{len(weights)} weights for {len(names)} adapters ({list(names)}); give one for each")
    for name, weight in zip(names, weights, strict=True):
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise TypeError(f"the weight of adapter {name!r} is {weight!r}, and must be a number")
        if not math.isfinite(weight):
            raise ValueError(f"the weight of adapter {name!r} is {weight}, and must be finite")


def check_same_shape(first: str, one: dict[str, Any], name: str, other: dict[str, Any], purpose: str) -> None:
    """Refuse adapters whose weights don't mean the same.

    Raises:
        ValueError: they differ in kind or shape.
    """
    for key in {"kind": None, **one, **other}:  # the kind first, since another shape follows from it
        if key not in FREE and one.get(key) != other.get(key):
            raise ValueError(
                f"adapter {name!r} has {key}={other.get(key)!r}, and {first!r} has {one.get(key)!r}; only adapters of "
                f"one shape and kind, such as seeds of one training, {purpose}: compose others side by side"
            )


def take_weights(adapter: Any, successor: Any) -> None:
    """Copy another adapter's weights into one of the same shape, in place and in the dtype that it is held in.

    A graph that was compiled reads what is there, so it stays; what differs besides is how much is dropped out in
    training, and what is said of them.
    """
    adapter.load_state_dict(successor.state_dict())
    for own, other in zip(adapter.modules(), successor.modules(), strict=True):
        vars(own).update({key: value for key, value in vars(other).items() if isinstance(value, float)})
    adapter.config = successor.config


def _sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return a weighted sum, computed in at least 32 bits; it begins with the first, so that even -0 stays."""
    first, dtype = tensors[0], torch.promote_types(tensors[0].dtype, torch.float32)
    total = first.to(dtype) * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + tensor.to(first.device, dtype) * weight
    return total.to(first.dtype)
