"""How artifacts are read, strictly, and composed: only config.json and model.safetensors, running no code of theirs.

The weights carry a record of the configuration that they were saved with. It decides what the model is made of, so
that weights and configuration of two saves, or a configuration edited by hand, make no mix that loads.
"""

import json
import os
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import cached_file, logging

from .backbone_kadapter import check_shapes
from .configuration_kadapter import KAdapterConfig, KnowledgeAdapterConfig, split_composition
from .saving_kadapter import ALIGNMENT, CONFIG, STRUCTURE, WEIGHTS, all_finite, as_one, digest_of
from .sources_kadapter import adapter_hash, checksum, fetch_referred, note_sources, tensors_under

__all__ = ["DTYPES", "WEIGHTS_FOLLOW", "Artifact", "copy_strictly", "merge", "read_artifact", "read_parts"]

logger = logging.get_logger(__name__)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Fields by which a configuration names code to run: never taken from an artifact, so that no composite names a part's.
NAMING_CODE = ("auto_map", "custom_pipelines", "attn_implementation", "_attn_implementation", "experts_implementation")
PINS = ("backbone_name_or_path", "backbone_revision", "backbone_config", "backbone_fingerprint", "pad_token_id")
WEIGHTS_FOLLOW = ContextVar("WEIGHTS_FOLLOW", default=False)


@dataclass
class Stored:
    """The tensors of one file, and the hashes and checksums that were noted when they were saved."""

    tensors: dict[str, Tensor]  # by their names in the file
    adapters: dict[str, Any]  # their shapes by name
    hashes: dict[str, str]  # of adapters
    checksums: dict[str, str]  # of tensors; earlier artifacts have none

    def refuse_infinite(self, path: str) -> None:
        """Raise ValueError where a tensor holds NaN or infinite values."""
        if not all(map(all_finite, as_one(self.tensors.values()))):
            for key, one in self.tensors.items():
                if not all_finite(one):
                    raise ValueError(f"{path}: tensor {key!r} holds NaN or infinite values; fetch or train it again")

    def refuse_changed(self, path: str) -> None:
        """Raise ValueError where tensors are not those of which hashes or checksums were noted."""
        if changed := sorted(self._changed_by_checksum() if self.checksums else self._changed_by_hash()):
            raise ValueError(
                f"{path}: the tensors of {', '.join(changed)} are not those that were saved, as what was noted of "
                "them shows; fetch or save the artifact again, or pass verify=False if they were changed on purpose"
            )

    def _changed_by_checksum(self) -> set[str]:
        changed = set()
        for key, tensor in self.tensors.items():
            if self.checksums.get(key) != checksum(tensor):
                owner, name, *_ = [*key.removeprefix("kadapter.").split("."), ""]
                changed.add(f"adapter {name!r}" if owner == "adapters" else owner)
        return changed

    def _changed_by_hash(self) -> set[str]:
        inside, changed = {key.removeprefix("kadapter."): one for key, one in self.tensors.items()}, set()
        for name, noted in self.hashes.items():
            own = tensors_under(f"adapters.{name}.", inside)
            if own and name in self.adapters and adapter_hash(self.adapters[name], own) != noted:
                changed.add(f"adapter {name!r}")
        return changed


