"""How a backbone numbers its tokens, and how the hidden states that are tapped are kept and no others."""

import contextlib
import copy
import ctypes
import difflib
import inspect
import sys
from collections import OrderedDict
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.utils.output_capturing import maybe_install_capturing_hooks

__all__ = [
    "Positions",
    "check_keywords",
    "check_tapped",
    "give_back",
    "glibc",
    "positions_of",
    "prepare_taps",
    "release",
    "run_and_tap",
    "set_mode",
    "without_capturing_hooks",
]

# What a backbone that documents its parameters takes beside them, if it takes others at all, and what an encoder's
# forward names for decoders alone.
DOCUMENTED = ("output_attentions", "output_hidden_states", "return_dict")
OF_DECODERS = ("cache_position", "encoder_attention_mask", "encoder_hidden_states", "past_key_values", "self")
ALWAYS = ("input_ids", "attention_mask", "position_ids", "inputs_embeds", "hidden_states")
INSTALLED = "_output_capturing_hooks_installed"  # by which transformers notes on a model that its hooks are placed


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
        return (index - (real.long().cumsum(dim=1) == 0).sum(dim=1, keepdim=True)).clamp(min=self.first)  # (B, S)


def check_keywords(keywords: dict[str, Any], backbone: nn.Module, own: Collection[str] = ()) -> None:
    """Refuse keywords of forward that neither a model, whose are `own`, nor its backbone knows.

    Transformers' forwards take any keyword and ignore what they do not know.

    Raises:
        TypeError: there is such; its value is not shown.
    """
    if torch.compiler.is_compiling():
        return
    parameters = inspect.signature(type(backbone).forward).parameters
    known = [*ALWAYS, *own, *DOCUMENTED, *(name for name in parameters if name not in OF_DECODERS)]
    for key, value in keywords.items():
        if key == "adapter_names":
            raise TypeError(
                "forward has no keyword 'adapter_names': all rows of a batch go through the active adapters; choose "
                "them by set_adapter, and give the rows of other adapters in a batch of their own"
            )
        if key not in known and not _means_nothing(key, value):
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"{type(backbone).__name__} has none either; leave it out"
            )
            raise TypeError(f"forward has no keyword {key!r}; {hint}")


def _means_nothing(key: str, value: Any) -> bool:
    """Return whether a tokenizer gave this for backbones that have token types, all of them the first type."""
    return key == "token_type_ids" and isinstance(value, Tensor | None) and (value is None or not value.any())


def positions_of(backbone: nn.Module) -> Positions:
    """Return how a backbone numbers its tokens."""
    embeddings = getattr(backbone, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if table is None or "position_ids" not in inspect.signature(backbone.forward).parameters:
        return Positions()  # relative or rotary positions: padding on the left shifts all of them alike
    padding = getattr(embeddings, "padding_idx", None)  # RoBERTa's rule: padding stays at its id, others follow
    first = 0 if padding is None else padding + 1
    return Positions(padding is not None, first, len(table.weight) - first)


def prepare_taps(backbone: nn.Module) -> None:
    """Let transformers place the hooks by which it captures hidden states, since `torch.compile` can't trace that.

    It learns what a class captures when an instance is made, which in a process that unpickles a model has not
    happened yet: without hooks it would return no hidden states, and say nothing.
    """
    maybe_install_capturing_hooks(backbone)
    captures = any(getattr(module, "_can_record_outputs", None) for module in backbone.modules())
    hooks = (hook for module in backbone.modules() for hook in module._forward_hooks.values())
    if captures and not any(map(_captures, hooks)):
        with torch.device("meta"):
            type(backbone)(backbone.config)
        for module in backbone.modules():
            vars(module).pop(INSTALLED, None)
        maybe_install_capturing_hooks(backbone)


def _captures(hook: Any) -> bool:
    return getattr(hook, "__module__", None) == maybe_install_capturing_hooks.__module__


def run_and_tap(
    backbone: nn.Module, inputs: dict[str, Any], layers: Collection[int] | None
) -> tuple[Any, dict[int, Tensor]]:
    """Run a backbone once, and return its output and its hidden states at these layers, 0 = embeddings; None for all.

    The backbone is asked for these layers alone, and keeps no others if it is of those that transformers captures
    outputs of. Nothing is written to the backbone or the model, so any number of threads may call at a time.

    Raises:
        ValueError: the backbone returns no such hidden states.
    """
    if layers is not None and not layers:
        return backbone(**inputs), {}
    output = backbone(**{**inputs, "output_hidden_states": True if layers is None else sorted(layers)})
    states = getattr(output, "hidden_states", None) or ()
    wanted = range(len(states)) if layers is None else layers
    tapped = {layer: states[layer] for layer in wanted if layer < len(states) and states[layer] is not None}
    if not tapped or len(tapped) < len(wanted):
        raise ValueError(
            f"{type(backbone).__name__} returned the hidden states {sorted(tapped)} where {sorted(layers or ())} were "
            "asked for; use an encoder that returns them when output_hidden_states is given"
        )
    return output, tapped


def without_capturing_hooks(module: nn.Module, copies: dict[nn.Module, nn.Module] | None = None) -> nn.Module:
    """Return a module that shares all tensors with this one and lacks transformers' hooks, which can't be pickled.

    They are functions defined within a function; transformers places them anew where they are missing.
    """
    copies = {} if copies is None else copies
    if module not in copies:
        copies[module] = twin = copy.copy(module)
        children = {name: child and without_capturing_hooks(child, copies) for name, child in module._modules.items()}
        hooks = {key: hook for key, hook in module._forward_hooks.items() if not _captures(hook)}
        vars(twin).update(_modules=children, _forward_hooks=OrderedDict(hooks))
        vars(twin).pop(INSTALLED, None)
    return copies[module]


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
    for module in backbone.modules():
        for name, one in module.named_parameters(recurse=False):  # exchanged, since 8-bit weights can't be emptied
            empty = torch.empty(0, dtype=one.dtype, device=one.device)
            setattr(module, name, nn.Parameter(empty, requires_grad=False))
    backbone.register_forward_pre_hook(_refuse_to_run, prepend=True)
    give_back()


def _refuse_to_run(module: nn.Module, args: tuple) -> None:
    raise ValueError("the backbone's weights have left memory; give hidden_states, or load the model again")


def give_back() -> None:
    """Give the memory that was freed back to the system, which glibc else keeps in its heap for itself."""
    glibc("malloc_trim", 0)


def glibc(function: str, *arguments: int) -> None:
    """Call a function of glibc, and nothing where the C library is another, which has its own ways."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            getattr(ctypes.CDLL(None), function)(*arguments)
