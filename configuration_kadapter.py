"""Configuration of K-Adapter models: the adapters, the backbone that they stand beside, and their fusion."""

from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from .shape_kadapter import (
    KnowledgeAdapterConfig,
    check_adapter_name,
    check_choice,
    default_layers,
    refuse_misspelt,
    split_composition,
    with_plain_errors,
)

__all__ = [
    "FUSIONS",
    "KAdapterConfig",
    "KnowledgeAdapterConfig",
    "check_adapter_name",
    "check_choice",
    "default_layers",
    "refuse_misspelt",
    "split_composition",
]

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
    pad_token_id: int | None = None
    format_version: int = FORMAT_VERSION
    record_digest: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        refuse_misspelt(kwargs, (*(field.name for field in fields(self)), "num_labels"), type(self).__name__)
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
            ValueError: there is no backbone configuration, its model type is not one of transformers', or it is
                damaged.
        """
        if not self.backbone_config or "model_type" not in self.backbone_config:
            raise ValueError(
                "this configuration has no backbone; build the model with KAdapterModel.from_backbone(ID_OR_PATH)"
            )
        values = dict(self.backbone_config)
        try:
            return AutoConfig.for_model(values.pop("model_type"), **values)
        except (AttributeError, KeyError, TypeError, RecursionError, StrictDataclassError) as error:
            raise ValueError(
                f"backbone_config makes no configuration of a {self.backbone_config['model_type']!r} ({error}); save "
                "the artifact again"
            ) from error

    for _name in BACKBONE_FIELDS:
        locals()[_name] = _from_backbone(_name)
    del _name


KAdapterConfig.register_for_auto_class()