@dataclass
class Artifact:
    """The configuration and tensors of one artifact, and where it was read; tensors have the model's own names."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    where: str
    written: dict[str, Any]  # config.json as it stands
    files: dict[str, "Stored"] = field(default_factory=dict)  # what is to be checked, by the path of its file

    @property
    def head(self) -> str | None:
        """The class of the head that the artifact holds, if it holds one."""
        saved_as = (self.config.get("architectures") or ["KAdapterModel"])[0]
        return None if saved_as == "KAdapterModel" else saved_as

    def check(self) -> None:
        """Refuse tensors that are damaged, for which all of them are read into memory.

        Raises:
            ValueError: there are NaN or infinite values, or tensors that were changed since they were saved; the
                sentence names the file and what is damaged.
        """
        self.refuse_infinite()
        self.refuse_changed()

    def refuse_infinite(self) -> None:
        """Raise ValueError where a tensor holds NaN or infinite values."""
        for path, one in self.files.items():
            one.refuse_infinite(path)

    def refuse_changed(self) -> None:
        """Raise ValueError where tensors are not those of which hashes were saved with them."""
        for path, one in self.files.items():
            one.refuse_changed(path)


def read_artifact(id_or_path: str | os.PathLike, **reading: Any) -> Artifact:
    """Read config.json and model.safetensors of one artifact, from a directory or the Hub; its `check` is still due.

    Adapters to which it refers are read from where it says, and must be what they were.

    Raises:
        OSError: there is no such artifact, or no adapter where it refers to one.
        ValueError: it is of another model type, or damaged; the sentence names the file and the tensor or field. Or
            an adapter has changed.
    """
    part = _read_own(os.path.expanduser(id_or_path), **reading)
    adapters = part.config.get("adapters") or {}
    elsewhere = {name: one for name, one in adapters.items() if not tensors_under(f"adapters.{name}.", part.tensors)}
    part.tensors.update(fetch_referred(elsewhere, part.where, reading, _read_own))
    return part


def _read_own(where: str, **reading: Any) -> Artifact:
    """Read what an artifact itself holds."""
    written = _read_config(_file(where, CONFIG, reading), where)
    file = _file(where, WEIGHTS, reading)
    tensors, record, hashes, checksums = _read_weights(file)
    config = _without_code(_reconcile(written, record, where))
    try:
        if not isinstance(config.get("architectures") or [], list):
            raise TypeError("its architectures are no list of names")
        KAdapterConfig.from_dict(dict(config))
    except (StrictDataclassError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {CONFIG} describes no K-Adapter model ({error}); save it again") from error
    inside = {key.removeprefix("kadapter."): one for key, one in tensors.items()}
    files = {file: Stored(tensors, config.get("adapters") or {}, hashes, checksums)} if tensors else {}
    part = Artifact(config, inside, where, written, files)
    _check_names(part)
    config["adapters"] = note_sources(part, hashes, file, reading.get("subfolder"))
    return part


def _without_code(config: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in NAMING_CODE}
    if isinstance(backbone := kept.get("backbone_config"), dict):
        kept["backbone_config"] = {key: value for key, value in backbone.items() if key not in NAMING_CODE}
    return kept


def _check_names(part: Artifact) -> None:
    """Refuse tensors that belong to nothing in the configuration."""
    known = [f"adapters.{name}." for name in part.config.get("adapters") or {}]
    known += ["fusion.", *(["head."] if part.head else [])]
    known += ["backbone."] if part.config.get("backbone_modified") else []
    for key in part.tensors:
        if not key.startswith(tuple(known)):
            raise ValueError(f"{part.where} has unknown tensor {key!r}; fetch or save the artifact again")


def _file(where: str, name: str, reading: dict[str, Any]) -> str:
    try:
        path = cached_file(where, name, **reading)
    except OSError as error:
        raise OSError(f"no {name} of a K-Adapter artifact at {where!r} ({error}); check its id or path") from error
    if path is None:
        raise OSError(f"no {name} of a K-Adapter artifact at {where!r}; check its id or path")
    return path


def _read_config(path: str, where: str) -> dict[str, Any]:
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file ({error}); fetch or save the artifact again") from error
    if not isinstance(config, dict) or config.get("model_type") != KAdapterConfig.model_type:
        found = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{where} holds a model of type {found!r}, not 'kadapter'; use from_backbone for a backbone")
    return config


def _reconcile(written: dict[str, Any], record: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the configuration that belongs to the weights: config.json, unless their own record says otherwise."""
    if not record:
        return dict(written)
    if written.get("record_digest") != digest_of(record):
        logger.warning(f"{where}: {CONFIG} is of another save than {WEIGHTS}; what the weights tell is used")
        return record
    changed = [key for key in STRUCTURE if written.get(key) != record.get(key)]
    if changed:
        logger.warning(f"{where}: {changed} in {CONFIG} were edited, and what the weights were made for is used")
    return {**written, **{key: record[key] for key in STRUCTURE if key in record}}  # the record knows the order, too


