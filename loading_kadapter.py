"""How a model is made of artifacts and a backbone, and how it becomes an artifact again."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from .artifacts_kadapter import DTYPES, Artifact, copy_strictly, merge, read_parts, weights_to_follow
from .backbone_kadapter import READING, making_models_in_turn, resolve_backbone
from .configuration_kadapter import BACKBONE_FIELDS, KAdapterConfig, refuse_misspelt
from .saving_kadapter import STRUCTURE, upload, write_artifact
from .sources_kadapter import adapter_hash, referred, tensors_under, with_sources
from .verbs_kadapter import refuse_keywords

__all__ = ["TASKS", "ArtifactVerbs"]

logger = logging.get_logger(__name__)
# For each of these the Auto class AutoModelForTASK makes a KAdapterForTASK where an artifact has no head of its own.
TASKS = ("MultipleChoice", "QuestionAnswering", "SequenceClassification", "TokenClassification")
HEAD_FIELDS = ("dependency_head", "arc_size", "num_positions")
LABEL_FIELDS = ("id2label", "label2id", "num_labels", "problem_type", "classifier_dropout", "active_adapters")
# What from_backbone takes for our configuration; every other keyword is the backbone's.
OWN_FIELDS = ("adapters", "fusion", "inner_projections", *HEAD_FIELDS, *LABEL_FIELDS)
FOR_BACKBONE = ("device_map", "max_memory", "offload_folder", "quantization_config", *READING[2:])
IGNORED = (  # what the Auto classes hand to every model and what means nothing for an artifact
    *("trust_remote_code", "adapter_kwargs", "use_safetensors", "weights_only", "low_cpu_mem_usage", "code_revision"),
)
UPLOADING = ("private", "token", "commit_message", "commit_description", "revision", "create_pr")


class ArtifactVerbs:
    """Loading, composing, saving and sharing, for the model and its heads."""

    config: Any
    base_model: Any
    _auto_classes: tuple[str, ...] = ()

    @classmethod
    @making_models_in_turn
    def from_backbone(cls, backbone: str | os.PathLike | PreTrainedModel, **kwargs: Any) -> Any:
        """Stand a model without adapters beside a backbone, given as Hub id, directory or module.

        Keywords that are fields of `KAdapterConfig` (`fusion`, `adapters`, `num_labels`, `id2label`, ...) are used
        for it, all others (`revision`, `dtype`, `attn_implementation`, `trust_remote_code`, ...) load the backbone.

        Raises:
            OSError: there is no such checkpoint.
            TypeError: the backbone does not take a keyword.
            ValueError: the checkpoint lacks tensors of its own architecture.
        """
        own = {key: kwargs.pop(key) for key in OWN_FIELDS if key in kwargs}
        refuse_misspelt(kwargs, OWN_FIELDS, "from_backbone")
        config = KAdapterConfig()
        module = resolve_backbone(config, backbone, kwargs)
        for key, value in own.items():
            setattr(config, key, value)
        config = KAdapterConfig(**{key: value for key, value in config.to_dict().items() if key != "architectures"})
        return cls(config, module)

    @classmethod
    @making_models_in_turn
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | Sequence[str | os.PathLike],
        *model_args: Any,
        config: KAdapterConfig | None = None,
        backbone: str | os.PathLike | PreTrainedModel | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        compose_with: Sequence[str | os.PathLike] = (),
        dtype: torch.dtype | str | None = None,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        verify: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Load one artifact, or compose several, onto their frozen backbone, which comes from its own repository.

        Several are named by a list, by `compose_with`, or by the shorthand "org/kadapter-fac+lin". A composition is
        fused by "add", which has no weights, or by the `fusion` that is asked for, which is new then. `revision`,
        `subfolder` and `trust_remote_code` mean the artifact's repository; the backbone has `backbone_kwargs` and its
        pinned revision, and `backbone` to say where it is found now. With `subfolder` and without the package,
        transformers looks for our Python files at the repository's root. `dtype`, `device_map`,
        `attn_implementation`, `quantization_config` and `token` reach the backbone too. Adapters are frozen until
        `train_adapter` is called; fusion and head train. `ignore_mismatched_sizes` makes new weights for what a head
        has in another size than the artifact, as for another `num_labels`. What was saved is compared, while the
        backbone loads, with the hashes that were saved with it; `verify=False` leaves that out.

        Raises:
            OSError: there is no such artifact or backbone.
            TypeError: a keyword is unknown.
            ValueError: a tensor is missing, extra, damaged or of another shape, an adapter occurs twice, the
                backbone is not the one the adapters were trained on, or a keyword would change what the weights
                were made for.
        """
        reading = {key: kwargs.pop(key) for key in READING if kwargs.get(key) is not None}
        for_backbone = {key: kwargs.pop(key) for key in FOR_BACKBONE if kwargs.get(key) is not None}
        for_backbone.update({key: value for key, value in reading.items() if key in FOR_BACKBONE})
        dtype = _dtype(dtype if dtype is not None else kwargs.pop("torch_dtype", None))
        attention = kwargs.pop("attn_implementation", None) or getattr(config, "_attn_implementation", None)
        for key, value in (("dtype", dtype), ("attn_implementation", attention)):
            if value is not None:
                for_backbone[key] = value
        part = merge(read_parts(pretrained_model_name_or_path, compose_with, reading))
        config = _config_for(part, config, kwargs, new_head=part.head != cls.__name__)
        trained = tensors_under("backbone.", part.tensors)
        with ThreadPoolExecutor(1) as beside:
            finite = beside.submit(part.refuse_infinite)
            unchanged = beside.submit(part.refuse_changed) if verify else finite
            module = resolve_backbone(config, backbone, {**for_backbone, **(backbone_kwargs or {})}, trained)
            finite.result()
            with weights_to_follow():
                model = cls(config, module)
            # Before the hashes are compared, since this tells which tensor is missing or misshapen.
            missing, mismatched = model._load_strictly(part, ignore_mismatched_sizes)
        unchanged.result()
        model.base_model.adapters.requires_grad_(False)
        model._place(next(module.parameters()).device, dtype if isinstance(dtype, torch.dtype) else None)
        info = {"missing_keys": missing, "unexpected_keys": set(), "mismatched_keys": mismatched, "error_msgs": []}
        return (model.eval(), info) if output_loading_info else model.eval()

    def _load_strictly(self, part: Artifact, ignore_mismatched_sizes: bool = False) -> tuple[set[str], set[tuple]]:
        """Copy an artifact's tensors: all of the model's, and all of a head's if it is this head's artifact.

        Returns what of the head is new: names that the artifact lacks, and (name, shape there, shape here) of those
        that it has in another size.
        """
        parts, tensors = dict(self._own_parts()), part.tensors
        missing, mismatched = set(), set()
        if self.config.fusion != part.config.get("fusion", "add"):  # chosen when composing
            del parts["fusion"]
            logger.warning(f"fusion {self.config.fusion!r} of {part.where} is new and needs training")
        if part.head != type(self).__name__:
            tensors, head = self._without_head(part), parts.pop("head", None)
            if head is not None:
                missing = {f"head.{key}" for key in head.state_dict()}
                logger.warning(f"{part.where} has no head of {type(self).__name__}: it is new and needs training")
        elif "head" in parts:
            mismatched = self._mismatched(part)
            tensors = self._resized(part, mismatched, ignore_mismatched_sizes)
        for name, module in parts.items():
            copy_strictly(module, tensors_under(f"{name}.", tensors), part.where, f"{name}.")
        return missing, mismatched

    def _without_head(self, part: Artifact) -> dict[str, Tensor]:
        """Return an artifact's tensors without those that its head declares."""
        declared = self._head_tensors(part) if part.head else set()
        tensors = {key: tensor for key, tensor in part.tensors.items() if key not in declared}
        for key in tensors:
            if key.startswith("head."):
                raise ValueError(f"{part.where} has unknown tensor {key!r}; fetch or save the artifact again")
        return tensors

    def _mismatched(self, part: Artifact) -> set[tuple]:
        """Return (name, shape there, shape here) of the head's tensors that an artifact has in another size."""
        stored = tensors_under("head.", part.tensors)
        return {
            (f"head.{key}", tuple(stored[key].shape), tuple(tensor.shape))
            for key, tensor in self.head.state_dict().items()
            if key in stored and stored[key].shape != tensor.shape
        }

    def _resized(self, part: Artifact, mismatched: set[tuple], ignore: bool) -> dict[str, Tensor]:
        """Return an artifact's tensors, with new ones in place of those that it has in another size."""
        if not mismatched:
            return part.tensors
        if not ignore:
            key, there, here = min(mismatched)
            raise ValueError(
                f"{part.where}: tensor {key!r} has shape {there}, and the head that you ask for has {here}; leave out "
                "num_labels, id2label and label2id, or pass ignore_mismatched_sizes=True for a new head of that size"
            )
        names = sorted(key for key, *_ in mismatched)
        logger.warning(f"{part.where} has {names} in another size: they are new and need training")
        new = self.head.state_dict()
        return {**part.tensors, **{key: new[key.removeprefix("head.")] for key in names}}

    def _head_tensors(self, part: Artifact) -> set[str]:
        """Return the names of the tensors that the head of an artifact declares."""
        for head_class in _subclasses(ArtifactVerbs):
            if head_class.__name__ == part.head and hasattr(head_class, "build_head"):
                with torch.device("meta"):
                    head = head_class.build_head(KAdapterConfig.from_dict(dict(part.config)))
                return {f"head.{key}" for key in head.state_dict()}
        raise ValueError(f"{part.where} holds a {part.head}, not known here; import its class or use a newer kadapter")

    def _own_parts(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """Yield all that is ours, not the backbone's."""
        yield "adapters", self.base_model.adapters
        yield "fusion", self.base_model.fusion
        if self is not self.base_model:
            yield "head", self.head

    def _place(self, device: torch.device, dtype: torch.dtype | None) -> None:
        for _, module in self._own_parts():
            if dtype is not None or any(one.device != device for one in module.parameters()):
                module.to(device=device, dtype=dtype)

    # ---- saving ---------------------------------------------------------------------------------------------------

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        bundle_adapters: bool | None = None,
        tokenizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Save all adapters, the fusion and the head as one artifact; the backbone only if it was modified.

        With `bundle_adapters=False` adapters that are unchanged since they were loaded are left out, and the artifact
        refers to where they were loaded from, by revision and hash; loading fetches them from there. True leaves none
        out. By default a model with a head refers to the unchanged ones of the Hub, and one without holds all.
        A new directory gets its name when it is complete; in an old one each file is replaced as a whole. The
        backbone's tokenizer is saved along where it is at hand, or `tokenizer` instead.

        Raises:
            OSError: the directory holds a model that is not ours, the disk is full or it can't be written; what was
                there before is untouched.
            TypeError: a keyword is unknown.
            ValueError: a tensor holds NaN; what was there before is untouched.
        """
        known = ("max_shard_size", "safe_serialization", "save_function", "repo_id", *UPLOADING)
        refuse_keywords(kwargs, known, "save_pretrained")
        if not is_main_process:
            return
        self._notice_training()
        prefixes = ("adapters.", "fusion.", "head.", *(["backbone."] if self.config.backbone_modified else []))
        tensors = self._tensors(self.state_dict() if state_dict is None else state_dict, prefixes)
        if bundle_adapters is None and self is self.base_model:
            bundle_adapters = True
        inside = {key.removeprefix("kadapter."): one for key, one in tensors.items()}
        config = copy.copy(self.config)
        config.adapters = {name: self._with_own_results(name, inside) for name in config.adapters}
        names = referred(self.config.adapters, inside, bundle_adapters, os.path.expanduser(save_directory))
        left_out = tuple(f"{prefix}adapters.{name}." for name in names for prefix in ("", "kadapter."))
        tensors = {key: one for key, one in tensors.items() if not key.startswith(left_out)}
        self._write(save_directory, with_sources(config, names), tensors, type(self), tokenizer)
        if push_to_hub:
            repo_id = kwargs.pop("repo_id", Path(save_directory).name)
            uploading = {key: kwargs[key] for key in UPLOADING if key in kwargs}
            self.push_to_hub(repo_id, bundle_adapters=bundle_adapters, tokenizer=tokenizer, **uploading)

    def save_adapter(self, path: str | os.PathLike, adapter_name: str) -> None:
        """Save one adapter as an artifact of its own, which AutoModel loads and which any other composes with.

        Raises:
            OSError: the disk is full or the directory can't be written; what was there before is untouched.
            ValueError: there is no such adapter, or one of its tensors holds NaN.
        """
        if str(path) in self.base_model.adapters and adapter_name not in self.base_model.adapters:
            raise TypeError(f"save_adapter takes (path, adapter_name), not ({path!r}, {adapter_name!r})")
        (name,) = self._known(adapter_name)
        self._notice_training()
        values = {key: value for key, value in self.config.to_dict().items() if key not in ("id2label", "label2id")}
        tensors = self._tensors(self.base_model.state_dict(), (f"adapters.{name}.", "backbone."))
        values.update(
            adapters={name: {**self._with_own_results(name, tensors), "source": {}}},
            active_adapters=None,
            fusion="add",
            inner_projections=False,
        )
        config = KAdapterConfig(**values)
        self._write(path, config, tensors, _model_class(type(self)))

    def _with_own_results(self, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Return an adapter's stored configuration, without the results of an artifact that it no longer equals."""
        values, loaded = self.config.adapters[name], self.base_model.adapters[name].config
        if not loaded.source or "results" not in values["training"] or values["training"] != loaded.training:
            return values
        own = tensors_under(f"adapters.{name}.", tensors)
        if not own or adapter_hash(values, own) == loaded.source["hash"]:
            return values
        logger.warning(f"adapter {name!r} was changed since it was loaded, so it is saved without the old results")
        kept = {key: value for key, value in values["training"].items() if key != "results"}
        return {**values, "training": kept}

    def _notice_training(self) -> None:
        if any(one.requires_grad for one in self.base_model.backbone.parameters()):
            self.config.backbone_modified = True

    @staticmethod
    def _tensors(state_dict: dict[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
        names = {key: key.removeprefix("kadapter.") for key in state_dict}
        wanted = [key for key, name in names.items() if name.startswith(prefixes)]
        return {key: state_dict[key] for key in wanted if "backbone.pooler." not in key}  # it is never used

    def _write(
        self, path: Any, config: KAdapterConfig, tensors: dict[str, Tensor], kind: type, tokenizer: Any = None
    ) -> None:
        config.architectures = [kind.__name__]
        config.dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.") if tensors else None
        config.auto_map = {"AutoConfig": "configuration_kadapter.KAdapterConfig"}
        config.auto_map["AutoModel"] = "modeling_kadapter.KAdapterModel"
        config.auto_map.update({f"AutoModelFor{task}": f"modeling_kadapter.KAdapterFor{task}" for task in TASKS})
        model_class = _model_class(type(self))
        if kind.__module__ == model_class.__module__:  # a head from elsewhere does not travel along
            config.auto_map.update(dict.fromkeys(kind._auto_classes, f"modeling_kadapter.{kind.__name__}"))
        write_artifact(path, inspect.getfile(model_class), config, tensors, tokenizer)

    def push_adapter_to_hub(self, repo_id: str, adapter_name: str, **kwargs: Any) -> str:
        """Upload one adapter as a repository of its own and return the commit's address.

        Keywords and errors are those of `push_to_hub`.
        """
        refuse_keywords(kwargs, UPLOADING, "push_adapter_to_hub")
        return upload(repo_id, lambda folder: self.save_adapter(folder, adapter_name), **kwargs)

    def push_to_hub(
        self, repo_id: str, bundle_adapters: bool | None = None, tokenizer: Any = None, **kwargs: Any
    ) -> str:
        """Upload the whole artifact, as `save_pretrained` writes it, and return the commit's address.

        Other keywords: `private`, `token`, `commit_message`, `commit_description`, `revision`, `create_pr`.

        Raises:
            TypeError: a keyword is unknown.
            ValueError: the name holds a "+", which the Hub refuses.
        """
        refuse_keywords(kwargs, UPLOADING, "push_to_hub")
        saving = {"bundle_adapters": bundle_adapters, "tokenizer": tokenizer}
        return upload(repo_id, lambda folder: self.save_pretrained(folder, **saving), **kwargs)


def _dtype(given: Any) -> Any:
    if isinstance(given, torch.dtype) and given not in DTYPES:
        raise ValueError(f"dtype={given} can't be computed with; give one of {', '.join(map(str, DTYPES))}, or 'auto'")
    if not isinstance(given, str) or given == "auto":
        return given
    dtype = getattr(torch, given.removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype={given!r} is no dtype of torch; give torch.bfloat16, 'bfloat16' or 'auto'")
    return _dtype(dtype)


def _subclasses(cls: type) -> Iterator[type]:
    for one in cls.__subclasses__():
        yield one
        yield from _subclasses(one)


def _model_class(kind: type) -> type:
    """Return the `KAdapterModel` of the family that a class belongs to: each repository's code makes its own."""
    family = next(one for one in kind.__mro__ if one.__name__ == "KAdapterPreTrainedModel")
    return next(one for one in _subclasses(family) if one.__name__ == "KAdapterModel")


def _config_for(
    part: Artifact, config: KAdapterConfig | None, overrides: dict[str, Any], new_head: bool
) -> KAdapterConfig:
    """Return an artifact's configuration, with what may be chosen anew when it is loaded.

    `config` is what AutoModel read of it, into which it wrote every keyword that names a field.
    """
    overrides = {key: value for key, value in overrides.items() if key not in IGNORED and key[0] != "_"}
    free = (*LABEL_FIELDS, *(() if part.head else HEAD_FIELDS))
    if not part.head and part.config.get("fusion", "add") == "add":  # which has no weights
        free += ("fusion",)
    fixed = {key: value for key, value in overrides.items() if key in (*OWN_FIELDS, *STRUCTURE, *BACKBONE_FIELDS)}
    if config is not None:
        asked, found = config.to_dict(), KAdapterConfig.from_dict(dict(part.written)).to_dict()
        changed = {key: value for key, value in asked.items() if value != found.get(key)}
        overrides.update({key: value for key, value in changed.items() if key in free})
        fixed.update({key: value for key, value in changed.items() if key in STRUCTURE})
    for key, value in fixed.items():
        if key not in free:
            raise ValueError(
                f"{key}={value!r} can't be chosen for {part.where}: its weights were made for another value; compose "
                "by compose_with=[...], or build a new model by from_backbone"
            )
    if new_head and part.head:  # the kind of problem was the other head's
        overrides.setdefault("problem_type", None)
    typed, unused = KAdapterConfig.from_dict(dict(part.config), return_unused_kwargs=True, **overrides)
    known = ("backbone", "backbone_kwargs", "compose_with", *FOR_BACKBONE, *READING[:2], *free)
    refuse_keywords(unused, known, "from_pretrained")
    typed.name_or_path = part.where
    return typed
