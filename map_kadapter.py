"""Map-tuning: entity embeddings of a knowledge base, mapped into the input embeddings of a frozen model.

Plug-and-Play Knowledge Injection for Pre-trained Language Models (Zhang et al., ACL 2023, arXiv 2305.17691). From top
to bottom: the configuration, the map, and plugging it into any model of transformers.
Dimensions: B batch, S sequence, n slots, K width of the entity embeddings, E width of the input embeddings.
"""

import copy
import inspect
import os
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import Cache, EncoderDecoderCache, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN

from .artifacts_kadapter import check_adapter, copy_strictly, read_artifact, tensors_under
from .backbone_kadapter import brought_back, check_takes_embeddings, device_of, embeddings_of, of_beams, uncached
from .configuration_kadapter import KAdapterConfig, KnowledgeAdapterConfig, check_choice, with_plain_errors
from .heads_kadapter import *  # noqa: F403 (as the Auto classes look for heads in this file)
from .language_modeling_kadapter import *  # noqa: F403
from .modeling_kadapter import (
    KAdapterModel,
    KAdapterPreTrainedModel,
    KnowledgePlugin,
    Linear,
    can_be_looked_at,
    check_slots_apart,
    entities_by_name,
)
from .prenorm_kadapter import PreNormAdapterConfig  # noqa: F401 (so that its file travels to where both kinds are)
from .processing_kadapter import ENTITY_POSITIONS, MISSING_ENTITIES, KnowledgeSource, encode_knowledge

__all__ = [  # beside the heads, which the Auto classes find here too
    "Config",
    "KAdapterConfig",
    "KAdapterModel",
    "KnowledgeMap",
    "KnowledgeMapConfig",
    "Plugin",
    "plug",
    "unplug",
]

SAMPLES = 64  # entries of the input embeddings by which a map knows its encoder again
ALIKE = 0.8  # cosine of these above which they are of one encoder; fine-tuning leaves it near 1, and others are near 0


# ---- the configuration ----------------------------------------------------------------------------------------------


@with_plain_errors("knowledge map")
@strict
@dataclass(kw_only=True)
class KnowledgeMapConfig(KnowledgeAdapterConfig):
    """The shape of a knowledge map and the table that it was trained with, to which its artifact refers.

    Args:
        knowledge_size: width of the entity embeddings.
        embedding_size: width of the model's input embeddings; None takes it from the model.
        use_bias: whether the last Linear has a bias, as published; it is what an entity without a row becomes where
            `missing_entity` is "bias".
        num_hidden_layers: hidden layers before the last Linear; 0, as published, for an affine map.
        hidden_size: width of the hidden layers; None takes that of the input embeddings.
        hidden_act: activation of the hidden layers.
        hidden_dropout_prob: dropout after each hidden layer.
        knowledge_source: id or path of the table, `EntityEmbeddings`.
        knowledge_revision: commit of the table.
        knowledge_sha256: hash of the table; another table is refused.
        entity_position: "before" the mention as published, "after" or "instead" of it.
        separator: text between an entity and its mention.
        missing_entity: "skip" for no slot, or "bias" for one of zeros; see `KnowledgeSource`.

    Fields of knowledge adapters that are not named here mean nothing for a map.

    Raises:
        TypeError: a value is of another type than its field.
        ValueError: a size is below 1, a choice is unknown, or a map is asked to read hidden states.
    """

    knowledge_size: int = 128
    embedding_size: int | None = None
    use_bias: bool = True
    num_hidden_layers: int = 0
    hidden_dropout_prob: float | int = 0.0
    knowledge_source: str | None = None
    knowledge_revision: str | None = None
    knowledge_sha256: str | None = None
    entity_position: str = "before"
    separator: str = "/"
    missing_entity: str = "skip"
    kind: str = "map"
    beside_the_shape: ClassVar[tuple[str, ...]] = ("training", "source", "missing_entity")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers is not None:
            raise ValueError(f"layers={list(self.layers)}: a knowledge map reads no hidden states; leave layers out")
        for name in ("knowledge_size", "embedding_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} of a knowledge map must be at least 1")
        check_choice("entity_position", self.entity_position, ENTITY_POSITIONS)
        check_choice("missing_entity", self.missing_entity, MISSING_ENTITIES)
        check_choice("hidden_act", self.hidden_act, ACT2FN)

    def for_backbone(
        self,
        num_hidden_layers: int,
        hidden_size: int,
        embedding_size: int | None = None,
        causal: bool = False,
        backbone_config: PreTrainedConfig | None = None,
    ) -> "KnowledgeMapConfig":
        """Return this configuration with the width of the input embeddings filled in.

        Raises:
            ValueError: it was made for another width.
        """
        width = embedding_size or self.embedding_size or hidden_size
        if self.embedding_size not in (None, width):
            raise ValueError(
                f"a knowledge map of embedding_size={self.embedding_size} does not fit input embeddings that are "
                f"{width} wide; use the map that was trained beside this encoder, or leave embedding_size out"
            )
        inner = self.hidden_size or (width if self.num_hidden_layers else None)
        return type(self)(**{**self.to_dict(), "embedding_size": width, "hidden_size": inner})

    @property
    def description(self) -> str:
        """What it maps, in words."""
        form = "an affine map" if not self.num_hidden_layers else f"{self.num_hidden_layers} hidden layers"
        table = f" of {self.knowledge_source!r}" if self.knowledge_source else ""
        return (
            f"{form} of entity embeddings{table}, {self.knowledge_size} wide, into input embeddings, "
            f"{self.embedding_size} wide"
        )

    @classmethod
    def for_table(cls, entity_embeddings: Any, **values: Any) -> "KnowledgeMapConfig":
        """Return the configuration of a map for a table, to which its artifact will refer."""
        return cls(
            **{
                "knowledge_size": width_of(entity_embeddings),
                "knowledge_source": getattr(entity_embeddings, "name_or_path", None),
                "knowledge_revision": getattr(entity_embeddings, "revision", None),
                "knowledge_sha256": getattr(entity_embeddings, "sha256", None),
                **values,
            }
        )