def _read_weights(path: str) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, str], dict[str, str]]:
    """Return a file's tensors, mapped into memory, the configuration of their save, and what was noted of both."""
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
            metadata = opened.metadata() or {}
        record, hashes, checksums = (
            json.loads(metadata.get(key, "{}")) for key in ("kadapter", "hashes", "checksums")
        )
        if not all(isinstance(one, dict) for one in (record, hashes, checksums)):
            raise ValueError("what its metadata tell are no records")
        for noted, digits in ((hashes, 64), (checksums, 8)):
            if not all(isinstance(one, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", one) for one in noted.values()):
                raise ValueError("what its metadata tell of its tensors are no hashes")
        noted = checksums.pop("record", None)
        if noted is not None and noted != f"{zlib.crc32(metadata.get('kadapter', '').encode()):08x}":
            raise ValueError("the configuration in it is not that which was saved")
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch or save the artifact again") from error
    return tensors, record, hashes, checksums


# ---- composing ----------------------------------------------------------------------------------------------------


def read_parts(name: Any, compose_with: Sequence[str | os.PathLike], reading: dict[str, Any]) -> list[Artifact]:
    """Read all artifacts that a name, a list of names or a shorthand means, and those to compose with.

    `revision` and `subfolder` mean one repository, so they are refused for the names of several.
    """
    names = [name] if isinstance(name, str | os.PathLike) else list(name)
    names = [part for one in names for part in split_composition(one)]
    if len(names) > 1 and (reading.keys() & {"revision", "subfolder"}):
        given = {key: reading[key] for key in ("revision", "subfolder") if key in reading}
        raise ValueError(f"{given} can't mean all of {names}; name one, and the others by compose_with")
    if isinstance(compose_with, str | os.PathLike):
        compose_with = [compose_with]
    own = {key: value for key, value in reading.items() if key not in ("revision", "subfolder")}
    parts = [read_artifact(part, **reading) for part in names]
    return parts + [read_artifact(part, **own) for one in compose_with for part in split_composition(one)]


def merge(parts: Sequence[Artifact]) -> Artifact:
    """Compose artifacts of one backbone into one: all their adapters, fused by "add", without fusions and heads.

    Raises:
        ValueError: an adapter name occurs twice, or two parts belong to different backbones.
    """
    if not parts:
        raise ValueError("nothing to load: the list of artifacts is empty; name at least one")
    if len(parts) == 1:
        return parts[0]
    # The backbone is that of a part that is pinned to one, wherever it stands.
    pinned = next((part for part in parts if part.config.get("backbone_fingerprint")), parts[0]).config
    adapters, tensors = {}, {}
    for part in parts:
        check_same_backbone(pinned, part)
        for name, one in (part.config.get("adapters") or {}).items():
            if name in adapters:
                raise ValueError(
                    f"adapter {name!r} of {part.where} is in another part already; load one and add the other by "
                    "load_adapter(id_or_path, adapter_name=...)"
                )
            adapters[name] = one
            tensors.update({key: value for key, value in part.tensors.items() if key.startswith(f"adapters.{name}.")})
        say_what_is_left_out(part)
    config = {key: value for key, value in parts[0].config.items() if key not in ("id2label", "label2id")}
    config.update({key: pinned.get(key) for key in PINS})
    config.update(
        adapters=adapters, active_adapters=None, fusion="add", inner_projections=False, architectures=["KAdapterModel"]
    )
    files = {path: one for part in parts for path, one in part.files.items()}
    return Artifact(config, tensors, " + ".join(part.where for part in parts), parts[0].written, files)


def say_what_is_left_out(part: Artifact) -> None:
    """Warn that a part's learned fusion does not come along."""
    if part.config.get("fusion", "add") != "add":
        logger.warning(f"the learned fusion of {part.where} is left out, and its adapters are taken")


def check_same_backbone(config: dict[str, Any], part: Artifact) -> None:
    """Refuse a part that was made for another backbone, by fingerprint, or by shapes where there is none."""
    if part.config.get("backbone_modified") or config.get("backbone_modified"):
        raise ValueError(f"{part.where}: a backbone was trained along, so its adapters compose with no others")
    ours, theirs = config.get("backbone_fingerprint"), part.config.get("backbone_fingerprint")
    names = [f"{one.get('backbone_name_or_path')!r}" for one in (config, part.config)]
    if ours and theirs and ours != theirs:
        raise ValueError(
            f"{part.where} was made for another backbone, {names[1]} with fingerprint {theirs[:12]}, not {names[0]} "
            f"with {ours[:12]}; use adapters of one backbone"
        )
    check_shapes(config.get("backbone_config") or {}, part.config.get("backbone_config") or {}, part.where)
    if not (ours and theirs) and part.config is not config:
        unpinned = " and ".join(name for name, pin in zip(names, (ours, theirs), strict=True) if not pin)
        logger.warning(
            f"{part.where}: of the backbones {names[0]} and {names[1]} only kind and shapes were compared, since "
            f"{unpinned} has no fingerprint; that they are the same is not verified"
        )


# ---- into the model -----------------------------------------------------------------------------------------------


@contextmanager
def weights_to_follow() -> Iterator[None]:
    """Make no weights for the adapters of a new model, since an artifact's take their place."""
    token = WEIGHTS_FOLLOW.set(True)
    try:
        yield
    finally:
        WEIGHTS_FOLLOW.reset(token)


def copy_strictly(module: torch.nn.Module, tensors: dict[str, Tensor], where: str, prefix: str = "") -> None:
    """Put an artifact's tensors into a module, all of them and nothing else, in the dtype in which they are stored.

    Raises:
        ValueError: tensors are missing, extra, of another shape or of a dtype that can't be used; the sentence names
            the first of them.
    """
    expected = module.state_dict()
    for problem, keys in (("lacks", expected.keys() - tensors.keys()), ("has unknown", tensors.keys() - expected)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise ValueError(
                f"{where} {problem} tensor {prefix + min(keys)!r}{more}; fetch or save the artifact again"
            )
    for key, one in tensors.items():
        if one.shape != expected[key].shape:
            shapes = f"{tuple(one.shape)}, not {tuple(expected[key].shape)} as the configuration says"
            raise ValueError(
                f"{where}: tensor {prefix + key!r} has shape {shapes}; use the configuration it was saved with"
            )
    _check_dtypes(tensors, where, prefix)
    module.load_state_dict({key: _usable(one) for key, one in tensors.items()}, strict=False, assign=True)


def _check_dtypes(tensors: dict[str, Tensor], where: str, prefix: str) -> None:
    """Refuse tensors that can't be multiplied, and those of one adapter that are of several dtypes."""
    first: dict[str, str] = {}
    for key, tensor in sorted(tensors.items()):
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"{where}: tensor {prefix + key!r} is {tensor.dtype}, and {', '.join(map(str, DTYPES))} can be used; "
                "convert it and save it again"
            )
        beside = first.setdefault(key.partition(".")[0] if prefix == "adapters." else "", key)
        if tensor.dtype != tensors[beside].dtype:
            raise ValueError(
                f"{where}: tensor {prefix + key!r} is {tensor.dtype}, and {prefix + beside!r} is "
                f"{tensors[beside].dtype}; what belongs together has one dtype: convert one and save it again"
            )


def _usable(one: Tensor) -> Tensor:
    """Return a tensor as it is mapped, or a copy where the file has it at any byte.

    There some matrix products add in another order, so that an output would differ in its last bit from that of the
    model that was saved. On Windows all are copied, since a file that is mapped could not be replaced by a save.
    """
    return one if one.data_ptr() % ALIGNMENT == 0 and sys.platform != "win32" else one.clone()


def check_adapter(part: Artifact, name: str) -> KnowledgeAdapterConfig:
    """Return the typed configuration of one of an artifact's adapters."""
    return KnowledgeAdapterConfig.from_dict(part.config["adapters"][name], f" of {part.where}")
