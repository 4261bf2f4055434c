"""Configuration of K-Adapter models: the adapters' shapes, the backbone that they stand beside, and their fusion."""

import difflib
import importlib
import itertools
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from types import ModuleType
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError, StrictDataclassFieldValidationError
from transformers import AutoConfig, PreTrainedConfig

__all__ = [
    "BACKBONE_FIELDS",
    "BASE",
    "DEFAULT_KIND",
    "FUSIONS",
    "LM_HEADS",
    "PUBLISHED_SIZES",
    "RELEASE",
    "WITHOUT_WEIGHTS",
    "AdapterStatus",
    "KAdapterConfig",
    "KnowledgeAdapterConfig",
    "check_adapter_name",
    "check_choice",
    "default_layers",
    "plugin_module",
    "refuse_keywords",
    "refuse_misspelt",
    "refuse_published",
    "split_composition",
    "with_plain_errors",
]

# Of the paper's adapters beside roberta-large; hashes leave them out.
PUBLISHED_SIZES = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}
BASE = "__base__"  # the name, PEFT's, of no adapter at all
DEFAULT_KIND = "k_adapter"  # of the plug-ins of modeling_kadapter.py; where a configuration names none, too
HEAD_SIZE = 64  # width of an attention head where nothing else is asked for


def default_layers(num_hidden_layers: int) -> list[int]:
    """Return the tapped hidden states for a backbone of `num_hidden_layers` blocks, (0, 11, 22) for 24 blocks."""
    taps = (0, num_hidden_layers // 2 - 1, num_hidden_layers - 2)
    return sorted({max(0, tap) for tap in taps})


def default_width(backbone_width: int) -> int:
    """Return an adapter's inner width beside a backbone: three quarters of its width, in whole attention heads.

    768 beside the 1,024 of roberta-large, as published; 576 beside 768, 256 beside 384, and at least one head of 64.
    """
    return max(HEAD_SIZE, backbone_width * 3 // 4 // HEAD_SIZE * HEAD_SIZE)


def default_heads(hidden_size: int) -> int:
    """Return the number of attention heads of an adapter: as many of width 64 as fit in, and divide it evenly."""
    return next(heads for heads in range(max(1, hidden_size // HEAD_SIZE), 0, -1) if hidden_size % heads == 0)


def check_adapter_name(name: str) -> None:
    """Check that an adapter name is valid as a module, file and repository name.

    Raises:
        TypeError: the name is no string.
        ValueError: the name holds another character than letters, digits, "_" and "-", is a method of a module, or
            stands for no adapter.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"an adapter name is a string, not {type(name).__name__} ({name!r}); call add_adapter(name, config)"
        )
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"adapter name {name!r} may hold only letters, digits, '_' and '-'; choose another name")
    if name == BASE:
        raise ValueError(f"adapter name {name!r} stands for no adapter in adapter_names; choose another name")
    if name in dir(dict) or name in ("add_module", "forward", "parameters", "training"):
        raise ValueError(f"adapter name {name!r} is the name of a module's method; choose another name")


def plugin_module(kind: str) -> ModuleType:
    """Return the file of a kind of knowledge plug-ins, `KIND_kadapter.py` beside this one.

    Raises:
        ValueError: there is none.
    """
    try:
        module = importlib.import_module(f".{kind}_kadapter", __package__)
        if not issubclass(module.Config, KnowledgeAdapterConfig):
            raise TypeError(f"{module.__name__}.Config is no KnowledgeAdapterConfig")
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"kind={kind!r} of a knowledge plug-in is not known here, where there is {DEFAULT_KIND!r}; install a "
            "newer kadapter, put the file of that kind beside it, or name first an artifact that brings it along"
        ) from error
    return module


def with_plain_errors(purpose: str) -> Callable[[Any], Any]:
    """Make a strict dataclass report in one sentence which field has a value of the wrong type."""

    def decorate(config_class: Any) -> Any:
        set_strictly = config_class.__setattr__

        def __setattr__(self: Any, name: str, value: Any) -> None:
            try:
                set_strictly(self, name, value)
            except StrictDataclassFieldValidationError as error:
                raise TypeError(f"{name}={value!r} makes no {purpose}: {error.__cause__}") from None

        config_class.__setattr__ = __setattr__
        return config_class

    return decorate


@with_plain_errors("knowledge adapter")
@strict
@dataclass(kw_only=True)
class KnowledgeAdapterConfig:
    """The shape of one knowledge adapter, stored with it so that nothing is guessed when it is loaded.

    Args:
        layers: the tapped hidden states, strictly increasing, 0 = embeddings, i = output of block i; None takes
            (0, N // 2 - 1, N - 2) of an N-block backbone. One adapter layer stands at each.
        hidden_size: inner width of an adapter layer, any beside any backbone; None takes three quarters of the
            backbone's, in multiples of 64: 768 beside roberta-large, 576 beside 768, 256 beside 384.
        num_hidden_layers: transformer blocks in each adapter layer; 0 for no blocks and no projections, so that the
            adapter has no parameters and gives the sum of the states it taps (a control).
        num_attention_heads: attention heads of each block; divides `hidden_size`; None takes heads of width 64.
        intermediate_size: feed-forward width of each block; None takes four times `hidden_size`.
        hidden_act: activation of the feed-forward layer; "gelu" is the exact one.
        hidden_dropout_prob: dropout after dense layers.
        attention_probs_dropout_prob: dropout of the attention weights.
        layer_norm_eps: epsilon of the layer norms.
        projection_initializer_range: standard deviation of the projections at the start; the small default makes a
            new adapter pass on the sum of the tapped states; with 0 it does so exactly, and its contribution starts
            as zero. None for torch's default, as in the official code's fine-tuning "without knowledge".
        skip_layers: 0 for none, else after every n-th layer the output of an earlier one is added, as published.
        kind: the kind of plug-in, which names the file of its class; "k_adapter" is the class described here.
        mask_padding: whether padding is hidden from the adapter; False reproduces the official code, which leaks it.
        training: what the adapter was trained on and how well it did, for its model card; has no effect.
        source: where it was loaded from, as name_or_path, revision, subfolder and adapter, and the hash that it had
            there; an artifact tells it only of an adapter that it refers to instead of holding it.

    Raises:
        TypeError: a value is of another type than its field.
        ValueError: a size or a probability makes no adapter.

    Source: K-Adapter, section 3.1, and fac-adapter.py of the official code.
    """

    layers: list[int] | tuple[int, ...] | None = None
    hidden_size: int | None = None
    num_hidden_layers: int = 2
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    attention_probs_dropout_prob: float | int = 0.1
    layer_norm_eps: float = 1e-5
    projection_initializer_range: float | int | None = 2e-4
    skip_layers: int = 0
    mask_padding: bool = True
    kind: str = DEFAULT_KIND
    training: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    beside_the_shape: ClassVar[tuple[str, ...]] = ("training", "source")  # fields that change nothing that it computes

    def __post_init__(self) -> None:
        for name in PUBLISHED_SIZES:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} of a knowledge adapter must be at least 1")
        if self.num_hidden_layers < 0:
            raise ValueError(f"num_hidden_layers={self.num_hidden_layers} must be at least 0, which is for no blocks")
        if self.hidden_size and self.num_attention_heads and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} of a knowledge adapter must be divisible by "
                f"num_attention_heads={self.num_attention_heads}"
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        deviation = self.projection_initializer_range
        if deviation is not None and deviation < 0:
            raise ValueError(f"projection_initializer_range={deviation} is a standard deviation, so at least 0")
        if self.skip_layers < 0 or self.skip_layers == 1:
            raise ValueError(f"skip_layers={self.skip_layers} must be 0 (off) or at least 2")
        if self.layers is not None:
            self._check_order(list(self.layers))
        self._check_origin()

    def _check_origin(self) -> None:
        """Refuse what no trainer and no loading wrote of where an adapter comes from."""
        if not isinstance(self.training.get("results") or {}, dict):
            raise TypeError("'results' of a knowledge adapter's training must map names to numbers")
        check_source(self.source, {"adapter": str, **SOURCE}, "a knowledge adapter")

    def _check_order(self, layers: list[int]) -> None:
        if not layers or layers[0] < 0 or any(a >= b for a, b in itertools.pairwise(layers)):
            raise ValueError(
                f"layers={layers} must be indices of hidden states, at least one, none below 0, strictly increasing "
                f"and without repeats; try layers={sorted({max(0, layer) for layer in layers}) or [0]}"
            )

    def for_backbone(
        self,
        num_hidden_layers: int,
        hidden_size: int,
        embedding_size: int | None = None,
        causal: bool = False,
        backbone_config: PreTrainedConfig | None = None,
    ) -> "KnowledgeAdapterConfig":
        """Return this configuration with all that was left open filled in, checked for a backbone of this depth.

        Args:
            num_hidden_layers: the backbone's number of blocks.
            hidden_size: the backbone's width.
            embedding_size: width of the backbone's input embeddings, which means nothing for an adapter behind it.
            causal: whether the backbone's tokens see only those before them, which means nothing for this kind.
            backbone_config: the backbone's whole configuration, which means nothing for this kind.

        Raises:
            ValueError: a layer lies outside 0..num_hidden_layers.
        """
        layers = default_layers(num_hidden_layers) if self.layers is None else list(self.layers)
        if layers[-1] > num_hidden_layers:
            raise ValueError(
                f"layers={layers} must lie in 0..{num_hidden_layers} for a backbone of {num_hidden_layers} blocks "
                f"(0 = embeddings); try layers={default_layers(num_hidden_layers)}"
            )
        return type(self)(**{**self.to_dict(), "layers": layers, **self._sizes(hidden_size)})

    @property
    def description(self) -> str:
        """What it reads and how large it is, in words."""
        return (
            f"layers {list(self.layers or ())}, inner width {self.hidden_size}, {self.num_hidden_layers} blocks, "
            f"{self.num_attention_heads} heads"
        )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Width, attention heads and feed-forward width of each block.

        Raises:
            ValueError: one was left open, which `for_backbone` fills in.
        """
        if self.hidden_size is None or self.num_attention_heads is None or self.intermediate_size is None:
            raise ValueError("the sizes of this adapter depend on its backbone; fill them in by for_backbone")
        return self.hidden_size, self.num_attention_heads, self.intermediate_size

    def _sizes(self, backbone_width: int) -> dict[str, int]:
        """Return width, heads and feed-forward width, each as configured or by its rule."""
        heads, width = self.num_attention_heads, self.hidden_size
        if width is None:
            width = default_width(backbone_width)
            width = max(heads, width // heads * heads) if heads else width
        return {
            "hidden_size": width,
            "num_attention_heads": heads or default_heads(width),
            "intermediate_size": self.intermediate_size or 4 * width,
        }

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
        kind = values.get("kind", DEFAULT_KIND)
        if cls is KnowledgeAdapterConfig and kind != DEFAULT_KIND:
            return plugin_module(kind).Config.from_dict(values, where)
        known = [known_field.name for known_field in fields(cls)]
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {known}"
                raise ValueError(f"unknown field {key!r} in the adapter configuration{where}; {hint}")
        try:
            return cls(**values)
        except TypeError as error:
            raise TypeError(f"the adapter configuration{where}: {error}") from None


def refuse_published(config: KnowledgeAdapterConfig, what: str) -> None:
    """Raise ValueError where another kind's configuration asks for what only reproduces published code."""
    for name, only in (("skip_layers", 0), ("mask_padding", True)):
        if getattr(config, name) != only:
            raise ValueError(
                f"{name}={getattr(config, name)} means nothing for {what}; leave it out, or use "
                "KnowledgeAdapterConfig, the published kind"
            )


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Raise ValueError, suggesting the nearest known value, if a value is not known."""
    if value not in known:
        close = difflib.get_close_matches(value, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name}={value!r} must be one of {list(known)}{hint}")


def check_source(source: dict[str, Any], types: dict[str, Any], what: str) -> None:
    """Raise ValueError where a source, unless it is empty, does not tell where something was saved."""
    for key, kind in types.items() if source else ():
        if not isinstance(source.get(key), kind):
            raise ValueError(
                f"the source of {what} lacks {key!r} or has it of another type; it tells {', '.join(types)} of where "
                "it was saved, so save the artifact again"
            )


def check_head(name: str, head: Any, adapters: Iterable[str]) -> None:
    """Raise ValueError where the record of one of several heads does not tell its class and its adapters."""
    own = head.get("adapters") if isinstance(head, dict) else None
    if not isinstance(own, dict) or not isinstance(head.get("architecture"), str):
        raise ValueError(f"head {name!r} is described by {head!r}, which tells no 'architecture' and no 'adapters'")
    for adapter in own.values():
        if adapter not in adapters:
            raise ValueError(f"head {name!r} has adapter {adapter!r}, which is not one of {sorted(adapters)}")


def refuse_misspelt(kwargs: dict[str, Any], known: Iterable[str], function: str) -> None:
    """Raise TypeError for a keyword that is a misspelling of a known keyword; other keywords are passed on."""
    for key in kwargs:
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.85)
        if close and key not in known:
            raise TypeError(f"{function} has no keyword {key!r}; did you mean {close[0]!r}?")


def refuse_keywords(kwargs: dict[str, Any], known: Iterable[str], function: str) -> None:
    """Raise TypeError for the first keyword that is not known; its value, which may be a secret, is not shown."""
    known = list(known)
    for key in kwargs:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(known)}"
            raise TypeError(f"{function} has no keyword {key!r}; {hint}")


def split_composition(name: str | os.PathLike) -> list[str]:
    """Split "org/kadapter-fac+lin" into "org/kadapter-fac" and "org/kadapter-lin"; full ids joined by "+" work too.

    What stands before the first "+" up to its last "-" is the prefix. A directory of that very name is left whole,
    and so is the "+" in the directories above a path.
    """
    name = os.path.expanduser(name)
    folder, slash, last = name.rpartition("/")
    if "+" not in name or os.path.isdir(name) or ("+" not in last and os.path.isdir(folder)):
        return [name]
    if os.path.isdir(folder):
        first, *others = last.split("+")
        first, prefix = folder + slash + first, folder + slash + first[: first.rfind("-") + 1]
    else:
        first, *others = name.split("+")
        prefix = first[: max(first.rfind("-"), first.rfind("/")) + 1]
    return [first, *(other if "/" in other else prefix + other for other in others)]


# A digest of all files that travel, so that no two releases share one text of this file; `make style` renews it.
RELEASE = "7c03c7d94271c4f7"
FUSIONS = ("add", "concat", "gated", "gated_token", "delta", "max")
WITHOUT_WEIGHTS = ("add", "delta", "max")  # fusions that can be exchanged at any time
DEPENDENCY_HEADS = ("arc", "official")
LM_HEADS = ("backbone", "transform", "linear")
SOURCE = {  # what tells where something was loaded from, and the types of it
    "name_or_path": str,
    "hash": str,
    "revision": str | None,
    "subfolder": str | None,
}
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


@with_plain_errors("K-Adapter model")
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
        fusion: "add" (backbone + sum of adapters, no parameters), "concat" (learned, as in the official code),
            "gated" (learned, starting from the plain backbone), "gated_token" (the same with gates that each token
            opens for itself), "delta" (backbone + sum of what the adapters add to the states that they tap, no
            parameters, starting from the plain backbone) or "max" (as "delta", but at each token only of the adapter
            that adds most).
        inner_projections: whether each adapter has a frozen projection of its own within "concat", as in the official
            CosmosQA model.
        classifier_dropout: dropout in heads.
        dependency_head: "arc" (any length) or "official" (positions up to `num_positions`), for dependency parsing.
        arc_size: width of the arc scorer.
        num_positions: classes of the official dependency head, which are absolute token positions.
        lm_head: of the masked-LM model: "backbone" (the backbone's own LM head, frozen), "transform" (new: dense,
            activation, layer norm and the backbone's input embeddings) or "linear" (a new Linear, as in the paper).
        lm_head_source: where the LM head was loaded from, and its hash; None for the backbone's and for a new one.
        heads: of a model with several heads what each is made of, by name: its class, its adapters by their names in
            it, its fusion and its labels.
        format_version: version of the artifact's layout.
        record_digest: digest of the record that the saved weights carry, which tells whether both are of one save.

    Raises:
        TypeError: the adapters are no dict, or a field is misspelt.
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
    lm_head: str | None = None
    lm_head_source: dict[str, Any] | None = None
    heads: dict[str, Any] | None = None
    pad_token_id: int | None = None
    format_version: int = FORMAT_VERSION
    record_digest: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_misspelt(kwargs, (*(field.name for field in fields(self)), "num_labels"), type(self).__name__)
        if __name__ == "kadapter.configuration_kadapter":  # installed, with the pipelines: no code of an artifact runs
            kwargs.pop("custom_pipelines", None)
        if not isinstance(self.adapters, dict | None):
            raise TypeError(
                f"adapters={self.adapters!r} must be a dict of names and KnowledgeAdapterConfigs; artifacts are "
                "composed by compose_with=[...]"
            )
        self.adapters = {
            name: adapter.to_dict() if isinstance(adapter, KnowledgeAdapterConfig) else adapter
            for name, adapter in (self.adapters or {}).items()
        }
        if isinstance(self.backbone_config, PreTrainedConfig):
            self.backbone_config = self.backbone_config.to_dict()
        super().__post_init__(**kwargs)
        self.architectures = self.architectures or ["KAdapterModel"]  # by which AutoModel chooses between its two
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
        if self.lm_head is not None:
            check_choice("lm_head", self.lm_head, LM_HEADS)
        check_source(self.lm_head_source or {}, SOURCE, "an LM head")
        for name, values in (self.adapters or {}).items():
            check_adapter_name(name)
            KnowledgeAdapterConfig.from_dict(values, where=f" of {name!r}")
        for name in self.active_adapters or []:
            if name not in (self.adapters or {}):
                raise ValueError(f"active adapter {name!r} is not one of the adapters {sorted(self.adapters or {})}")
        for name, head in (self.heads or {}).items():
            check_head(name, head, self.adapters or {})

    def adapter_config(self, name: str) -> "KnowledgeAdapterConfig":
        """Return the typed configuration of one adapter.

        Raises:
            ValueError: there is no adapter of that name.
        """
        if name not in self.adapters:
            raise ValueError(f"no adapter {name!r}; there are {sorted(self.adapters)}")
        return KnowledgeAdapterConfig.from_dict(self.adapters[name], where=f" of {name!r}")

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Return this configuration, or, asked for that of a decoder, the backbone's, by which a cache is made."""
        if decoder and not encoder and self.backbone_config:
            return self.typed_backbone_config()
        return super().get_text_config(decoder=decoder, encoder=encoder)

    def validate_token_ids(self) -> None:
        """Leave the special tokens to the backbone's own configuration, whose they are."""

    def typed_backbone_config(self) -> PreTrainedConfig:
        """Return the backbone's configuration as an object of its own class.

        Raises:
            ValueError: there is no backbone configuration, its model type is not one of transformers', or it is
                damaged.
        """
        if not self.backbone_config or "model_type" not in self.backbone_config:
            raise ValueError(
                "this configuration has no backbone; build the model with KAdapterModel.from_backbone(ID_OR_PATH)"
            )
        values: dict[str, Any] = dict(self.backbone_config)
        model_type = values.pop("model_type")
        try:
            return AutoConfig.for_model(model_type, **values)
        except (AttributeError, KeyError, TypeError, RecursionError, StrictDataclassError) as error:
            raise ValueError(
                f"backbone_config makes no configuration of a {model_type!r} ({error}); save the artifact again"
            ) from error

    for _name in BACKBONE_FIELDS:
        locals()[_name] = _from_backbone(_name)
    del _name


KAdapterConfig.register_for_auto_class()


@dataclass(frozen=True)
class AdapterStatus:
    """What `get_adapter_status` tells of a model, by PEFT's names.

    Args:
        enabled: whether adapters are used at all.
        active_adapters: the names of those in use.
        available_adapters: the names of all.
        kinds: for each the kind of plug-in that it is.
        requires_grad: for each whether it trains; "irregular" where only some of its parameters do.
        devices: for each where its parameters are.
        dtypes: for each the dtypes of its parameters.
        parameters: for each how many it has.
        trainable_params: how many parameters of the whole model train.
        total_params: how many it has, those of the backbone included.
    """

    enabled: bool
    active_adapters: list[str]
    available_adapters: list[str]
    kinds: dict[str, str]
    requires_grad: dict[str, bool | str]
    devices: dict[str, list[str]]
    dtypes: dict[str, list[str]]
    parameters: dict[str, int]
    trainable_params: int
    total_params: int
