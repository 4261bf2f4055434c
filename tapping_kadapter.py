"""How a backbone numbers its tokens, and how the hidden states that are tapped are kept and no others."""

import contextlib
import ctypes
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Positions", "Taps", "check_tapped", "give_back", "glibc", "positions_of", "release", "set_mode"]


class Positions(NamedTuple):
    """How a backbone numbers tokens: by a look at their ids or not, from where on, and how many."""

    by_tokens: bool = False
    first: int | None = None
    longest: int | None = None

    def check_length(self, given: Tensor | None) -> None:
        """Raise ValueError for more tokens (batch, sequence, ...) than there are positions."""
        if given is not None and self.longest is not None and given.shape[1] > self.longest:
            raise ValueError(
                f"{given.shape[1]} tokens are more than the {self.longest} that the backbone takes; cut them"
            )

    def number(self, attention_mask: Tensor, by_mask_alone: bool) -> Tensor | None:
        """Number each row from its first real token on, where the backbone would count left padding along."""
        if self.first is None or attention_mask.dim() != 2 or (self.by_tokens and not by_mask_alone):
            return None
        real = attention_mask.bool()
        index = torch.arange(real.shape[1], device=real.device) + self.first
        return (index - (real.cumsum(dim=1) == 0).sum(dim=1, keepdim=True)).clamp(min=self.first)  # (B, S)


def positions_of(backbone: nn.Module) -> Positions:
    """Return how a backbone numbers its tokens."""
    embeddings = getattr(backbone, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if table is None or "position_ids" not in inspect.signature(backbone.forward).parameters:
        return Positions()  # relative or rotary positions: padding on the left shifts all of them alike
    padding = getattr(embeddings, "padding_idx", None)  # RoBERTa's rule: padding stays at its id, others follow
    first = 0 if padding is None else padding + 1
    return Positions(padding is not None, first, len(table.weight) - first)


class Taps:
    """Runs a backbone and keeps the hidden states that are tapped instead of all.

    Its first run gives all of them, and shows which of its modules take them one after another: its blocks. Later runs
    look at what goes into those. Where no such modules are found, all hidden states are asked for each time.
    """

    def __init__(self) -> None:
        self.blocks: list[str] = []  # their names, which mean a copy's own modules too

    def run(
        self, backbone: nn.Module, inputs: dict[str, Any], layers: Collection[int] | None
    ) -> tuple[Any, dict[int, Tensor]]:
        """Return a backbone's output and its hidden states at these layers, 0 = embeddings; at all for None."""
        if layers is not None and not layers:
            return backbone(**inputs), {}
        if layers is not None and self.blocks and not torch.is_grad_enabled():  # in a graph all are kept anyway
            found = self._run_and_tap(backbone, inputs, layers)
            if found is not None:
                return found
        return self._run_and_learn(backbone, inputs)

    def _run_and_tap(
        self, backbone: nn.Module, inputs: dict[str, Any], layers: Collection[int]
    ) -> tuple[Any, dict[int, Tensor]] | None:
        """Run with a look at the blocks; None if they were called by others too, or have become other modules."""
        entered: list[Tensor | None] = []

        def keep(block: str, states: Tensor | None) -> None:
            entered.append(states if len(entered) in layers else None)

        output = _watch(backbone, self.blocks, keep, inputs)
        if len(entered) != backbone.config.num_hidden_layers:
            return None
        entered.append(output.last_hidden_state)
        return output, {layer: one for layer, one in enumerate(entered) if one is not None}

    def _run_and_learn(self, backbone: nn.Module, inputs: dict[str, Any]) -> tuple[Any, dict[int, Tensor]]:
        """Run for all hidden states, and find out into which modules they go."""
        lists = {name: one for name, one in backbone.named_modules() if isinstance(one, nn.ModuleList)}
        members = [f"{name}.{number}" for name, one in lists.items() for number in range(len(one))]
        entered: dict[str, list[Tensor | None]] = {name: [] for name in lists}
        output = _watch(
            backbone,
            members,
            lambda member, one: entered[member.rpartition(".")[0]].append(one),
            {**inputs, "output_hidden_states": True},
        )
        states, last = output.hidden_states, output.last_hidden_state
        alike = [name for name, found in entered.items() if _same([*found, last], states)]
        if alike:  # if others ran the backbone meanwhile none is, and what was found before stays
            self.blocks = [member for member in members if member.rpartition(".")[0] == alike[0]]
        return output, dict(enumerate(states))


def _watch(
    backbone: nn.Module, members: Iterable[str], tell: Callable[[str, Tensor | None], None], inputs: dict[str, Any]
) -> Any:
    """Run a backbone and tell the first tensor that goes into each of these modules, by name, at each call."""
    modules = dict(backbone.named_modules())

    def hook(name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            tell(name, next((one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)), None))

        return enter

    hooks = [
        modules[name].register_forward_pre_hook(hook(name), with_kwargs=True) for name in members if name in modules
    ]
    try:
        return backbone(**inputs)
    finally:
        for one in hooks:
            one.remove()


def _same(found: Sequence[Tensor | None], states: Sequence[Tensor]) -> bool:
    return len(found) == len(states) and all(
        one is not None and (one is other or (one.device == other.device and torch.equal(one, other)))
        for one, other in zip(found, states, strict=True)
    )


def check_tapped(hidden_states: dict[int, Tensor], layers: Collection[int]) -> dict[int, Tensor]:
    """Return of given hidden states those at these layers, and the last as -1.

    Raises:
        ValueError: one of them, or -1 for the last, is missing.
    """
    if not {*layers, -1} <= set(hidden_states):
        raise ValueError(
            f"hidden_states hold the layers {sorted(hidden_states)}, and {sorted(layers)} are tapped, with -1 for the "
            "last; give what this model's tap returns"
        )
    return {layer: hidden_states[layer] for layer in (*layers, -1)}


def set_mode(module: nn.Module, training: bool) -> None:
    """Set training or eval mode where a part of the module has the other, since setting it takes longer than looking.

    A Trainer sets it in every step, and a frozen backbone has hundreds of parts.
    """
    if any(part.training != training for part in module.modules()):
        module.train(training)


def release(backbone: nn.Module) -> None:
    """Empty a backbone's parameters, and let it refuse to run from then on."""

    def refuse(module: nn.Module, args: tuple) -> None:
        raise ValueError("the backbone's weights have left memory; give hidden_states, or load the model again")

    for module in backbone.modules():
        for name, one in module.named_parameters(recurse=False):  # exchanged, since 8-bit weights can't be emptied
            empty = torch.empty(0, dtype=one.dtype, device=one.device)
            setattr(module, name, nn.Parameter(empty, requires_grad=False))
    backbone.register_forward_pre_hook(refuse, prepend=True)
    give_back()


def give_back() -> None:
    """Give the memory that was freed back to the system, which glibc else keeps in its heap for itself."""
    glibc("malloc_trim", 0)


def glibc(function: str, *arguments: int) -> None:
    """Call a function of glibc, and nothing where the C library is another, which has its own ways."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            getattr(ctypes.CDLL(None), function)(*arguments)