def width_of(entity_embeddings: Any) -> int:
    """Return the width of a table's rows."""
    return int(entity_embeddings.dimension)


# ---- the map --------------------------------------------------------------------------------------------------------


class KnowledgeMap(KnowledgePlugin):
    """Maps entity embeddings into the input embeddings of a frozen model: a Linear, or an MLP (section 3 there).

    It stands before the encoder, changes the input embeddings in the slots alone, and makes no features. The table
    is no part of it: its rows are inputs.
    """

    changes_inputs = True
    makes_features = False
    looks_ahead = False

    def __init__(self, config: KnowledgeMapConfig, backbone_hidden_size: int) -> None:
        super().__init__(config, backbone_hidden_size)
        self.backbone_name: str | None = None  # of the encoder beside which it was trained, if it tells
        width = config.embedding_size or backbone_hidden_size
        inner = config.hidden_size or width
        sizes = [config.knowledge_size, *[inner] * config.num_hidden_layers]
        self.hidden = nn.ModuleList(Linear(*size) for size in pairwise(sizes))
        self.activation, self.dropout = ACT2FN[config.hidden_act], nn.Dropout(config.hidden_dropout_prob)
        self.projection = Linear(sizes[-1], width, bias=config.use_bias)
        self.register_buffer("embeddings_sample", torch.zeros(SAMPLES))

    @property
    def tapped_layers(self) -> Sequence[int]:
        """No hidden states."""
        return ()

    def forward(self, knowledge_embeds: Tensor) -> Tensor:  # type: ignore[override]  # it reads no hidden states
        """Map entity embeddings (..., knowledge) to input embeddings (..., embedding).

        Raises:
            ValueError: the entity embeddings are of another width.
        """
        if knowledge_embeds.shape[-1] != self.config.knowledge_size:
            raise ValueError(
                f"entity embeddings are {knowledge_embeds.shape[-1]} wide, and this map takes "
                f"knowledge_size={self.config.knowledge_size}; give rows of the table that it was trained with"
            )
        states = knowledge_embeds.to(self.projection.weight)
        for layer in self.hidden:
            states = self.dropout(self.activation(layer(states)))
        return self.projection(states)

    def embed(self, inputs_embeds: Tensor, knowledge_slots: Tensor, knowledge_embeds: Tensor) -> Tensor:
        """Put mapped entities (batch, slots, knowledge) into the slots (batch, slots) of (batch, sequence, embedding).

        Slots of -1 are none. All else stays as it is, to the bit.

        Raises:
            ValueError: a shape or a width is another, or a slot lies outside the sequence.
        """
        check_slots(inputs_embeds, knowledge_slots, knowledge_embeds)
        if not knowledge_slots.numel():
            return inputs_embeds
        length = inputs_embeds.shape[1]
        mapped = self(knowledge_embeds).to(inputs_embeds)  # (B, n, E)
        slots = knowledge_slots.to(inputs_embeds.device)
        index = torch.where(slots < 0, length, slots)[..., None].expand_as(mapped)  # -1 goes to a column too many
        return torch.cat([inputs_embeds, inputs_embeds[:, :1]], dim=1).scatter(1, index, mapped)[:, :length]

    @classmethod
    def recognises(cls, tensors: dict[str, Tensor]) -> bool:
        """Return whether a map of these tensors remembers input embeddings; fine-tuning leaves them alike."""
        sample = tensors.get("embeddings_sample")
        return sample is not None and bool(sample.any())

    def meet(self, backbone: PreTrainedModel) -> None:
        """Remember the encoder by its input embeddings, or refuse one that is not the one remembered.

        Raises:
            ValueError: it is another encoder, has no input embeddings or takes none.
        """
        check_takes_embeddings(backbone)
        self.meet_embeddings(embeddings_of(backbone), type(backbone).__name__)

    def meet_embeddings(self, embeddings: nn.Module, name: str) -> None:
        """Remember input embeddings, or refuse those of another encoder.

        Raises:
            ValueError: they are of another width, or those of another encoder.
        """
        weight: Any = brought_back(embeddings, "weight", embeddings.weight)
        if weight.shape[1] != self.projection.out_features:
            raise ValueError(
                f"the map gives vectors of width {self.projection.out_features}, and the input embeddings of {name} "
                f"are {weight.shape[1]} wide; use the map that was trained beside this encoder"
            )
        known: Any = self.embeddings_sample
        if weight.is_meta or known.is_meta or not weight.is_floating_point():
            return
        sample: Any = sample_of(weight).to(known)
        if not known.any():
            known.copy_(sample)
        elif (cosine := float(torch.cosine_similarity(sample.float(), known.float(), dim=0))) < ALIKE:
            trained = f", {self.backbone_name!r}" if self.backbone_name else ""
            raise ValueError(
                f"this map was trained beside another encoder{trained}: samples"
                f" of its input embeddings and of those of {name} have a cosine of {cosine:.2f}, and below "
                f"{ALIKE} they are no fine-tuned copies; use a map that was trained beside this encoder"
            )

    # ---- tables and texts -----------------------------------------------------------------------------------------

    def source(self, entity_embeddings: Any) -> KnowledgeSource:
        """Return a table with the way in which this map's entities are put into texts, for `encode_knowledge`.

        Raises:
            ValueError: the table is of another width, or not the one that the map was trained with.
        """
        config = self.config
        check_table(config, entity_embeddings)
        return KnowledgeSource(entity_embeddings, config.entity_position, config.separator, config.missing_entity)

    def encode(
        self, tokenizer: Any, texts: Sequence[Any], entities: Sequence[Sequence[Any]], table: Any, **options: Any
    ) -> dict[str, Any]:
        """Turn texts with linked mentions into inputs; see `encode_knowledge`."""
        return encode_knowledge(tokenizer, texts, entities, self.source(table), **options)

    # ---- artifacts ------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, id_or_path: str | os.PathLike, adapter_name: str | None = None, **reading: Any
    ) -> "KnowledgeMap":
        """Load a map alone, frozen, without its encoder; `adapter_name` says which, if an artifact holds several.

        Raises:
            OSError: there is no such artifact.
            ValueError: it is damaged, or holds no map, several, or none of that name.
        """
        artifact = read_artifact(id_or_path, **reading)
        artifact.check()
        maps = [name for name in artifact.config["adapters"] if isinstance(check_adapter(artifact, name), Config)]
        if not maps:
            raise ValueError(
                f"{artifact.where} holds no knowledge map, but the adapters {list(artifact.config['adapters'])}; name "
                "the artifact of a map, or load this one by KAdapterModel.from_pretrained"
            )
        names = maps if adapter_name is None else [name for name in maps if name == adapter_name]
        if len(names) != 1:
            raise ValueError(
                f"{artifact.where} has the knowledge maps {maps}, and adapter_name={adapter_name!r} does not say "
                "which of them; name it"
            )
        with torch.device("meta"):
            config: Any = check_adapter(artifact, names[0])
            knowledge_map = cls(config, 0)
        prefix = f"adapters.{names[0]}."
        copy_strictly(knowledge_map, tensors_under(prefix, artifact.tensors), artifact.where, prefix)
        knowledge_map.backbone_name = artifact.config.get("backbone_name_or_path")
        return knowledge_map.requires_grad_(False).eval()

    def save_pretrained(
        self, path: str | os.PathLike, adapter_name: str, backbone: str | os.PathLike | PreTrainedModel
    ) -> None:
        """Save the map as an artifact of its own beside an encoder: the one whose input embeddings it maps into.

        Raises:
            OSError: there is no such encoder, or the directory can't be written.
            ValueError: the encoder is another than the map was trained beside.
        """
        model = KAdapterModel.from_backbone(backbone)
        model.add_adapter(adapter_name, self.config)
        self.meet(model.backbone)
        model.adapters[adapter_name].load_state_dict(self.state_dict())
        model.save_adapter(path, adapter_name)


