"""Configuration of K-Adapter models: the shape of each knowledge adapter and the backbone that it stands beside."""

import difflib
import itertools
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers import AutoConfig, PreTrainedConfig

__all__ = ["FUSIONS", "KAdapterConfig", "KnowledgeAdapterConfig", "check_adapter_name", "default_layers"]

FUSIONS = ("add", "concat", "gated")
DEPENDENCY_HEADS = ("arc", "official")
FORMAT_VERSION = 1
# Read from the backbone, never set: names as users of AutoModel ask for them.
BACKBONE_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "type_vocab_size",
    "vocab_size",
)


def default_layers(num_hidden_layers: int) -> list[int]:
    """Return the tapped hidden states for a backbone of `num_hidden_layers` blocks, (0, 11, 22) for 24 blocks."""
    taps = (0, num_hidden_layers // 2 - 1, num_hidden_layers - 2)
    return sorted({max(0, tap) for tap in taps})


def check_adapter_name(name: str) -> None:
    """Refuse an adapter name that could not be a module name, a file name and a part of a repository name.

    Raises:
        TypeError: the name is no string.
        ValueError: the name holds another character than letters, digits, "_" and "-", or is a method of a module.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"an adapter name is a string, not {type(name).__name__} ({name!r}); call add_adapter(name, config)"
        )
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"adapter name {name!r} may hold only letters, digits, '_' and '-'; choose another name")
    if name in dir(dict) or name in ("add_module", "forward", "parameters", "training"):
        raise ValueError(f"adapter name {name!r} is the name of a module's method; choose another name")


@strict
@dataclass(kw_only=True)
class KnowledgeAdapterConfig:
    """The shape of one knowledge adapter, stored with it so that nothing is guessed when it is loaded.

    Args:
        layers: the tapped hidden states, strictly increasing, 0 = embeddings, i = output of block i; None takes
            (0, N // 2 - 1, N - 2) of an N-block backbone. One adapter layer stands at each.
        hidden_size: inner width of an adapter layer, whatever the backbone's width.
        num_hidden_layers: transformer blocks in each adapter layer; 0 for no blocks and no projections, so that the
            adapter has no parameters and gives the sum of the states it taps (a control).
        num_attention_heads: attention heads of each block; divides `hidden_size`.
        intermediate_size: feed-forward width of each block.
        hidden_act: activation of the feed-forward layer; "gelu" is the exact one.
        hidden_dropout_prob: dropout after dense layers.
        attention_probs_dropout_prob: dropout of the attention weights.
        layer_norm_eps: epsilon of the layer norms.
        projection_initializer_range: standard deviation of the projections at the start; the small default makes a
            new adapter pass on the sum of the tapped states. None for torch's default, as in the official code's
            fine-tuning "without knowledge".
        skip_layers: 0 for none, else after every n-th layer the output of an earlier one is added, as published.
        mask_padding: whether padding is hidden from the adapter; False reproduces the official code, which leaks it.
        training: what the adapter was trained on and how well it did, for its model card; has no effect.

    Raises:
        ValueError: a size or a probability makes no adapter.

    Source: K-Adapter, section 3.1, and fac-adapter.py of the official code.
    """

    layers: list[int] | tuple[int, ...] | None = None
    hidden_size: int = 768
    num_hidden_layers: int = 2
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-5
    projection_initializer_range: float | int | None = 2e-4
    skip_layers: int = 0
    mask_padding: bool = True
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_attention_heads", "intermediate_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} of a knowledge adapter must be at least 1")
        if self.num_hidden_layers < 0:
            raise ValueError(f"num_hidden_layers={self.num_hidden_layers} must be at least 0, which is for no blocks")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} of a knowledge adapter must be divisible by "
                f"num_attention_heads={self.num_attention_heads}"
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        if self.skip_layers < 0 or self.skip_layers == 1:
            raise ValueError(f"skip_layers={self.skip_layers} must be 0 (off) or at least 2")
        if self.layers is not None:
            self._check_order(list(self.layers))

    def _check_order(self, layers: list[int]) -> None:
        if not layers or layers[0] < 0 or any(a >= b for a, b in itertools.pairwise(layers)):
            raise ValueError(
                f"layers={layers} must be indices of hidden states, at least one, none below 0, strictly increasing "
                f"and without repeats; try layers={sorted({max(0, layer) for layer in layers}) or [0]}"
            )

    def for_backbone(self, num_hidden_layers: int) -> "KnowledgeAdapterConfig":
        """Return this configuration with `layers` filled in and checked for a backbone of so many blocks.

        Raises:
            ValueError: a layer lies outside 0..num_hidden_layers.
        """
        layers = default_layers(num_hidden_layers) if self.layers is None else list(self.layers)
        if layers[-1] > num_hidden_layers:
            raise ValueError(
                f"layers={layers} must lie in 0..{num_hidden_layers} for a backbone of {num_hidden_layers} blocks "
                f"(0 = embeddings); try layers={default_layers(num_hidden_layers)}"
            )
        return KnowledgeAdapterConfig(**{**self.to_dict(), "layers": layers})

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as a plain dict that JSON can hold."""
        values = asdict(self)
        values["layers"] = None if self.layers is None else list(self.layers)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "") -> "KnowledgeAdapterConfig":
        """Build the typed configuration from a plain dict; `where` names its origin in errors.

        Raises:
            TypeError: a value is of another type than its field.
            ValueError: a key is unknown, or a value makes no adapter.
        """
        known = [one.name for one in fields(cls)]
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {known}"
                raise ValueError(f"unknown field {key!r} in the adapter configuration{where}; {hint}")
        try:
            return cls(**values)
        except StrictDataclassFieldValidationError as error:
            raise TypeError(f"the adapter configuration{where}: {error.__cause__}") from error


def _from_backbone(name: str) -> property:
    """A field that answers with the backbone's value and refuses to be set."""

    def read(self: "KAdapterConfig") -> Any:
        if self.backbone_config is None:
            raise AttributeError(f"{name} is the backbone's, and this configuration has no backbone_config yet")
        return getattr(self.typed_backbone_config(), name)

    def refuse(self: "KAdapterConfig", value: Any) -> None:
        raise ValueError(
            f"{name}={value!r} can't be set: it is the backbone's. Set an adapter's own {name} in its "
            "KnowledgeAdapterConfig, or choose another backbone"
        )

    return property(read, refuse, doc=f"The backbone's {name} (read only).")


@strict
class KAdapterConfig(PreTrainedConfig):
    """What a K-Adapter model is made of: a pinned backbone, the adapters beside it, and how their outputs are fused.

    Args:
        backbone_name_or_path: Hub id or directory of the backbone; None for one that exists only in memory.
        backbone_revision: commit that the backbone is pinned to.
        backbone_config: the backbone's own configuration, as a plain dict.
        backbone_fingerprint: hash of all tensors of the backbone's checkpoint as stored.
        backbone_modified: whether the backbone was trained or resized and so is saved with the model.
        adapters: for each adapter its `KnowledgeAdapterConfig` as a plain dict; `adapter_config(name)` is typed.
        active_adapters: names of the adapters in use; None for all.
        fusion: "add" (backbone + sum of adapters, no parameters), "concat" (learned, as in the official code) or
            "gated" (learned, starting from the plain backbone).
        inner_projections: whether each adapter has a frozen projection of its own within "concat", as in the official
            CosmosQA model.
        classifier_dropout: dropout in heads.
        dependency_head: "arc" (any length) or "official" (positions up to `num_positions`), for dependency parsing.
        arc_size: width of the arc scorer.
        num_positions: classes of the official dependency head, which are absolute token positions.
        format_version: version of the artifact's layout.
        record_digest: digest of the record that the saved weights carry, which tells whether both are of one save.

    Raises:
        TypeError: the adapters are no dict.
        ValueError: an unknown fusion or head, a bad adapter name, an active adapter that is not there.
    """

    model_type = "kadapter"

    backbone_name_or_path: str | None = None
    backbone_revision: str | None = None
    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    backbone_fingerprint: str | None = None
    backbone_modified: bool = False
    adapters: Any = None  # a dict; checked below, where the sentence can say how adapters are composed
    active_adapters: list[str] | None = None
    fusion: str = "add"
    inner_projections: bool = False
    classifier_dropout: float | int = 0.1
    dependency_head: str = "arc"
    arc_size: int = 256
    num_positions: int = 64
    pad_token_id: int | None = None
    format_version: int = FORMAT_VERSION
    record_digest: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.adapters, dict | None):
            raise TypeError(
                f"adapters={self.adapters!r} must be a dict of names and KnowledgeAdapterConfigs; artifacts are "
                "composed by compose_with=[...]"
            )
        self.adapters = {
            name: one.to_dict() if isinstance(one, KnowledgeAdapterConfig) else one
            for name, one in (self.adapters or {}).items()
        }
        if isinstance(self.backbone_config, PreTrainedConfig):
            self.backbone_config = self.backbone_config.to_dict()
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raise ValueError, naming field and value, where the fields do not make a model."""
        if self.format_version > FORMAT_VERSION:
            raise ValueError(
                f"this model was saved in format {self.format_version}, and this kadapter reads up to "
                f"{FORMAT_VERSION}; install a newer kadapter"
            )
        check_choice("fusion", self.fusion, FUSIONS)
        check_choice("dependency_head", self.dependency_head, DEPENDENCY_HEADS)
        for name, values in (self.adapters or {}).items():
            check_adapter_name(name)
            KnowledgeAdapterConfig.from_dict(values, where=f" of {name!r}")
        for name in self.active_adapters or []:
            if name not in (self.adapters or {}):
                raise ValueError(f"active adapter {name!r} is not one of the adapters {sorted(self.adapters or {})}")

    def adapter_config(self, name: str) -> "KnowledgeAdapterConfig":
        """Return the typed configuration of one adapter.

        Raises:
            ValueError: there is no adapter of that name.
        """
        if name not in self.adapters:
            raise ValueError(f"no adapter {name!r}; there are {sorted(self.adapters)}")
        return KnowledgeAdapterConfig.from_dict(self.adapters[name], where=f" of {name!r}")

    def typed_backbone_config(self) -> PreTrainedConfig:
        """Return the backbone's configuration as an object of its own class.

        Raises:
            ValueError: there is no backbone configuration, or its model type is not one of transformers'.
        """
        if not self.backbone_config or "model_type" not in self.backbone_config:
            raise ValueError(
                "this configuration has no backbone; build the model with KAdapterModel.from_backbone(ID_OR_PATH)"
            )
        values = dict(self.backbone_config)
        return AutoConfig.for_model(values.pop("model_type"), **values)

    for _name in BACKBONE_FIELDS:
        locals()[_name] = _from_backbone(_name)
    del _name


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Raise ValueError, with the nearest that is known, where a value is none of those."""
    if value not in known:
        close = difflib.get_close_matches(value, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name}={value!r} must be one of {list(known)}{hint}")


KAdapterConfig.register_for_auto_class()
