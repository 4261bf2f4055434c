"""Several heads in one model: one frozen backbone, one run of it for a batch, and an answer of each head.

Each head is a whole model of its own, with its adapters and their fusion, on the backbone that all of them share.
Dimensions: B batch, S sequence, H backbone width, n positions that a head reads.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from .artifacts_kadapter import (
    OWN_FIELDS,
    PINS,
    UPLOADING,
    Artifact,
    check_same_backbone,
    copy_strictly,
    read_artifact,
    referred,
    tensors_under,
    weights_to_follow,
    with_sources,
)
from .backbone_kadapter import READING, device_of, making_models_in_turn, resolve_backbone
from .configuration_kadapter import KAdapterConfig, refuse_keywords
from .heads_kadapter import (
    NOT_READ,
    KAdapterForMultipleChoice,
    KAdapterForQuestionAnswering,
    KAdapterHeadModel,
    as_rows,
    naming_inputs,
)
from .language_modeling_kadapter import KAdapterLanguageModel
from .modeling_kadapter import KAdapterModel, KAdapterPreTrainedModel
from .prenorm_kadapter import PreNormAdapterConfig  # noqa: F401 (so that its file travels to where heads have such)
from .rows_kadapter import sharing_runs

__all__ = ["HeadsOutput", "KAdapterModelWithHeads"]

FIELDS = (*(field for field in OWN_FIELDS if field not in ("adapters", "num_labels")), "lm_head")  # of each head
OF_TEXTS = (KAdapterForMultipleChoice, KAdapterForQuestionAnswering)  # which read several texts for each answer
OF_ONE_MODEL = ("past_key_values", "output_hidden_states", "output_attentions", "knowledge_slots", "knowledge_embeds")
OF_ONE_HEAD = (  # the verbs of a model with one set of adapters
    *("active_adapters", "add_adapter", "delete_adapter", "disable_adapters", "enable_adapters", "load_adapter"),
    *("get_adapter_state_dict", "get_adapter_status", "push_adapter_to_hub", "rename_adapter", "save_adapter"),
    "add_weighted_adapter",
    *("set_adapter", "train_adapter", "tapped"),
)


@dataclass
class HeadsOutput(ModelOutput):
    """What a `KAdapterModelWithHeads` returns.

    Args:
        loss: the sum of the losses of the heads that were given labels, if any was.
        heads: what each head returns, by its name: its own loss, its logits.
    """

    loss: Tensor | None = None
    heads: dict[str, ModelOutput] | None = None


class KAdapterModelWithHeads(KAdapterPreTrainedModel):
    """Heads by name beside one frozen backbone, which reads a batch once for all heads that are asked.

    `heads` are head models, such as `KAdapterForTokenClassification`, each with adapters and a fusion of its own, on
    which all verbs of adapters work: `model.heads["tree"].set_adapter("lin")`. In eval mode each answers to the bit
    what it answers as a model of its own. Frozen adapters that several heads have alike are held, saved and, where the
    heads read the same positions, run once: what trains such an adapter later changes it for all of them.
    """

    _auto_classes = ("AutoModel",)

    def __init__(self, config: KAdapterConfig, backbone: PreTrainedModel | None = None) -> None:
        if config.adapters and not config.heads:
            raise ValueError(
                f"adapters {list(config.adapters)} belong to no head; add_head(name, artifact) brings a head with its "
                "adapters"
            )
        usual = KAdapterConfig()
        for field in FIELDS:
            if getattr(config, field) != getattr(usual, field):
                raise ValueError(f"{field}={getattr(config, field)!r} can't be chosen for all heads; each has its own")
        super().__init__(config)
        self.kadapter = KAdapterModel(_config_of(config), backbone)
        self.heads: Any = nn.ModuleDict()
        held: dict[str, Any] = {}
        for name, record in (config.heads or {}).items():
            self._check_free(name)
            head = head_class(record["architecture"], f"head {name!r}")(_config_of(config, record), self.backbone)
            for own, stored in record["adapters"].items():
                head.base_model.adapters[own] = held.setdefault(stored, head.base_model.adapters[own])
            self.heads[name] = head
        self.post_init()

    @property
    def backbone(self) -> PreTrainedModel:
        """The frozen backbone of all heads."""
        return self.kadapter.backbone

    @classmethod
    @making_models_in_turn
    def from_heads(
        cls,
        heads: Mapping[str, str | os.PathLike],
        backbone: str | os.PathLike | PreTrainedModel | None = None,
        **kwargs: Any,
    ) -> KAdapterModelWithHeads:
        """Return a model with the heads of these artifacts, by name, on their backbone, loaded once.

        `backbone` says where it is found now. Keywords (`dtype`, `device_map`, `attn_implementation`, ...) load it;
        `token`, `cache_dir` and other keywords of reading mean the artifacts too, `revision` the backbone alone.

        Raises:
            OSError: there is no such artifact or backbone.
            ValueError: there is no head, a name is unfit, an artifact has no head or that of another backbone.
        """
        if not heads:
            raise ValueError("there is no head; name at least one, as {'relations': 'org/kadapter-relations'}")
        reading = {key: kwargs[key] for key in READING if key in kwargs and key not in ("revision", "subfolder")}
        first = read_artifact(next(iter(heads.values())), **reading)
        pins: dict[str, Any] = {key: first.config.get(key) for key in PINS}
        config = KAdapterConfig(**pins)
        model = cls(config, resolve_backbone(config, backbone, kwargs))
        for name, artifact in heads.items():
            model.add_head(name, artifact, **reading)
        return model.eval()

    # ---- heads by name --------------------------------------------------------------------------------------------

    @making_models_in_turn
    def add_head(
        self, head_name: str, head: str | os.PathLike | KAdapterHeadModel, verify: bool = True, **kwargs: Any
    ) -> None:
        """Add a head with its adapters and their fusion: an artifact, by id or path, or a model on this backbone.

        Adapters of an artifact are frozen. A new head is made by
        `KAdapterForTokenClassification.from_backbone(model.backbone, num_labels=5)`. `revision`, `subfolder`, `token`
        and `cache_dir` mean the artifact's repository; `verify=False` spares comparing what was saved with the hashes
        that were saved with it. No code of the artifact is run.

        Raises:
            OSError: there is no such artifact.
            TypeError: the arguments are in another order, or a keyword is unknown.
            ValueError: the name is taken or unfit, the artifact is damaged, has no head, or that of another backbone,
                or the head can't share a run of the backbone.
        """
        refuse_keywords(kwargs, READING, "add_head")
        self._check_free(head_name)
        if not isinstance(head, KAdapterHeadModel):
            head = self._read(head, verify, kwargs)
        elif head.base_model.backbone is not self.backbone:
            raise ValueError(
                f"head {head_name!r}, a {type(head).__name__}, stands on a backbone of its own, and those of a model "
                f"share one; make it by {type(head).__name__}.from_backbone(model.backbone, ...), or save it and add "
                "its artifact"
            )
        check_reads_what_all_read(head_name, head)
        for own, adapter in head.base_model.adapters.items():
            others = (other for model in self.heads.values() for other in model.base_model.adapters.values())
            head.base_model.adapters[own] = next((other for other in others if alike(other, adapter)), adapter)
        self.heads[head_name] = head.train(self.training)
        self._note_heads()

    def delete_head(self, head_names: str | Sequence[str]) -> None:
        """Remove heads, with the adapters that no other head has.

        Raises:
            ValueError: there is no such head.
        """
        for name in self._known(head_names):
            del self.heads[name]
        self._note_heads()

    def rename_head(self, old_name: str, new_name: str) -> None:
        """Give a head another name, by which it is saved too, in its old place.

        Raises:
            ValueError: there is no such head, or the new name is taken or unfit.
        """
        self._known(old_name)
        self._check_free(new_name)
        renamed = {new_name if name == old_name else name: head for name, head in self.heads.items()}
        self.heads.clear()
        self.heads.update(renamed)
        self._note_heads()

    def _known(self, names: str | Iterable[str] | None) -> list[str]:
        names = (
            list(self.heads) if names is None else [names] if isinstance(names, str) else list(dict.fromkeys(names))
        )
        for name in names:
            if name not in self.heads:
                raise ValueError(f"no head {name!r}; there are {list(self.heads)}")
        return names

    def _check_free(self, name: Any) -> None:
        if not isinstance(name, str) or "/" in name:
            raise TypeError(
                f"a head has a name of letters, digits, '_' and '-', not {name!r}; add_head(name, artifact)"
            )
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or hasattr(nn.ModuleDict(), name):
            raise ValueError(
                f"head name {name!r} must be of letters, digits, '_' and '-' and no attribute of every module; choose "
                "another name"
            )
        if name in self.heads:
            raise ValueError(f"there is a head {name!r} already; choose another name or delete_head it")

    def _read(self, id_or_path: str | os.PathLike, verify: bool, reading: dict[str, Any]) -> KAdapterHeadModel:
        """Return the head model of an artifact, with frozen adapters, on this model's backbone."""
        artifact = read_artifact(id_or_path, **reading)
        check_same_backbone(self.config.to_dict(), artifact)
        chosen = head_class(artifact.head, artifact.where)
        config = KAdapterConfig.from_dict(dict(artifact.config))
        if issubclass(chosen, KAdapterLanguageModel) and chosen._lm_task(config.lm_head):
            raise ValueError(
                f"the head of {artifact.where}, a {chosen.__name__}, is the backbone's own LM head, which comes with "
                "the backbone's language model alone; use it as a model of its own"
            )
        config.name_or_path = artifact.where
        artifact = chosen._read_head(artifact, config, reading)
        with weights_to_follow():
            head = chosen(config, self.backbone)
        head._load_strictly(artifact)
        artifact.check(verify)
        head.base_model.adapters.requires_grad_(False)
        head._place(device_of(self.backbone), None)
        return head

    # ---- running --------------------------------------------------------------------------------------------------

    @naming_inputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        heads: str | Sequence[str] | None = None,
        inputs: Mapping[str, Mapping[str, Any]] | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> HeadsOutput | tuple:
        """Return what each head answers, after a single run of the backbone.

        `heads` are the names of those that are asked, by default all. `inputs` holds by a head's name what it takes
        besides the tokens: `entity_positions`, `word_positions`, `labels`, or `adapter_names` of a mixed batch. Other
        keywords reach the backbone; `hidden_states`, what `tap` returned for the same inputs, stand for its run.
        Shapes: `input_ids`, `attention_mask` (batch, sequence), or (batch, texts, sequence) for heads on choices,
        pairs and passages.

        Raises:
            TypeError: a keyword is unknown, or belongs to a head.
            ValueError: there is no such head, a head lacks inputs, has those of another batch, or reads inputs of
                another shape; the sentence names the head.
        """
        names, own = self._known(heads), dict(inputs or {})
        tokens = input_ids if input_ids is not None else kwargs.get("inputs_embeds")
        self._check_keywords(names, own, kwargs)
        self._check_shapes(names, own, input_ids, tokens)
        states = self.tap(input_ids, attention_mask, names, **kwargs)
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        given.update({key: kwargs[key] for key in ("inputs_embeds",) if key in kwargs})
        adapters = [adapter for name in names for adapter in self.heads[name].base_model.adapters.values()]
        with sharing_runs(adapters):
            outputs: dict[str, Any] = {name: self._ask(name, {**given, **own.get(name, {})}, states) for name in names}
        losses = [output.loss for output in outputs.values() if output.loss is not None]
        output = HeadsOutput(sum(losses) if losses else None, outputs)
        return output.to_tuple() if return_dict is False else output

    def tap(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        heads: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> dict[int, Tensor]:
        """Return the hidden states (batch, sequence, hidden) that the adapters of heads tap, and the last as -1.

        Raises:
            ValueError: there is no such head, or none at all.
        """
        models = [self.heads[name] for name in self._known(heads)]
        if not models:
            raise ValueError("the model has no head to ask; add_head(name, artifact) adds one")
        adapters = [adapter for model in models for adapter in model.base_model.adapters.values()]
        layers = sorted({layer for adapter in adapters for layer in adapter.tapped_layers})
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **kwargs}
        if input_ids is not None and input_ids.dim() == 3:
            _, inputs = as_rows(inputs, "texts")
        return self.kadapter.tap(**{"input_ids": None, "attention_mask": None, **inputs}, layers=layers)

    def _ask(self, name: str, inputs: dict[str, Any], states: dict[int, Tensor]) -> ModelOutput:
        """Return a head's output for inputs whose hidden states are known; its errors name it."""
        try:
            return self.heads[name](**inputs, hidden_states=dict(states))
        except (TypeError, ValueError) as error:
            raise (TypeError if isinstance(error, TypeError) else ValueError)(f"head {name!r}: {error}") from error

    def _check_keywords(self, names: list[str], own: dict[str, Any], kwargs: dict[str, Any]) -> None:
        """Refuse inputs of heads that are not asked or don't take them, and keywords that are a head's own."""
        for name in own:
            if name not in names:
                raise ValueError(f"inputs are given for the head {name!r}, and the heads that are asked are {names}")
            refuse_keywords(own[name], taken_by(self.heads[name]), f"the head {name!r}")
        for key in (key for key, value in kwargs.items() if value is not None):
            takers = [name for name in names if key in taken_by(self.heads[name])]
            if takers:
                raise TypeError(f"{key} belongs to a head; give inputs={{{takers[0]!r}: {{{key!r}: ...}}}}")
            if key in OF_ONE_MODEL:
                raise TypeError(f"{key} belongs to a model of its own; call model.heads[NAME](..., {key}=...)")

    def _check_shapes(
        self, names: list[str], own: dict[str, Any], input_ids: Tensor | None, tokens: Tensor | None
    ) -> None:
        """Refuse several texts for a head that reads one, and inputs of a head for another number of rows."""
        for name in names:
            head = self.heads[name]
            check_reads_what_all_read(name, head)
            if input_ids is not None and input_ids.dim() == 3 and not isinstance(head, OF_TEXTS):
                raise ValueError(
                    f"input_ids has shape {tuple(input_ids.shape)}, and the head {name!r}, a {type(head).__name__}, "
                    "reads a text in each row, (batch, sequence); ask it in a call of its own"
                )
            for key, value in own.get(name, {}).items():
                rows = len(value) if isinstance(value, Tensor) and value.dim() else None
                if tokens is not None and rows is not None and rows != len(tokens):
                    raise ValueError(f"head {name!r}: {key} has {rows} rows, and the batch {len(tokens)}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up what pickle or a copy made, and let all heads stand on one module again."""
        super().__setstate__(state)
        for head in self.heads.values():
            head.base_model.backbone = self.backbone

    # ---- artifacts ------------------------------------------------------------------------------------------------

    @classmethod
    def _read_head(cls, artifact: Artifact, config: KAdapterConfig, reading: dict[str, Any]) -> Artifact:
        """Refuse an artifact without several heads."""
        if artifact.head != cls.__name__:
            holds = f"the head of a {artifact.head} alone" if artifact.head else "no head"
            raise ValueError(
                f"{artifact.where} holds {holds}, not several by name; {cls.__name__}.from_heads({{NAME: ARTIFACT}}) "
                "makes a model of artifacts with a head each"
            )
        return artifact

    def _load_strictly(self, artifact: Artifact, ignore_mismatched_sizes: bool = False) -> tuple[set[str], set[tuple]]:
        """Copy an artifact's tensors, all of them, into the modules of all heads."""
        modules = dict(self._own_modules())
        for key in artifact.tensors:
            if not key.startswith(tuple(modules)):
                raise ValueError(f"{artifact.where} has unknown tensor {key!r}; fetch or save the artifact again")
        for prefix, module in modules.items():
            copy_strictly(module, tensors_under(prefix, artifact.tensors), artifact.where, prefix)
        for head in self.heads.values():
            head.base_model.adapters.requires_grad_(False)
            for adapter in head.base_model.adapters.values():
                adapter.meet(self.backbone)
        self._note_heads()
        return set(), set()

    def _own_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield all that is ours, not the backbone's, by the beginnings of the names that it is saved by."""
        for name, record in (self.config.heads or {}).items():
            head = self.heads[name]
            for own, stored in record["adapters"].items():
                yield f"adapters.{stored}.", head.base_model.adapters[own]
            yield f"head.{name}.fusion.", head.base_model.fusion
            yield f"head.{name}.head.", head.head

    def _note_heads(self) -> None:
        """Tell the configuration which heads there are, and by which names their adapters are saved.

        That is the name of an adapter in its head, or, where another head has another adapter of this name, one with
        that of the head before it.
        """
        held: dict[str, nn.Module] = {}
        records: dict[str, Any] = {}
        self.config.adapters = {}
        for name, head in self.heads.items():
            names: dict[str, str] = {}
            for own, adapter in head.base_model.adapters.items():
                shared = [stored for stored, other in held.items() if other is adapter]
                names[own] = shared[0] if shared else free_name(own, f"{name}-{own}", held)
                held[names[own]] = adapter
                self.config.adapters.setdefault(names[own], head.config.adapters[own])
            record: dict[str, Any] = {"architecture": type(head).__name__, "adapters": names}
            record.update({field: getattr(head.config, field) for field in FIELDS})
            record["id2label"] = {str(number): label for number, label in record["id2label"].items()}  # as JSON has it
            records[name] = record
        self.config.heads = records

    def save_pretrained(  # type: ignore[override]  # as that of models with one head
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        bundle_adapters: bool | None = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Save all heads with their adapters and fusions as one artifact; never the backbone.

        `bundle_adapters` and all else is as for a model with one head.

        Raises:
            OSError: the directory holds a model that is not ours, the disk is full or it can't be written; what was
                there before is untouched.
            TypeError: a keyword is unknown.
            ValueError: there is no head, the backbone trains, or a tensor holds NaN; what was there before is
                untouched.
        """
        known = ("max_shard_size", "safe_serialization", "save_function", "repo_id", *UPLOADING)
        refuse_keywords(kwargs, known, "save_pretrained")
        if not is_main_process:
            return
        self._check_can_be_saved()
        config, tensors = self._packed(self.state_dict() if state_dict is None else state_dict)
        names = referred(config.adapters, tensors, bundle_adapters, os.path.expanduser(save_directory))
        left_out = tuple(f"adapters.{name}." for name in names)
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(left_out)}
        self._write(save_directory, with_sources(config, names), tensors, type(self), tokenizer)
        if push_to_hub:
            repo_id = kwargs.pop("repo_id", Path(save_directory).name)
            uploading = {key: kwargs[key] for key in UPLOADING if key in kwargs}
            self.push_to_hub(repo_id, bundle_adapters=bundle_adapters, tokenizer=tokenizer, **uploading)

    def _check_can_be_saved(self) -> None:
        self._notice_training()
        if not self.heads:
            raise ValueError("the model has no head, so there is nothing to save; add_head(name, artifact) adds one")
        configs = [self.config, self.kadapter.config, *(head.config for head in self.heads.values())]
        if any(config.backbone_modified for config in configs):
            raise ValueError(
                "the backbone trains or was changed, and an artifact of several heads holds none; freeze it, or save "
                "each head by model.heads[NAME].save_pretrained(DIRECTORY)"
            )

    def _packed(self, state_dict: dict[str, Tensor]) -> tuple[KAdapterConfig, dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact, by the names they are saved by."""
        self._note_heads()
        config, tensors = copy.copy(self.config), {}
        config.adapters = dict(config.adapters)
        for name, record in (config.heads or {}).items():
            own = {key: state_dict[key] for key in state_dict if key.startswith(f"heads.{name}.")}
            inside = {key.removeprefix(f"heads.{name}.").removeprefix("kadapter."): own[key] for key in own}
            for adapter, stored in record["adapters"].items():
                config.adapters[stored] = self.heads[name]._with_own_results(adapter, inside)
                held = tensors_under(f"adapters.{adapter}.", inside)
                tensors.update({f"adapters.{stored}.{key}": tensor for key, tensor in held.items()})
            rest = {key: tensor for key, tensor in inside.items() if key.startswith(("fusion.", "head."))}
            tensors.update({f"head.{name}.{key}": tensor for key, tensor in rest.items()})
        return config, tensors


def taken_by(head: Any) -> tuple[str, ...]:
    """Return the keywords that a head takes besides the inputs of the backbone."""
    return (*head._own_inputs, *NOT_READ, "adapter_names")


def check_reads_what_all_read(name: str, head: Any) -> None:
    """Raise ValueError for a head with a plug-in that changes what the backbone reads."""
    in_front = [own for own, adapter in head.base_model.adapters.items() if adapter.changes_inputs]
    if in_front:
        raise ValueError(
            f"head {name!r} has adapter {in_front[0]!r}, which changes the input embeddings, so it can't share a run "
            "of the backbone with other heads; use it as a model of its own"
        )


def alike(ours: Any, theirs: Any) -> bool:
    """Return whether two frozen adapters compute the same: of one shape, and of the same tensors."""
    shapes = [
        {key: value for key, value in adapter.config.to_dict().items() if key not in adapter.config.beside_the_shape}
        for adapter in (ours, theirs)
    ]
    tensors = [adapter.state_dict() for adapter in (ours, theirs)]
    if shapes[0] != shapes[1] or tensors[0].keys() != tensors[1].keys():
        return False
    trains = any(parameter.requires_grad for adapter in (ours, theirs) for parameter in adapter.parameters())
    pairs = [(tensor, tensors[1][key]) for key, tensor in tensors[0].items()]
    comparable = all(one.dtype == other.dtype and one.device == other.device for one, other in pairs)
    return not trains and comparable and all(torch.equal(one, other) for one, other in pairs)


def free_name(name: str, longer: str, taken: Iterable[str]) -> str:
    """Return a name that is not taken: this one, else a longer one, with a number if that must be."""
    candidates = (name, longer, *(f"{longer}-{number}" for number in range(2, len(list(taken)) + 3)))
    return next(candidate for candidate in candidates if candidate not in taken)


def head_class(name: str | None, where: str) -> type[KAdapterHeadModel]:
    """Return the class of a head by its name.

    Raises:
        ValueError: there is none.
    """
    if name is None:
        raise ValueError(
            f"{where} has no head; adapters alone are added by model.heads[NAME].load_adapter(ID_OR_PATH)"
        )
    if name == KAdapterModelWithHeads.__name__:
        raise ValueError(f"{where} holds several heads; load it, and add what its heads save one by one")
    classes = [KAdapterHeadModel]
    for known in classes:  # which grows by the classes below each
        classes.extend(known.__subclasses__())
    for known in classes:
        if known.__name__ == name:
            return known
    raise ValueError(f"{where} holds a {name}, not known here; import its class or use a newer kadapter")


def _config_of(config: KAdapterConfig, record: dict[str, Any] | None = None) -> KAdapterConfig:
    """Return the configuration of a model on the same pinned backbone: one of several heads, or without adapters."""
    pins = {key: getattr(config, key) for key in PINS}
    if record is None:
        return KAdapterConfig(**pins)
    adapters = {own: config.adapters[stored] for own, stored in record["adapters"].items()}
    return KAdapterConfig(**pins, adapters=adapters, **{key: record[key] for key in FIELDS if key in record})


def _refusing(verb: str) -> Any:
    def refuse(self: KAdapterModelWithHeads, *args: Any, **kwargs: Any) -> None:
        raise TypeError(
            f"{verb} is for the adapters of one head; call model.heads[NAME].{verb}(...), of {list(self.heads)}"
        )

    refuse.__doc__ = f"Refuse: each head has adapters of its own, so it is `model.heads[NAME].{verb}`."
    return refuse


for _verb in OF_ONE_HEAD:
    setattr(KAdapterModelWithHeads, _verb, _refusing(_verb))
del _verb


if __name__ == "kadapter.several_heads_kadapter":  # installed: as remote code it must not stand in for another's
    AutoModel.register(KAdapterConfig, (KAdapterModel, KAdapterModelWithHeads), exist_ok=True)  # type: ignore[arg-type]
