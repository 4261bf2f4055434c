"""Fusion: how the backbone's features and those of its adapters become one (K-Adapter, section 3.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_kadapter import KAdapterConfig

__all__ = ["AddFusion", "ConcatFusion", "GatedFusion", "new_fusion"]


class AddFusion(nn.Module):
    """R + the sum of the adapters' outputs: no parameters, and what composing without training gives."""

    def __init__(self, names: Sequence[str], hidden_size: int) -> None:
        super().__init__()

    def forward(self, backbone: Tensor, adapters: dict[str, Tensor]) -> Tensor:
        """Fuse R and the active adapters' outputs, all (..., hidden)."""
        for states in adapters.values():
            backbone = backbone.to(states.device) + states
        return backbone

    def keep(self, old: "AddFusion") -> bool:
        """Take over what was learned for the adapters that stay; True if something must be trained anew."""
        return False

    def gates(self) -> dict[str, float]:
        """Return how far each adapter is let through; none are without gates."""
        return {}


class ConcatFusion(AddFusion):
    """Linear of [R; A] for each adapter and, where there are several, a Linear over those (the official "concat").

    The official CosmosQA model has an inner Linear of [R; A] before each, at random and frozen; its `a_rate` and
    `b_rate` are taken for 1, and others can be multiplied into the halves of that Linear's weight.
    """

    def __init__(self, names: Sequence[str], hidden_size: int, inner_projections: bool = False) -> None:
        super().__init__(names, hidden_size)
        self.projections = nn.ModuleDict({name: nn.Linear(2 * hidden_size, hidden_size) for name in names})
        self.combine = nn.Linear(len(names) * hidden_size, hidden_size) if len(names) > 1 else None
        inner = names if inner_projections else ()
        self.inner = nn.ModuleDict({name: nn.Linear(2 * hidden_size, hidden_size) for name in inner})
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

    def requires_grad_(self, requires_grad: bool = True) -> "ConcatFusion":
        """Train all but the inner projections, or nothing."""
        super().requires_grad_(requires_grad)
        self.inner.requires_grad_(False)
        return self

    def keep(self, old: "ConcatFusion") -> bool:
        """Take over each adapter's projection; what combines them is new where there are several."""
        for ours, theirs in ((self.projections, old.projections), (self.inner, old.inner)):
            for name in set(ours) & set(theirs):
                ours[name] = theirs[name]
        return self.combine is not None


def _joined(projection: nn.Linear, backbone: Tensor, states: Tensor) -> Tensor:
    both = torch.cat([backbone.to(states), states], dim=-1)  # (..., 2H)
    return projection(both.to(projection.weight.dtype))


class Gate(nn.Module):
    """One adapter's way into the fused features: gate * Linear(layer norm of A), shut at the start."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(()))
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, states: Tensor) -> Tensor:
        states = F.layer_norm(states.to(self.dense.weight.dtype), states.shape[-1:])
        return self.gate * self.dense(states)


class GatedFusion(AddFusion):
    """Layer norm of R + for each adapter gate * Linear(layer norm of A).

    Gates are zero at the start, so that training starts from the plain backbone and lets in what helps; an adapter
    that does not help stays out.
    """

    def __init__(self, names: Sequence[str], hidden_size: int) -> None:
        super().__init__(names, hidden_size)
        self.layer_norm = nn.LayerNorm(hidden_size)
        self.sources = nn.ModuleDict({name: Gate(hidden_size) for name in names})

    def forward(self, backbone: Tensor, adapters: dict[str, Tensor]) -> Tensor:
        """Fuse R and the active adapters' outputs, all (..., hidden)."""
        fused = self.layer_norm(backbone.to(self.layer_norm.weight))
        for name, states in adapters.items():
            fused = fused + self.sources[name](states.to(fused.device))
        return fused

    def keep(self, old: "GatedFusion") -> bool:
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
        for name, one in self.sources.items():
            weight, bias = one.dense.weight.detach().double(), one.dense.bias.detach().double()
            square = (weight.square().sum() + bias.square().sum()) / len(bias)
            sizes[name] = float(one.gate.detach().double().abs() * square.sqrt())
        return sizes


def new_fusion(config: KAdapterConfig, names: Sequence[str]) -> AddFusion:
    """Return a new fusion, as the configuration says, for adapters of these names."""
    if config.fusion == "concat":
        return ConcatFusion(names, config.hidden_size, config.inner_projections)
    return {"add": AddFusion, "gated": GatedFusion}[config.fusion](names, config.hidden_size)