def check_table(config: KnowledgeMapConfig, entity_embeddings: Any) -> None:
    """Refuse a table that a map was not trained with.

    Raises:
        TypeError: it has no `lookup`.
        ValueError: its width or its hash is another.
    """
    if not hasattr(entity_embeddings, "lookup"):
        raise TypeError(
            f"entity embeddings have lookup(ids), and a {type(entity_embeddings).__name__} has none; give a table, "
            "EntityEmbeddings"
        )
    width, sha256 = getattr(entity_embeddings, "dimension", None), getattr(entity_embeddings, "sha256", None)
    if width is not None and width != config.knowledge_size:
        raise ValueError(
            f"the table's rows are {width} wide, and the map takes knowledge_size={config.knowledge_size}; give the "
            f"table that it was trained with, {config.knowledge_source!r}"
        )
    if config.knowledge_sha256 is not None and sha256 is not None and sha256 != config.knowledge_sha256:
        raise ValueError(
            f"the table has sha256 {sha256[:12]}, and the map was trained with {config.knowledge_sha256[:12]}, "
            f"{config.knowledge_source!r} at revision {config.knowledge_revision!r}; give that table, or train a new "
            "map"
        )


def check_slots(inputs_embeds: Tensor, knowledge_slots: Tensor, knowledge_embeds: Tensor) -> None:
    """Raise ValueError where slots and entity embeddings do not belong to each other or to the inputs."""
    slots, rows, batch = tuple(knowledge_slots.shape), tuple(knowledge_embeds.shape), len(inputs_embeds)
    if len(slots) != 2 or len(rows) != 3 or slots != rows[:2] or slots[0] != batch:
        raise ValueError(
            f"knowledge_slots have shape {slots} and knowledge_embeds {rows}, and must have ({batch}, slots) and "
            f"({batch}, slots, knowledge); give those that came with the inputs"
        )
    if not can_be_looked_at(knowledge_slots) or not knowledge_slots.numel():
        return
    last = int(knowledge_slots.max())
    if last >= inputs_embeds.shape[1]:
        raise ValueError(f"slot {last} lies outside the {inputs_embeds.shape[1]} tokens of the batch; was it cut?")
    check_slots_apart({"": knowledge_slots})
    if not knowledge_embeds.isfinite().all():
        row, slot, _ = (~knowledge_embeds.isfinite()).nonzero()[0].tolist()
        raise ValueError(
            f"knowledge_embeds of row {row}, slot {slot}, hold NaN or infinite values; give rows of a table, zeros "
            "where there is no entity"
        )


