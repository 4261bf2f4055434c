"""What one does with adapters, by PEFT's names for it, and what is passed on to the backbone."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from transformers.utils import logging

from .artifacts_kadapter import (
    check_adapter,
    check_same_backbone,
    read_artifact,
    say_what_is_left_out,
)
from .backbone_kadapter import READING, plain
from .configuration_kadapter import KnowledgeAdapterConfig, check_adapter_name
from .sources_kadapter import tensors_under
from .tapping_kadapter import release

__all__ = ["AdapterVerbs", "refuse_keywords"]

logger = logging.get_logger(__name__)


def refuse_keywords(kwargs: dict[str, Any], known: Iterable[str], function: str) -> None:
    """Raise TypeError for the first keyword that is not known; its value, which may be a secret, is not shown."""
    known = list(known)
    for key in kwargs:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known)}"
            raise TypeError(f"{function} has no keyword {key!r}; {hint}")


class AdapterVerbs:
    """The verbs of PEFT's mixin in transformers, for adapters that stand outside the backbone.

    They act on the `KAdapterModel` inside, `model.base_model`.
    """

    config: Any
    base_model: Any

    def add_adapter(
        self, adapter_name: str, adapter_config: KnowledgeAdapterConfig | dict[str, Any] | None = None
    ) -> None:
        """Add a new, untrained adapter, which trains, and make it active besides the others.

        Raises:
            TypeError: the arguments are in another library's order or of another library's kind.
            ValueError: the name is taken or unfit, or a layer is out of the backbone's range.
        """
        if not isinstance(adapter_name, str) or not isinstance(adapter_config, KnowledgeAdapterConfig | dict | None):
            raise TypeError(
                "add_adapter takes (adapter_name: str, adapter_config: KnowledgeAdapterConfig), not "
                f"({type(adapter_name).__name__}, {type(adapter_config).__name__}); other libraries have another order"
            )
        if isinstance(adapter_config, dict):
            adapter_config = KnowledgeAdapterConfig.from_dict(adapter_config)
        with self.base_model._all_or_nothing():
            self.base_model._insert(adapter_name, adapter_config or KnowledgeAdapterConfig())

    def load_adapter(
        self, id_or_path: str, adapter_name: str | None = None, verify: bool = True, **kwargs: Any
    ) -> list[str]:
        """Load the adapters of an artifact, frozen and active besides the others, and return their names.

        `adapter_name` renames the adapter of an artifact that holds one. `revision`, `subfolder`, `token` and
        `cache_dir` mean the adapter's repository. No code of the artifact is run. `verify=False` spares comparing
        what was saved with the hashes that were saved with it.

        Raises:
            OSError: there is no such artifact.
            TypeError: the arguments are in another order, or a keyword is unknown.
            ValueError: a name is taken, the artifact is damaged or belongs to another backbone.
        """
        refuse_keywords(kwargs, ("verify", *READING), "load_adapter")
        if adapter_name is not None and "/" in str(adapter_name):
            raise TypeError(f"load_adapter takes (id_or_path, adapter_name), not ({id_or_path!r}, {adapter_name!r})")
        if adapter_name is not None:
            check_adapter_name(adapter_name)
        part = read_artifact(id_or_path, **kwargs)
        part.refuse_infinite()
        check_same_backbone(self.config.to_dict(), part)
        names = list(part.config["adapters"])
        if adapter_name is not None and len(names) != 1:
            raise ValueError(f"{part.where} holds {names}, which adapter_name={adapter_name!r} can't rename; drop it")
        renamed = {name: adapter_name or name for name in names}
        for new in renamed.values():
            self.base_model._check_free(new)
        say_what_is_left_out(part)
        with self.base_model._all_or_nothing():
            for old, new in renamed.items():
                tensors = tensors_under(f"adapters.{old}.", part.tensors)
                self.base_model._insert(new, check_adapter(part, old), tensors, part.where)
            if verify:  # after it is known that all tensors are there, in their shapes
                part.refuse_changed()
        return list(renamed.values())

    def delete_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Remove adapters; with "concat" fusion the remaining features are fused anew and need training."""
        with self.base_model._all_or_nothing():
            for name in self._known(adapter_names):
                self.base_model._remove(name)

    def set_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Make exactly these adapters active, in the order in which they were added.

        Raises:
            ValueError: an adapter is unknown, or the fusion is "concat", which is made for all of its adapters.
        """
        core, names = self.base_model, self._known(adapter_names)
        if self.config.fusion == "concat" and set(names) != set(core.adapters):
            raise ValueError(
                f"fusion 'concat' was made for all of {list(core.adapters)}, not for {names} alone; use fusion='add' "
                "or delete_adapter"
            )
        self.config.active_adapters = [name for name in core.adapters if name in names]
        core.adapters_enabled = True

    def active_adapters(self) -> list[str]:
        """Return the names of the adapters in use; none while they are disabled."""
        core, active = self.base_model, self.config.active_adapters
        return [name for name in core.adapters if core.adapters_enabled and (active is None or name in active)]

    def disable_adapters(self) -> None:
        """Answer with the backbone's features alone until `enable_adapters`."""
        self.base_model.adapters_enabled = False

    def enable_adapters(self) -> None:
        """Use the active adapters again."""
        self.base_model.adapters_enabled = True

    def train_adapter(self, adapter_names: str | Sequence[str]) -> None:
        """Train these adapters, the fusion and the head, and nothing else; also makes these adapters active."""
        core, names = self.base_model, self._known(adapter_names)
        with core._all_or_nothing():
            core.adapters_enabled = True
            if set(names) - set(self.active_adapters()):
                self.set_adapter([*self.active_adapters(), *names])
        self.requires_grad_(True)
        core.fusion.requires_grad_(True)  # all but what stays frozen there
        core.backbone.requires_grad_(False)
        for name, adapter in core.adapters.items():
            adapter.requires_grad_(name in names)
        self.train(self.training)

    def print_trainable_parameters(self) -> None:
        """Print how many parameters train, of how many."""
        counts = [(one.numel(), one.requires_grad) for one in self.parameters()]
        total, trainable = sum(n for n, _ in counts), sum(n for n, trains in counts if trains)
        share = 100 * trainable / max(total, 1)
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {share:.4f}")

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: dict | None = None
    ) -> dict[str, Tensor]:
        """Return one adapter's tensors by their names inside the adapter; the name may be left out if there is one."""
        names = self._known(adapter_name if adapter_name is not None else list(self.base_model.adapters))
        if len(names) != 1:
            raise ValueError(f"say which adapter you mean, of {names}")
        tensors = self.state_dict() if state_dict is None else state_dict
        tensors = {key.removeprefix("kadapter."): one for key, one in tensors.items()}
        return tensors_under(f"adapters.{names[0]}.", tensors)

    def tapped(self) -> list[int]:
        """Return the layers whose hidden states the active adapters read, in ascending order."""
        core = self.base_model
        return sorted({layer for name in self.active_adapters() for layer in core.adapters[name].config.layers})

    def enable_peft_hotswap(self, *args: Any, **kwargs: Any) -> None:
        """Refuse: our adapters stand outside the backbone and are exchanged by load_adapter and set_adapter."""
        raise ValueError("knowledge adapters need no hot-swapping; load several and choose by set_adapter")

    def _known(self, names: str | Sequence[str]) -> list[str]:
        names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
        for name in names:
            if name not in self.base_model.adapters:
                raise ValueError(f"no adapter {name!r}; there are {list(self.base_model.adapters)}")
        return names

    # ---- what is the backbone's -----------------------------------------------------------------------------------

    def get_input_embeddings(self) -> nn.Module:
        """Return the backbone's input embeddings."""
        return self.base_model.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's input embeddings; the backbone is saved with the model from then on."""
        backbone = self.base_model.backbone
        value.requires_grad_(backbone.get_input_embeddings().weight.requires_grad)
        backbone.set_input_embeddings(value)
        backbone.config.vocab_size = len(value.weight)
        self._mark_modified()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the backbone's input embeddings; the backbone is saved with the model from then on."""
        backbone = self.base_model.backbone
        weight = backbone.get_input_embeddings().weight
        shape, trains = weight.shape, weight.requires_grad  # before it is replaced in place
        embeddings = backbone.resize_token_embeddings(*args, **kwargs)
        if embeddings.weight.shape != shape:
            embeddings.requires_grad_(trains)
            self._mark_modified()
        return embeddings

    def release_backbone(self) -> None:
        """Let the frozen backbone's weights leave memory; from then on the model runs on `hidden_states` alone.

        What is saved stays as it was, since a frozen backbone is in no artifact.

        Raises:
            ValueError: the backbone trains or was changed, so it is nowhere else.
        """
        self._notice_training()
        if self.config.backbone_modified:
            raise ValueError("this model's backbone trains or was changed, and exists nowhere else; keep it")
        release(self.base_model.backbone)

    def _mark_modified(self) -> None:
        self.config.backbone_config = plain(self.base_model.backbone.config)
        self.config.backbone_modified = True