def sample_of(weight: Tensor) -> Tensor:
    """Return entries of the first rows of input embeddings, which stay where they are if a vocabulary grows."""
    number = torch.arange(SAMPLES, device=weight.device)
    return weight.detach()[number % weight.shape[0], number * 7 % weight.shape[1]]


Config, Plugin = KnowledgeMapConfig, KnowledgeMap


# ---- in any model of transformers -----------------------------------------------------------------------------------


def plug(
    model: PreTrainedModel,
    knowledge_map: KnowledgeMap | str | os.PathLike,
    entity_embeddings: Any,
    name: str = "knowledge",
    train_model: bool = False,
) -> "Plugs":
    """Put a map into any model of transformers, a fine-tuned one for example, and return what encodes its texts.

    The model then takes `knowledge_slots` and `knowledge_embeds` beside its inputs, as `encode` of what is returned
    gives them; without these it computes what it did, to the bit. It is frozen until `unplug`, unless `train_model`;
    the map trains if its parameters do. What the model saves stays as it was.

    Args:
        model: a model with or without a head, whose forward takes `input_ids` and `inputs_embeds`.
        knowledge_map: the map, or the id or path of its artifact.
        entity_embeddings: the table that the map was trained with.
        name: a name of your own, by which several maps are told apart.
        train_model: whether the model's parameters keep their `requires_grad`, as for fine-tuning with a frozen map.

    Raises:
        TypeError: an argument is of another type.
        ValueError: the name is taken, the model has no input embeddings or takes none, or map, table and model do not
            belong to each other.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"plug takes a PreTrainedModel of transformers, not {type(model).__name__}; give the model within, of a "
            "model of PEFT get_base_model()"
        )
    if isinstance(model, KAdapterPreTrainedModel):
        raise ValueError(
            f"{type(model).__name__} takes knowledge maps as adapters; use add_adapter(name, KnowledgeMapConfig()) or "
            "load_adapter(id_or_path)"
        )
    if isinstance(knowledge_map, str | os.PathLike):
        knowledge_map = KnowledgeMap.from_pretrained(knowledge_map)
    if not isinstance(knowledge_map, KnowledgeMap):
        raise TypeError(f"plug takes a KnowledgeMap or its id or path, not {type(knowledge_map).__name__}")
    check_takes_embeddings(model)
    embeddings = embeddings_of(model)
    check_table(knowledge_map.config, entity_embeddings)
    knowledge_map.meet_embeddings(embeddings, type(model).__name__)
    plugs = vars(model).get(PLUGGED) or Plugs(model)
    if name in plugs.maps:
        raise ValueError(f"there is a map {name!r} in the model already; choose another name, or unplug it")
    plugs.maps[name], plugs.tables[name] = knowledge_map.to(device_of(embeddings)), entity_embeddings
    if not train_model:
        model.requires_grad_(False)
    return plugs


def unplug(model: PreTrainedModel, name: str | None = None) -> None:
    """Take a map out of a model, or all of them, and with the last all that `plug` did to the model.

    Texts must then be encoded anew: the model would read what stands in a slot as a token.

    Raises:
        ValueError: there is no such map.
    """
    plugs = vars(model).get(PLUGGED)
    names = [] if plugs is None else list(plugs.maps)
    if plugs is None or name not in (None, *names):
        raise ValueError(f"there is no map{'' if name is None else f' {name!r}'} in the model; there are {names}")
    for own in names if name is None else [name]:
        del plugs.maps[own], plugs.tables[own]
    if not plugs.maps:
        plugs.remove(model)


PLUGGED = "_knowledge_plugs"  # attribute of a model


class Plugs:
    """The maps that are plugged into a model, by name, and the hooks by which they act.

    Token ids go through the model as ever, so that positions and padding are what they are without a map; only what
    its input embeddings answer is changed in the slots.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.maps: dict[str, KnowledgeMap] = {}
        self.tables: dict[str, Any] = {}
        self.trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        for module in _entered(model):
            module.register_forward_pre_hook(self._take, with_kwargs=True)
            module.register_forward_hook(self._end, always_call=True)
            module.forward = Entrance(module, "forward")
        if hasattr(model, STEP):
            setattr(model, STEP, StepEntrance(model, STEP))
        embeddings_of(model).register_forward_hook(self._put, with_kwargs=True)
        setattr(model, PLUGGED, self)

    def encode(
        self, tokenizer: Any, texts: Sequence[Any], entities: Sequence[Sequence[Any]], **options: Any
    ) -> dict[str, Any]:
        """Turn texts with linked mentions into inputs of the model; see `encode_knowledge`.

        With several maps each mention is a dict with the name of its map as "source".
        """
        sources: Any = {name: knowledge_map.source(self.tables[name]) for name, knowledge_map in self.maps.items()}
        knowledge = sources if len(sources) > 1 else next(iter(sources.values()))
        return encode_knowledge(tokenizer, texts, entities, knowledge, **options)

    def remove(self, model: PreTrainedModel) -> None:
        """Remove the hooks from a model, and let its parameters train that trained before."""
        for module in (*_entered(model), embeddings_of(model)):
            for hooks in ("_forward_pre_hooks", "_forward_hooks"):
                own = [key for key, hook in getattr(module, hooks).items() if getattr(hook, "__self__", 0) is self]
                for key in own:
                    for registered in (hooks, f"{hooks}_with_kwargs", f"{hooks}_always_called"):
                        getattr(module, registered, {}).pop(key, None)
            for entrance in [own for own in vars(module).values() if isinstance(own, Entrance)]:
                entrance.leave(module)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or name in self.trained)
        delattr(model, PLUGGED)

    def __deepcopy__(self, memory: dict[int, Any]) -> "Plugs":
        """Copy the maps along with their model, but not the tables, which may be of any size."""
        twin = copy.copy(self)
        memory[id(self)] = twin
        twin.maps, twin.tables = copy.deepcopy(self.maps, memory), dict(self.tables)
        return twin

    def _take(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Take the entities out of the inputs, before the model sees these.

        An encoder within the model has those of the model, and by itself, as in `generate`, its own. Tokens in a cache
        and states that an encoder has returned were read with their entities.
        """
        slots, rows = kwargs.get("knowledge_slots"), kwargs.get("knowledge_embeds")
        kwargs = {key: value for key, value in kwargs.items() if key not in KEYWORDS}
        before, past = PENDING.get(), kwargs.get("past_key_values")
        if isinstance(past, Cache) and not isinstance(past, EncoderDecoderCache):
            slots = uncached(slots, int(past.get_seq_length()))
        entities = entities_by_name(slots, rows, list(self.maps))
        if kwargs.get("encoder_outputs") is not None:
            entities = {}
        if slots is None and before is not None and before.plugs is self and before.module is not module:
            entities = before.entities
        PENDING.set(Pending(self, entities, before, module, kwargs.get("input_ids", args[0] if args else None)))
        if entities and kwargs.get("inputs_embeds") is not None:
            kwargs["inputs_embeds"] = self._changed(kwargs["inputs_embeds"], entities)
            entities.clear()
        return args, kwargs

    def _put(self, embeddings: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        """Change what the input embeddings answer, the first time that they are asked for the tokens in a pass."""
        pending = PENDING.get()
        if pending is None or pending.plugs is not self or not pending.entities:
            return None
        asked = args[0] if args else kwargs.get("input")
        if not isinstance(output, Tensor) or not are_texts_of(asked, pending.tokens):
            return None
        output = self._changed(output, pending.entities)
        pending.entities.clear()
        return output

    def _changed(self, embeds: Tensor, entities: "Entities") -> Tensor:
        """Put mapped entities into embeddings, whose texts may be in rows of choices or passages."""
        flat = embeds.flatten(0, -3) if embeds.dim() > 3 else embeds
        by_text = {
            name: (slots.flatten(0, -2), rows.flatten(0, -3)) if slots.dim() > 2 else (slots, rows)
            for name, (slots, rows) in entities.items()
        }
        if len(by_text) > 1:
            check_slots_apart({name: slots for name, (slots, _) in by_text.items()})
        for name, (slots, rows) in by_text.items():
            flat = self.maps[name].embed(flat, slots, rows)
        return flat.view_as(embeds)

    def _end(self, model: nn.Module, args: tuple, output: Any) -> None:
        """Forget the entities, whether the pass succeeded or not.

        Raises:
            ValueError: the model did not ask its input embeddings, or in a form into which entities can't be put.
        """
        pending = PENDING.get()
        PENDING.set(pending.before if pending is not None else None)
        if output is not None and pending is not None and pending.entities:
            raise ValueError(
                f"{type(model).__name__} did not look up its tokens in its input embeddings, as (batch, sequence) and "
                "for one tensor, so the entities had no effect; give input_ids, or use a model that does"
            )


Entities = dict[str, tuple[Tensor, Tensor]]  # slots and rows by the name of their map


class Pending:
    """Entities of the forward pass that runs, until its tokens are looked up, whose pass it is, and one around it."""

    def __init__(
        self, plugs: Plugs, entities: Entities, before: "Pending | None", module: nn.Module, tokens: Any
    ) -> None:
        self.plugs, self.entities, self.before, self.module, self.tokens = plugs, entities, before, module, tokens


PENDING: ContextVar[Pending | None] = ContextVar("PENDING", default=None)  # of each thread its own


def are_texts_of(asked: Any, tokens: Any) -> bool:
    """Return whether what is looked up are the tokens of a model, text by text, perhaps with padding behind them.

    XLNet has its texts in columns. Where there are as many texts as tokens only the tokens tell.
    """
    if not isinstance(asked, Tensor) or not isinstance(tokens, Tensor):
        return True
    asked, tokens = (own.reshape(-1, own.shape[-1]) for own in (asked, tokens))
    texts, length = tokens.shape
    if len(asked) != texts or asked.shape[1] < length:
        return False
    return texts != length or torch.compiler.is_compiling() or torch.equal(asked[:, :length], tokens)


class Entrance:
    """A method of a plugged model, its forward, whose signature names the entities.

    By it `Trainer` knows which columns of a dataset to keep, and `generate` which keywords a model takes. The hooks
    take the entities out of the inputs, so the forward that stands behind it is the model's own.
    """

    def __init__(self, module: nn.Module, method: str) -> None:
        self.module, self.method, self.before = module, method, vars(module).get(method)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the module's own method; of a replica, which has the attributes of its module, that of the replica."""
        if self.before is not None:
            return self.before(*args, **kwargs)
        pending = PENDING.get()
        replica = pending is not None and vars(pending.module).get(self.method) is self
        module: Any = pending.module if pending is not None and replica else self.module
        return getattr(type(module), self.method)(module, *args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        own = inspect.signature(self.before or getattr(type(self.module), self.method))
        parameters = [one for one in own.parameters.values() if one.name not in ("self", *KEYWORDS)]
        named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in KEYWORDS]
        last = len(parameters) - any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
        return own.replace(parameters=[*parameters[:last], *named, *parameters[last:]])

    def leave(self, module: nn.Module) -> None:
        """Give a module back the method that it had."""
        if self.before is None:
            delattr(module, self.method)
        else:
            setattr(module, self.method, self.before)


STEP = "prepare_inputs_for_generation"


class StepEntrance(Entrance):
    """What prepares a step of `generate`: the prompt is read with its entities, and what follows it without.

    Where no cache holds the prompt, each step reads it again. Not all that recurrent models carry over tells how many
    tokens it holds, so slots are not counted from there.
    """

    def __call__(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Prepare a step, for so many beams of each text as there are."""
        entities = {key: kwargs.pop(key) for key in KEYWORDS if kwargs.get(key) is not None}
        inputs = super().__call__(input_ids, *args, **kwargs)
        tokens = inputs.get("input_ids")
        if kwargs.get("is_first_iteration") or tokens is None or tokens.shape[1] >= input_ids.shape[1]:
            inputs.update({key: of_beams(own, len(input_ids)) for key, own in entities.items()})
        return inputs


KEYWORDS = ("knowledge_slots", "knowledge_embeds")


def _entered(model: Any) -> list[nn.Module]:
    """Return the modules of a model that may be called with entities: an encoder by itself too, as in `generate`."""
    encoder = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model
    return [model] if encoder is model else [model, encoder]
