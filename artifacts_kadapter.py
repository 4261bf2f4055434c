"""The artifact's format: reading, verifying, composing and writing it, and the models made of it.

Only config.json and model.safetensors are read; no code of an artifact is run. The weights carry a record of the
configuration that they were saved with. It decides what the model is made of, so that weights never load with the
configuration of another save or one that was edited by hand.
"""

from __future__ import annotations

import contextlib
import copy
import glob
import hashlib
import inspect
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, HTTPError, RevisionNotFoundError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import cached_file, logging
from transformers.utils.hub import extract_commit_hash

from .backbone_kadapter import (
    READING,
    check_shapes,
    device_of,
    digest_of_tensor,
    making_models_in_turn,
    refuse_changes,
    resolve_backbone,
)
from .cards_kadapter import (
    CARD,
    address_card,
    broken_metadata,
    is_generated,
    kept_metadata,
    model_card,
    report_kept,
)
from .configuration_kadapter import (
    BACKBONE_FIELDS,
    DEFAULT_KIND,
    PUBLISHED_SIZES,
    WITHOUT_WEIGHTS,
    KAdapterConfig,
    KnowledgeAdapterConfig,
    plugin_module,
    refuse_keywords,
    refuse_misspelt,
    split_composition,
)
from .processing_kadapter import put_tokenizer

__all__ = [
    "CARD",
    "CONFIG",
    "DTYPES",
    "MASKED_LM",
    "OWN_FIELDS",
    "PINS",
    "TASKS",
    "UPLOADING",
    "WEIGHTS",
    "WEIGHTS_FOLLOW",
    "Artifact",
    "ArtifactVerbs",
    "adapter_hash",
    "all_finite",
    "check_destination",
    "checksum",
    "copy_strictly",
    "drop_backbone",
    "forgive_backbone",
    "in_one_line",
    "lm_head_hash",
    "merge",
    "read_artifact",
    "read_own",
    "tensors_under",
    "upload",
    "write_directory",
]

logger = logging.get_logger(__name__)
# ---- the directory --------------------------------------------------------------------------------------------------


try:
    import fcntl
except ImportError:  # Windows has no such locks; there two saves at once are told apart by the weights' record
    fcntl = None  # type: ignore[assignment]  # a module elsewhere


WEIGHTS, CONFIG = "model.safetensors", "config.json"
MODEL_TYPE = "kadapter"
OWN_TENSORS = ("adapters.", "fusion.", "head.", "backbone.", "kadapter.")
# Weights of other models, beside which an artifact would make a directory that loads as neither.
FOREIGN = (
    *("pytorch_model*.bin", "*.bin.index.json", "model.safetensors.index.json", "model-*.safetensors"),
    *("adapter_model.*", "tf_model.h5", "flax_model.msgpack", "entity_embeddings.safetensors"),
)
FORGOTTEN = 24 * 3600  # seconds after which a save that never ended is swept away


def check_destination(
    directory: str | os.PathLike,
    *,
    sources: Collection[str | os.PathLike | None] = (),
    marks: Collection[str] = (),
) -> None:
    """Refuse a directory in which a save would overwrite, or stand beside, a model that is not ours.

    A directory that does not exist, an empty one, one with other files and an older artifact are fine.

    Args:
        directory: where something is to be saved.
        sources: directories that are read from, such as the backbone's, which are refused whatever they hold;
            those that are None or no directory, such as Hub ids, are passed over.
        marks: names of files by which a caller knows a model of another type for one of its own.

    Raises:
        OSError: it is a file, a link that leads nowhere, one of `sources`, or holds a model that is not ours.
    """
    path = Path(directory).expanduser()
    where = f"can't save to {str(directory)!r}: "
    if path.is_file():
        raise OSError(f"{where}it is a file; name a directory")
    if path.is_symlink() and not path.exists():
        raise OSError(f"{where}it is a link to {os.readlink(path)!r}, which is not there; make that directory first")
    if not path.is_dir():
        return
    for source in sources:
        if source and os.path.isdir(expanded := os.path.expanduser(source)) and os.path.samefile(expanded, path):
            raise OSError(f"{where}it is the directory that the backbone or the code is read from; name another one")
    if any((path / mark).is_file() for mark in marks):
        return
    if foreign := _foreign_model(path):
        raise OSError(f"{where}{foreign}, and a save would destroy it; name another directory, or a new one")


def _foreign_model(folder: Path) -> str | None:
    """Return in words which model that is not ours a directory holds, or None."""
    if (folder / CONFIG).is_file():
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            return f"its {CONFIG} is no JSON file, so not of an artifact"
        model_type = config.get("model_type") if isinstance(config, dict) else None
        if model_type != MODEL_TYPE:
            return f"it holds a model of type {model_type!r} ({CONFIG}), not an artifact of adapters"
    if (folder / WEIGHTS).is_file() and not _has_our_tensors(folder / WEIGHTS, configured=(folder / CONFIG).is_file()):
        return f"its {WEIGHTS} is of another model"
    others = sorted(path.name for pattern in FOREIGN for path in folder.glob(pattern))
    return f"it holds weights of another model ({others[0]})" if others else None


def _has_our_tensors(weights: Path, configured: bool) -> bool:
    """Return whether weights are of an artifact, or damaged beside the configuration of one."""
    try:
        with safe_open(weights, framework="numpy") as opened:
            recorded = MODEL_TYPE in (opened.metadata() or {})
            return recorded or all(key.startswith(OWN_TENSORS) for key in opened.keys())  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError):
        return configured


def write_directory(directory: str | os.PathLike, fill: Callable[[Path], Collection[str] | None]) -> None:
    """Fill a directory at once: a new one gets its name when it is complete, in an old one whole files are replaced.

    `fill` writes the files to the directory that it is given, and returns the names of older files that belong to
    them no longer. The weights are replaced first: they carry their own record, so what a kill leaves is the old or
    the new. Saves to one directory at the same time are published one after another, each as a whole.

    Raises:
        OSError: writing failed; what was there before is untouched.
    """
    directory = Path(os.path.realpath(os.path.expanduser(directory)))
    staging = None
    try:
        # Inside an old directory, which may be a mount of its own; beside a new one.
        room = directory if directory.exists() else directory.parent
        _sweep(room, directory.name)
        staging = room / f".{directory.name}.{uuid.uuid4().hex}.partial"
        staging.mkdir(parents=True)
        stale = fill(staging) or ()
        if not _became(staging, directory):
            with _alone_in(directory):
                _replace_files(staging, directory, stale)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"could not save to {str(directory)!r} ({error}); what was saved there before is untouched: free some "
            "space or choose another directory"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def _sweep(room: Path, name: str) -> None:
    """Remove what processes left that were killed while they saved."""
    for left in room.glob(f".{glob.escape(name)}.*.partial"):
        with contextlib.suppress(FileNotFoundError):  # another save has just published its own
            if time.time() - left.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(left, ignore_errors=True)


def _became(staging: Path, directory: Path) -> bool:
    """Give a complete directory its name, if nothing has that name yet."""
    if directory.exists():
        return False
    try:
        os.rename(staging, directory)
    except OSError:
        if directory.is_dir():  # another save to the same new name was quicker
            return False
        raise
    return True


def _replace_files(staging: Path, directory: Path, stale: Collection[str]) -> None:
    if (staging / CARD).exists() and not is_generated(directory / CARD):
        report_kept(directory / CARD, str(directory / CARD))
        (staging / CARD).unlink()
    for path in sorted(staging.iterdir(), key=lambda path: path.name != WEIGHTS):
        os.replace(path, directory / path.name)
    for name in stale:
        (directory / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Wait until no other save publishes into a directory; a lock on it ends with the process that holds it."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# ---- where adapters come from ---------------------------------------------------------------------------------------


def tensors_under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def adapter_hash(values: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """Return a hash of an adapter's shape and of all its tensors by their names inside it.

    Of the shape, what has its default value or the published size is left out, so that fields of later versions
    change nothing.
    """
    typed = KnowledgeAdapterConfig.from_dict(values)
    usual = {**type(typed)().to_dict(), **PUBLISHED_SIZES, "kind": DEFAULT_KIND}
    own = {key: value for key, value in typed.to_dict().items() if value != usual[key]}
    return _hash({key: value for key, value in own.items() if key not in typed.beside_the_shape}, tensors)


def lm_head_hash(lm_head: str, tensors: dict[str, Tensor]) -> str:
    """Return a hash of an LM head's sort and of all its tensors by their names inside it."""
    return _hash({"lm_head": lm_head}, tensors)


def _hash(shape: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256(json.dumps(shape, sort_keys=True).encode())
    for key in sorted(tensors):
        total.update(digest_of_tensor(key, tensors[key].detach().cpu()))
    return total.hexdigest()


def checksum(tensor: Tensor) -> str:
    """Return a checksum of a tensor's dtype, shape and bytes, which sees damage at twice the speed of a hash."""
    head = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    return f"{zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data, head):08x}"


def note_sources(artifact: Any, hashes: dict[str, str], file: str, subfolder: str | None) -> dict[str, Any]:
    """Return an artifact's adapters, each that it holds itself with its source; `file` is one of the artifact's.

    `hashes` are those that were noted when it was saved; where one is missing it is computed.
    """
    where, tensors = artifact.where, artifact.tensors
    origin = {
        "name_or_path": os.path.abspath(where) if os.path.isdir(where) else where,
        "revision": None if os.path.isdir(where) else extract_commit_hash(file, None),
        "subfolder": subfolder or "",
    }
    noted = {}
    for name, values in (artifact.config.get("adapters") or {}).items():
        own, noted_hash = tensors_under(f"adapters.{name}.", tensors), hashes.get(name)
        source = {**origin, "adapter": name, "hash": noted_hash or adapter_hash(values, own)} if own else {}
        noted[name] = {**values, "source": values.get("source") or source}
    return noted


def referred(
    adapters: dict[str, Any], tensors: dict[str, Tensor], bundle_adapters: bool | None, directory: str
) -> list[str]:
    """Return the names of the adapters to which an artifact in this directory refers: those that are unchanged.

    None bundles those of local directories. One is never left out of the very directory that it came from.
    """
    names = []
    for name, values in adapters.items():
        source = values.get("source")
        if not source or bundle_adapters or (bundle_adapters is None and source.get("revision") is None):
            continue
        here = source.get("revision") is None and os.path.realpath(source["name_or_path"]) == os.path.realpath(
            directory
        )
        if not here and adapter_hash(values, tensors_under(f"adapters.{name}.", tensors)) == source["hash"]:
            names.append(name)
    return names


def with_sources(config: Any, names: Sequence[str]) -> Any:
    """Return a copy of a model's configuration with the sources of these adapters and of no others."""
    config = copy.copy(config)
    config.adapters = {
        name: {**values, "source": values.get("source", {}) if name in names else {}}
        for name, values in config.adapters.items()
    }
    return config


def fetch_referred(
    adapters: dict[str, Any], where: str, reading: dict[str, Any], read: Callable[..., Any]
) -> dict[str, Tensor]:
    """Return the tensors, by their names in the model, of the adapters to which an artifact refers.

    `read` reads what an artifact itself holds.

    Raises:
        OSError: a source can't be read.
        ValueError: a source has no such adapter any more, or another than when the head was trained.
    """
    tensors: dict[str, Tensor] = {}
    for name, values in adapters.items():
        source = values.get("source")
        if not source:
            continue
        own = {key: value for key, value in reading.items() if key not in ("revision", "subfolder")}
        own.update({key: source[key] for key in ("revision", "subfolder") if source.get(key)})
        location = f"{source['name_or_path']!r}" + (f" (revision {own['revision']})" if "revision" in own else "")
        try:
            artifact = read(source["name_or_path"], **own)
        except OSError as error:
            raise OSError(
                f"adapter {name!r}, with which {where} was trained, can't be read from {location}: {error}. Put it "
                "back there, or save the model with bundle_adapters=True where it still loads"
            ) from error
        artifact.check()
        held = tensors_under(f"adapters.{source['adapter']}.", artifact.tensors)
        actual = adapter_hash(artifact.config["adapters"][source["adapter"]], held) if held else "none"
        if actual != source["hash"]:
            raise ValueError(
                f"adapter {name!r} has changed since {where} was trained with it: {location} holds {actual[:12]} for "
                f"{source['adapter']!r}, not {source['hash'][:12]}; put the old one back, or train the head again"
            )
        tensors.update({f"adapters.{name}.{key}": tensor for key, tensor in held.items()})
    return tensors


# ---- writing --------------------------------------------------------------------------------------------------------


CONFIGURATION = "configuration_kadapter.py"
LANGUAGE_MODELS = "language_modeling_kadapter.py"
HEADS = ("heads_kadapter.py", LANGUAGE_MODELS)
CODE = (  # the Python files that travel with an artifact; a model without a head reads all but those of heads
    *(CONFIGURATION, "backbone_kadapter.py", "processing_kadapter.py", "cards_kadapter.py", "artifacts_kadapter.py"),
    *("rows_kadapter.py", "fusion_kadapter.py", "modeling_kadapter.py", *HEADS),
)
ALIGNMENT = 64  # bytes; so a mapped tensor begins where one that PyTorch made does, and multiplies to the same bits
STRUCTURE = (  # the fields that the tensors belong to: nobody changes them without saving again
    *("architectures", "adapters", "fusion", "inner_projections", "dependency_head", "arc_size", "num_positions"),
    *("lm_head", "lm_head_source", "heads"),
    *("backbone_config", "backbone_fingerprint", "backbone_modified"),
)


def digest_of(record: dict[str, Any]) -> str:
    """Return the digest by which config.json says to which record it belongs."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]


def travelling_code(
    folder: Path, kinds: Collection[str] = (), source: str | None = None, others: Collection[str] = ()
) -> dict[str, Path]:
    """Return the Python files that an artifact brings along by their names, from the folder of the running ones.

    They are the ten files, those of the other `kinds` of plug-ins in the artifact and the `others` that its model
    needs, of pipelines or of several heads, and what these import. Where no head or pipeline was asked for, remote
    code lies there without their files, which then come from the `source` that the model was loaded from (several
    joined by " + ") if it is of the very same release, and else stay behind.
    """
    of_kinds = [path for kind in sorted(kinds) if (path := folder / f"{kind}_kadapter.py").is_file()]
    beside = [*of_kinds, *(path for name in others if (path := folder / name).is_file())]
    imported = (Path(path).name for file in beside for path in get_relative_import_files(file))
    names = dict.fromkeys((*CODE, *(path.name for path in of_kinds), *sorted(imported), *others))
    code = {name: folder / name for name in names if (folder / name).is_file()}
    missing = [name for name in (*HEADS, PIPELINES) if name in names and name not in code]
    for artifact, name in itertools.product((source or "").split(" + "), missing):
        with contextlib.suppress(OSError, ValueError):
            theirs = [cached_file(artifact, file, local_files_only=True) for file in (name, CONFIGURATION)]
            file, configuration = (Path(path) for path in theirs if path is not None)
            if configuration.read_bytes() == (folder / CONFIGURATION).read_bytes():  # which holds the release's digest
                code[name] = file
    return code


def write_artifact(
    directory: str | os.PathLike,
    code: dict[str, Path],
    config: KAdapterConfig,
    tensors: dict[str, Tensor],
    tokenizer: Any = None,
) -> None:
    """Write a whole artifact at once; `code` are the Python files that its auto_map names and what they import.

    Its tokenizer is the given one, or that of its backbone.

    Raises:
        OSError: the directory holds a model that is not ours, the disk is full or it can't be written; what was
            there before is untouched.
        ValueError: a tensor holds NaN or infinite values; what was there before is untouched.
    """
    directory = Path(directory).expanduser()
    check_destination(directory, sources=[config.backbone_name_or_path, *{path.parent for path in code.values()}])
    for key, tensor in tensors.items():
        if not all_finite(tensor):
            raise ValueError(f"tensor {key!r} holds NaN or infinite values, so nothing was saved to {directory}")
    record = json.loads(config.to_json_string())
    record.pop("record_digest", None)
    record.update({key: getattr(config, key) for key in STRUCTURE})  # in full, and adapters in their own order
    inside = {key.removeprefix("kadapter."): tensor for key, tensor in tensors.items()}
    adapters = {name: tensors_under(f"adapters.{name}.", inside) for name in config.adapters}
    metadata = _metadata(config, tensors, adapters, json.dumps(record))

    def fill(folder: Path) -> Collection[str]:
        _save_weights({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / WEIGHTS, metadata)
        values = {**record, "record_digest": digest_of(record)}
        text = json.dumps(dict(sorted(values.items())), indent=2) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")
        shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # save_file leaves it readable to its owner only
        for name, path in code.items():
            shutil.copyfile(path, folder / name)
        sizes = {name: sum(tensor.numel() for tensor in own.values()) for name, own in adapters.items() if own}
        card = model_card(config, sizes, metadata=kept_metadata(directory / CARD))
        (folder / CARD).write_text(card, encoding="utf-8")
        return put_tokenizer(config, folder, directory, tokenizer)

    write_directory(directory, fill)


def all_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor infinite values, by a sum, which is finite where it holds none."""
    if not tensor.is_floating_point() or tensor.itemsize < 2:  # 8-bit floats have no sum, and are refused for that
        return True
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _metadata(
    config: KAdapterConfig, tensors: dict[str, Tensor], adapters: dict[str, dict[str, Tensor]], record: str
) -> dict[str, str]:
    """Return what weights tell of themselves: their configuration, adapters' hashes, and checksums of all there is."""
    hashes = {name: adapter_hash(config.adapters[name], own) for name, own in adapters.items() if own}
    checksums = {
        "record": f"{zlib.crc32(record.encode()):08x}",
        **{key: checksum(tensor) for key, tensor in tensors.items()},
    }
    return {"format": "pt", "kadapter": record, "hashes": json.dumps(hashes), "checksums": json.dumps(checksums)}


def _save_weights(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write tensors to the same bytes at each save, the first of them at a multiple of `ALIGNMENT`.

    Padding of spaces behind the header moves it there. The metadata, which are otherwise written in an order that
    changes from save to save, are sorted, so that what was pushed before is not uploaded again.
    """
    save_file(tensors, path, metadata={**metadata, "padding": ""})
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little")).rstrip()
    if missing := -(8 + len(header)) % ALIGNMENT:
        metadata = {**metadata, "padding": " " * missing}
        save_file(tensors, path, metadata=metadata)
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
        entries["__metadata__"] = dict(sorted(entries["__metadata__"].items()))
        text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def upload(repo_id: str, save: Callable[[Path], None], **kwargs: Any) -> str:
    """Save an artifact to a temporary directory, upload it as one commit and return the commit's address.

    Raises:
        OSError: the Hub refuses it or can't be reached; what it holds under that name is as it was.
        ValueError: the name holds a "+", which the Hub refuses.
    """
    if "+" in repo_id:
        raise ValueError(f"the Hub takes no '+' in a name, so not {repo_id!r}; push to {repo_id.replace('+', '-')!r}")
    api, private = HfApi(token=kwargs.pop("token", None)), kwargs.pop("private", None)
    kwargs.setdefault("commit_message", "Upload K-Adapter artifact")
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "artifact"
        save(artifact)
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            address_card(artifact / CARD, repo_id)
            _leave_cards(api, repo_id, artifact / CARD, kwargs.get("revision"))
            return str(api.upload_folder(repo_id=repo_id, folder_path=artifact, **kwargs))
        except (HTTPError, OSError, RuntimeError) as error:  # the last where the weights themselves are not taken
            reason = in_one_line(error if error.__cause__ is None else f"{error} {error.__cause__}")
            raise OSError(
                f"could not push to {repo_id!r} ({reason}); what the Hub holds there is as it was, and the same push "
                "goes on where this one stopped"
            ) from error


def _leave_cards(api: HfApi, repo_id: str, card: Path, revision: str | None) -> None:
    """Leave a card out of an upload where that of the Hub is somebody's own, or where the Hub would refuse it."""
    with contextlib.suppress(EntryNotFoundError, RevisionNotFoundError):  # there is no card, or no such branch yet
        theirs = Path(api.hf_hub_download(repo_id, CARD, revision=revision))
        if not is_generated(theirs):
            report_kept(theirs, f"{CARD} of {repo_id}")
            card.unlink(missing_ok=True)
    if card.exists() and not is_generated(card) and broken_metadata(card.read_text(encoding="utf-8")):
        report_kept(card, f"{CARD}, which was not pushed to {repo_id},")
        card.unlink()


def in_one_line(error: BaseException | str) -> str:
    """Return what an error says, without the ends of lines."""
    return " ".join(str(error).split())


def drop_backbone(module: Any, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Take a frozen backbone out of a state dict, as a hook after it was made."""
    module._notice_training()
    if not module.config.backbone_modified:
        for key in [key for key in state_dict if key.startswith(f"{prefix}backbone.")]:
            del state_dict[key]


def forgive_backbone(module: Any, incompatible: Any) -> None:
    """Miss no tensors of a frozen backbone, as a hook after a state dict was loaded."""
    if not module.config.backbone_modified:
        names = tuple(f"backbone.{key}" for key in module.backbone.state_dict())
        incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if not key.endswith(names)]


# ---- reading --------------------------------------------------------------------------------------------------------


DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# Fields by which a configuration names code to run: never taken from an artifact, so that no composite names a part's.
NAMING_CODE = ("auto_map", "custom_pipelines", "attn_implementation", "_attn_implementation", "experts_implementation")
UNFUSED = {"active_adapters": None, "fusion": "add", "inner_projections": False}  # adapters without a learned fusion
PINS = ("backbone_name_or_path", "backbone_revision", "backbone_config", "backbone_fingerprint", "pad_token_id")
WEIGHTS_FOLLOW = ContextVar("WEIGHTS_FOLLOW", default=False)


@dataclass
class Stored:
    """The tensors of one file, and the hashes and checksums that were noted when they were saved."""

    tensors: dict[str, Tensor]  # by their names in the file
    adapters: dict[str, Any]  # their shapes by name
    hashes: dict[str, str]  # of adapters
    checksums: dict[str, str]  # of tensors; earlier artifacts have none

    def changed(self) -> set[str]:
        """Return what holds tensors that are not those of which checksums or hashes were noted."""
        return self._changed_by_checksum() if self.checksums else self._changed_by_hash()

    def _changed_by_checksum(self) -> set[str]:
        changed = set()
        for key, tensor in self.tensors.items():
            if self.checksums.get(key) != checksum(tensor):
                owner, name, *_ = [*key.removeprefix("kadapter.").split("."), ""]
                changed.add(f"adapter {name!r}" if owner == "adapters" else owner)
        return changed

    def _changed_by_hash(self) -> set[str]:
        inside, changed = {key.removeprefix("kadapter."): tensor for key, tensor in self.tensors.items()}, set()
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
    files: dict[str, Stored] = field(default_factory=dict)  # what is to be checked, by the path of its file

    @property
    def head(self) -> str | None:
        """The class of the head that the artifact holds, if it holds one."""
        saved_as = (self.config.get("architectures") or ["KAdapterModel"])[0]
        return None if saved_as == "KAdapterModel" else saved_as

    def check(self, verify: bool = True) -> None:
        """Refuse tensors that are damaged, for which all of them are read into memory.

        Args:
            verify: whether tensors must be those of which checksums or hashes were saved with them.

        Raises:
            ValueError: there are NaN or infinite values, or tensors that were changed since they were saved; the
                sentence names the file and what is damaged.
        """
        for path, stored in self.files.items():
            changed = sorted(stored.changed()) if verify else []
            if verify and stored.checksums and not changed:
                continue  # to the bit what was saved, and nothing that is not finite ever is
            for key, tensor in stored.tensors.items():
                if not all_finite(tensor):
                    raise ValueError(f"{path}: tensor {key!r} holds NaN or infinite values; fetch or train it again")
            if changed:
                raise ValueError(
                    f"{path}: the tensors of {', '.join(changed)} are not those that were saved, as what was noted of "
                    "them shows; fetch or save the artifact again, or pass verify=False if they were changed on "
                    "purpose"
                )


def read_artifact(id_or_path: str | os.PathLike, **reading: Any) -> Artifact:
    """Read config.json and model.safetensors of one artifact, from a directory or the Hub; its `check` is still due.

    Adapters to which it refers are read from where it says, and must be what they were.

    Raises:
        OSError: there is no such artifact, or no adapter where it refers to one.
        ValueError: it is of another model type, or damaged; the sentence names the file and the tensor or field. Or
            an adapter has changed.
    """
    artifact = read_own(os.path.expanduser(id_or_path), **reading)
    adapters = artifact.config.get("adapters") or {}
    elsewhere = {
        name: values for name, values in adapters.items() if not tensors_under(f"adapters.{name}.", artifact.tensors)
    }
    artifact.tensors.update(fetch_referred(elsewhere, artifact.where, reading, read_own))
    return artifact


def read_own(where: str, **reading: Any) -> Artifact:
    """Read what an artifact itself holds."""
    written = _read_config(_file(where, CONFIG, reading), where)
    file = _file(where, WEIGHTS, reading)
    tensors, record, hashes, checksums = _read_weights(file)
    config = _without_code(_reconcile(written, record, where))
    try:
        architectures = config.get("architectures") or []
        if not isinstance(architectures, list) or not all(isinstance(name, str) for name in architectures):
            raise TypeError("its architectures are no list of names")
        KAdapterConfig.from_dict(dict(config))
    except (StrictDataclassError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{where}: {CONFIG} describes no K-Adapter model ({error}); save it again") from error
    inside = {key.removeprefix("kadapter."): tensor for key, tensor in tensors.items()}
    files = {file: Stored(tensors, config.get("adapters") or {}, hashes, checksums)} if tensors else {}
    artifact = Artifact(config, inside, where, written, files)
    _check_names(artifact)
    config["adapters"] = note_sources(artifact, hashes, file, reading.get("subfolder"))
    return artifact


def _without_code(config: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in NAMING_CODE}
    if isinstance(backbone := kept.get("backbone_config"), dict):
        kept["backbone_config"] = {key: value for key, value in backbone.items() if key not in NAMING_CODE}
    return kept


def _check_names(artifact: Artifact) -> None:
    """Refuse tensors that belong to nothing in the configuration."""
    known = [f"adapters.{name}." for name in artifact.config.get("adapters") or {}]
    known += ["fusion.", *(["head."] if artifact.head else [])]
    known += ["backbone."] if artifact.config.get("backbone_modified") else []
    for key in artifact.tensors:
        if not key.startswith(tuple(known)):
            raise ValueError(f"{artifact.where} has unknown tensor {key!r}; fetch or save the artifact again")


def _file(where: str, name: str, reading: dict[str, Any]) -> str:
    try:
        if path := cached_file(where, name, **reading):
            return path
        raise FileNotFoundError("there is none")
    except OSError as error:
        reason = in_one_line(error)
        raise OSError(f"no {name} of a K-Adapter artifact at {where!r} ({reason}); check its id or path") from error


def _read_config(path: str, where: str) -> dict[str, Any]:
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file ({error}); fetch or save the artifact again") from error
    if not isinstance(config, dict) or config.get("model_type") != KAdapterConfig.model_type:
        model_type = config.get("model_type") if isinstance(config, dict) else type(config).__name__
        raise ValueError(
            f"{where} holds a model of type {model_type!r}, not 'kadapter'; use from_backbone for a backbone"
        )
    return config


def _reconcile(written: dict[str, Any], record: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the configuration that belongs to the weights: config.json, unless their own record says otherwise."""
    if not record:
        return dict(written)
    if written.get("record_digest") != digest_of(record):
        logger.warning(
            f"{where}: {CONFIG} is of another save than {WEIGHTS}; the configuration in the weights is used"
        )
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
        if not all(isinstance(entry, dict) for entry in (record, hashes, checksums)):
            raise ValueError("what its metadata holds are no records")
        for noted, digits in ((hashes, 64), (checksums, 8)):
            if not all(
                isinstance(digest, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", digest) for digest in noted.values()
            ):
                raise ValueError("what its metadata holds of its tensors are no hashes")
        noted = checksums.pop("record", None)
        if noted is not None and noted != f"{zlib.crc32(metadata.get('kadapter', '').encode()):08x}":
            raise ValueError("the configuration in it is not that which was saved")
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch or save the artifact again") from error
    return tensors, record, hashes, checksums


# ---- composing ------------------------------------------------------------------------------------------------------


def read_artifacts(name: Any, compose_with: Sequence[str | os.PathLike], reading: dict[str, Any]) -> list[Artifact]:
    """Read all artifacts that a name, a list of names or a shorthand means, and those to compose with.

    `revision` and `subfolder` mean one repository, so they are refused for the names of several.
    """
    names = [name] if isinstance(name, str | os.PathLike) else list(name)
    names = [artifact for name in names for artifact in split_composition(name)]
    if len(names) > 1 and (reading.keys() & {"revision", "subfolder"}):
        named = {key: reading[key] for key in ("revision", "subfolder") if key in reading}
        raise ValueError(f"{named} can't mean all of {names}; name one, and the others by compose_with")
    if isinstance(compose_with, str | os.PathLike):
        compose_with = [compose_with]
    own = {key: value for key, value in reading.items() if key not in ("revision", "subfolder")}
    artifacts = [read_artifact(artifact, **reading) for artifact in names]
    return artifacts + [
        read_artifact(artifact, **own) for name in compose_with for artifact in split_composition(name)
    ]


def merge(artifacts: Sequence[Artifact]) -> Artifact:
    """Compose artifacts of one backbone into one: all their adapters, without learned fusions and heads.

    They are fused by "delta" or "max" if all of the artifacts are, else by "add".

    Raises:
        ValueError: an adapter name occurs twice, or two artifacts belong to different backbones.
    """
    if not artifacts:
        raise ValueError("nothing to load: the list of artifacts is empty; name at least one")
    if len(artifacts) == 1:
        return artifacts[0]
    # The backbone is that of the first artifact that is pinned to a backbone.
    pinned = next(
        (artifact for artifact in artifacts if artifact.config.get("backbone_fingerprint")), artifacts[0]
    ).config
    adapters, tensors = {}, {}
    for artifact in artifacts:
        check_same_backbone(pinned, artifact)
        for name, values in (artifact.config.get("adapters") or {}).items():
            if name in adapters:
                raise ValueError(
                    f"adapter {name!r} of {artifact.where} is in another part already; load one and add the other "
                    "by load_adapter(id_or_path, adapter_name=...)"
                )
            adapters[name] = values
            own = tensors_under(f"adapters.{name}.", artifact.tensors)
            tensors.update({f"adapters.{name}.{key}": tensor for key, tensor in own.items()})
        say_what_is_left_out(artifact)
    config = {key: value for key, value in artifacts[0].config.items() if key not in ("id2label", "label2id")}
    config.update({key: pinned.get(key) for key in PINS})
    fusions = {artifact.config.get("fusion", "add") for artifact in artifacts}
    fusion = fusions.pop() if len(fusions) == 1 and fusions <= set(WITHOUT_WEIGHTS) else "add"
    config.update({**UNFUSED, "fusion": fusion}, adapters=adapters, architectures=["KAdapterModel"])
    config.update(lm_head=None, lm_head_source=None, heads=None)
    files = {path: stored for artifact in artifacts for path, stored in artifact.files.items()}
    return Artifact(config, tensors, " + ".join(artifact.where for artifact in artifacts), artifacts[0].written, files)


def say_what_is_left_out(artifact: Artifact) -> None:
    """Warn that a part's learned fusion does not come along."""
    if artifact.config.get("fusion", "add") not in WITHOUT_WEIGHTS:
        logger.warning(f"the learned fusion of {artifact.where} is left out, and its adapters are taken")


def check_same_backbone(config: dict[str, Any], artifact: Artifact) -> None:
    """Refuse an artifact that was made for another backbone, by fingerprint, or by shapes where there is none."""
    if artifact.config.get("backbone_modified") or config.get("backbone_modified"):
        raise ValueError(f"{artifact.where}: a backbone was trained along, so its adapters compose with no others")
    ours, theirs = config.get("backbone_fingerprint"), artifact.config.get("backbone_fingerprint")
    names = [f"{fields.get('backbone_name_or_path')!r}" for fields in (config, artifact.config)]
    if ours and theirs and ours != theirs:
        raise ValueError(
            f"{artifact.where} was made for another backbone, {names[1]} with fingerprint {theirs[:12]}, not "
            f"{names[0]} with {ours[:12]}; use adapters of one backbone"
        )
    check_shapes(config.get("backbone_config") or {}, artifact.config.get("backbone_config") or {}, artifact.where)
    if not (ours and theirs) and artifact.config is not config:
        unpinned = " and ".join(name for name, pin in zip(names, (ours, theirs), strict=True) if not pin)
        logger.warning(
            f"{artifact.where}: of the backbones {names[0]} and {names[1]} only kind and shapes were compared, since "
            f"{unpinned} has no fingerprint; that they are the same is not verified"
        )


# ---- into the model -------------------------------------------------------------------------------------------------


@contextmanager
def weights_to_follow() -> Iterator[None]:
    """Make no weights for the adapters of a new model, since those of an artifact replace them."""
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
    for key, tensor in tensors.items():
        if tensor.shape != expected[key].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(expected[key].shape)} as the configuration says"
            raise ValueError(
                f"{where}: tensor {prefix + key!r} has shape {shapes}; use the configuration it was saved with"
            )
    _check_dtypes(tensors, where, prefix)
    module.load_state_dict({key: _usable(tensor) for key, tensor in tensors.items()}, strict=False, assign=True)


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


def _usable(tensor: Tensor) -> Tensor:
    """Return a tensor as it is mapped, or a copy where the file has it at any byte.

    There some matrix products add in another order, so that an output would differ in its last bit from that of the
    model that was saved. On Windows all are copied, since a file that is mapped could not be replaced by a save.
    """
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 and sys.platform != "win32" else tensor.clone()


def check_adapter(artifact: Artifact, name: str) -> KnowledgeAdapterConfig:
    """Return the typed configuration of one of an artifact's adapters."""
    return KnowledgeAdapterConfig.from_dict(artifact.config["adapters"][name], f" of {artifact.where}")


# ---- models of artifacts --------------------------------------------------------------------------------------------


# For each of these the Auto class AutoModelForTASK makes a KAdapterForTASK, which stands in this file, where an
# artifact has no head of its own.
TASKS = {
    "CausalLM": LANGUAGE_MODELS,
    "MaskedLM": LANGUAGE_MODELS,
    "MultipleChoice": HEADS[0],
    "QuestionAnswering": HEADS[0],
    "SequenceClassification": HEADS[0],
    "TokenClassification": HEADS[0],
}
MASKED_LM = "KAdapterForMaskedLM"
PIPELINES, SEVERAL_HEADS = "pipelines_kadapter.py", "several_heads_kadapter.py"
OWN_PIPELINES = {  # of heads that are asked by a pipeline: the task, and its class in that file
    "KAdapterForEntityPairClassification": ("entity-pair-classification", "EntityPairClassificationPipeline"),
    "KAdapterForEntityClassification": ("entity-classification", "EntityClassificationPipeline"),
    "KAdapterForDependencyParsing": ("dependency-parsing", "DependencyParsingPipeline"),
    "KAdapterForSequenceClassification": ("text-classification", "NamingTextClassification"),
    "KAdapterForTokenClassification": ("token-classification", "NamingTokenClassification"),
    MASKED_LM: ("fill-mask", "NamingFillMask"),
    "KAdapterModelWithHeads": ("several-heads", "SeveralHeadsPipeline"),
}
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
    model_class: type[Any]  # the `KAdapterModel` of this family: each repository's code makes its own
    head: Any
    _auto_classes: tuple[str, ...] = ()
    _own_fields: tuple[str, ...] = ()  # fields of the configuration that only this class looks at, chosen at loading

    @classmethod
    def _read_head(cls, artifact: Artifact, config: KAdapterConfig, reading: dict[str, Any]) -> Artifact:
        """Return an artifact with the head that `config` asks for, of a head that is read from elsewhere."""
        return artifact

    @classmethod
    def _lm_task(cls, lm_head: str | None) -> str | None:
        """Return for which task the backbone's own LM head is needed where this one was chosen; None for no need."""
        return None

    @classmethod
    @making_models_in_turn
    def from_backbone(cls, backbone: str | os.PathLike | PreTrainedModel, **kwargs: Any) -> Any:
        """Return a model without adapters on a backbone: a Hub id, a directory or a module.

        Keywords that are fields of `KAdapterConfig` (`fusion`, `adapters`, `num_labels`, `id2label`, ...) are used
        for it, all others (`revision`, `dtype`, `attn_implementation`, `trust_remote_code`, ...) load the backbone.

        Raises:
            OSError: there is no such checkpoint.
            TypeError: the backbone does not take a keyword.
            ValueError: the checkpoint lacks tensors of its own architecture.
        """
        fields = (*OWN_FIELDS, *cls._own_fields)
        own = {key: kwargs.pop(key) for key in fields if key in kwargs}
        refuse_misspelt(kwargs, fields, "from_backbone")
        config = KAdapterConfig()
        module = resolve_backbone(config, backbone, kwargs, lm_task=cls._lm_task(own.get("lm_head")))
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
        fused by "add", or by "delta" or "max" if all of its parts are; none has weights. Another `fusion` can be asked
        for, for one adapter too, and a learned one is new then. `revision`, `subfolder` and `trust_remote_code` mean
        the artifact's repository; the backbone has `backbone_kwargs` and its pinned revision, and `backbone` to say
        where it is found now. With `subfolder` and without the package, transformers looks for our Python files at the
        repository's root. `dtype`, `device_map`, `attn_implementation`, `quantization_config` and `token` reach the
        backbone too. Adapters are frozen until `train_adapter` is called; fusion and head train.
        `ignore_mismatched_sizes` makes new weights for what a head has in another size than the artifact, as for
        another `num_labels`. What was saved is compared, while the backbone loads, with the hashes that were saved
        with it; `verify=False` leaves that out.

        Raises:
            OSError: there is no such artifact or backbone.
            TypeError: a keyword is unknown, or more than one argument is without a keyword, as in PEFT.
            ValueError: a tensor is missing, extra, damaged or of another shape, an adapter occurs twice, the
                backbone is not the one the adapters were trained on, or a keyword would change what the weights
                were made for.
        """
        if model_args or isinstance(pretrained_model_name_or_path, PreTrainedModel):
            raise TypeError("from_pretrained takes an id or directory, or a list of them; a model goes to backbone=")
        reading = {key: kwargs.pop(key) for key in READING if kwargs.get(key) is not None}
        dtype = _dtype(dtype if dtype is not None else kwargs.pop("torch_dtype", None))
        for_backbone = {**_taken_for_backbone(kwargs, reading, config, dtype), **(backbone_kwargs or {})}
        artifact = merge(read_artifacts(pretrained_model_name_or_path, compose_with, reading))
        new_head = artifact.head != cls.__name__
        config = _config_for(artifact, config, kwargs, new_head, cls._own_fields)
        artifact = cls._read_head(artifact, config, reading)
        trained = tensors_under("backbone.", artifact.tensors)
        with ThreadPoolExecutor(1) as beside:
            sound = beside.submit(artifact.check, verify)
            module = resolve_backbone(config, backbone, for_backbone, trained, cls._lm_task(config.lm_head))
            with weights_to_follow():
                model = cls(config, module)
            # Before it is known what changed, since this tells which tensor is missing or misshapen.
            missing, mismatched = model._load_strictly(artifact, ignore_mismatched_sizes)
        sound.result()
        model.base_model.adapters.requires_grad_(False)
        model._place(device_of(module), dtype if isinstance(dtype, torch.dtype) else None)
        info = {"missing_keys": missing, "unexpected_keys": set(), "mismatched_keys": mismatched, "error_msgs": []}
        return (model.eval(), info) if output_loading_info else model.eval()

    def _load_strictly(self, artifact: Artifact, ignore_mismatched_sizes: bool = False) -> tuple[set[str], set[tuple]]:
        """Copy an artifact's tensors: all of the model's, and all of a head's if it is this head's artifact.

        Returns what of the head is new: names that the artifact lacks, and (name, shape there, shape here) of those
        that it has in another size.
        """
        modules, tensors = dict(self._own_modules()), artifact.tensors
        missing, mismatched = set(), set()
        if self.config.fusion != artifact.config.get("fusion", "add"):  # chosen when composing
            del modules["fusion"]
            if self.config.fusion not in WITHOUT_WEIGHTS:
                logger.warning(f"fusion {self.config.fusion!r} of {artifact.where} is new and needs training")
        if artifact.head != type(self).__name__ or "head" not in modules:
            tensors, head = self._without_head(artifact), modules.pop("head", None)
            if head is not None:
                missing = {f"head.{key}" for key in head.state_dict()}
                logger.warning(f"{artifact.where} has no head of {type(self).__name__}: it is new and needs training")
        elif "head" in modules:
            mismatched = self._mismatched(artifact)
            tensors = self._resized(artifact, mismatched, ignore_mismatched_sizes)
        for name, module in modules.items():
            copy_strictly(module, tensors_under(f"{name}.", tensors), artifact.where, f"{name}.")
        for adapter in self.base_model.adapters.values():
            adapter.meet(self.base_model.backbone)
        return missing, mismatched

    def _without_head(self, artifact: Artifact) -> dict[str, Tensor]:
        """Return an artifact's tensors without those that its head declares."""
        declared = self._head_tensors(artifact) if artifact.head else set()
        tensors = {key: tensor for key, tensor in artifact.tensors.items() if key not in declared}
        for key in tensors:
            if key.startswith("head."):
                raise ValueError(f"{artifact.where} has unknown tensor {key!r}; fetch or save the artifact again")
        return tensors

    def _mismatched(self, artifact: Artifact) -> set[tuple]:
        """Return (name, shape there, shape here) of the head's tensors that an artifact has in another size."""
        stored = tensors_under("head.", artifact.tensors)
        return {
            (f"head.{key}", tuple(stored[key].shape), tuple(tensor.shape))
            for key, tensor in self.head.state_dict().items()
            if key in stored and stored[key].shape != tensor.shape
        }

    def _resized(self, artifact: Artifact, mismatched: set[tuple], ignore: bool) -> dict[str, Tensor]:
        """Return an artifact's tensors, with new tensors for those that it has in another size."""
        if not mismatched:
            return artifact.tensors
        if not ignore:
            key, there, here = min(mismatched)
            raise ValueError(
                f"{artifact.where}: tensor {key!r} has shape {there}, and the head that you ask for has {here}; "
                "leave out num_labels, id2label and label2id, or pass ignore_mismatched_sizes=True for a new head of "
                "that size"
            )
        names = sorted(key for key, *_ in mismatched)
        logger.warning(f"{artifact.where} has {names} in another size: they are new and need training")
        new = self.head.state_dict()
        return {**artifact.tensors, **{key: new[key.removeprefix("head.")] for key in names}}

    def _head_tensors(self, artifact: Artifact) -> set[str]:
        """Return the names of the tensors of an artifact's head: as its class declares them, or as they were noted.

        Without a need for heads their classes are not imported.
        """
        if not any(key.startswith("head.") for key in artifact.tensors):
            return set()
        for head_class in _subclasses(ArtifactVerbs):
            if head_class.__name__ == artifact.head and hasattr(head_class, "build_head"):
                with torch.device("meta"):
                    head = head_class.build_head(KAdapterConfig.from_dict(dict(artifact.config)))
                return {f"head.{key}" for key in head.state_dict()}
        if noted := {key for stored in artifact.files.values() for key in stored.checksums if key.startswith("head.")}:
            return noted
        raise ValueError(
            f"{artifact.where} holds a {artifact.head}, not known here; import its class or use a newer kadapter"
        )

    def _own_modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """Yield all that is ours, not the backbone's."""
        yield "adapters", self.base_model.adapters
        yield "fusion", self.base_model.fusion
        if self is not self.base_model:
            yield "head", self.head

    def _place(self, device: torch.device, dtype: torch.dtype | None) -> None:
        for _, module in self._own_modules():
            if dtype is not None or any(parameter.device != device for parameter in module.parameters()):
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
        inside = {key.removeprefix("kadapter."): tensor for key, tensor in tensors.items()}
        config = copy.copy(self.config)
        config.adapters = {name: self._with_own_results(name, inside) for name in config.adapters}
        names = referred(self.config.adapters, inside, bundle_adapters, os.path.expanduser(save_directory))
        left_out = [f"{prefix}adapters.{name}." for name in names for prefix in ("", "kadapter.")]
        if not self._refers_to_lm_head(inside, bundle_adapters, save_directory):
            config.lm_head_source = None
        else:
            left_out.append("head.")
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(tuple(left_out))}
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
        (name,) = self.base_model.adapters.known(adapter_name)
        self._notice_training()
        values = {key: value for key, value in self.config.to_dict().items() if key not in ("id2label", "label2id")}
        tensors = self._tensors(self.base_model.state_dict(), (f"adapters.{name}.", "backbone."))
        values.update(UNFUSED, adapters={name: {**self._with_own_results(name, tensors), "source": {}}})
        if self.config.fusion in WITHOUT_WEIGHTS:
            values["fusion"] = self.config.fusion
        config = KAdapterConfig(**values)
        self._write(path, config, tensors, self.model_class)

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

    def _refers_to_lm_head(
        self, tensors: dict[str, Tensor], bundle: bool | None, directory: str | os.PathLike
    ) -> bool:
        """Return whether an artifact in a directory refers to the LM head that was loaded: where it is unchanged."""
        source = self.config.lm_head_source
        if not source or bundle:
            return False
        held, there = tensors_under("head.", tensors), os.path.realpath(source["name_or_path"])
        here = source.get("revision") is None and there == os.path.realpath(os.path.expanduser(directory))
        return not here and lm_head_hash(self.config.lm_head, held) == source["hash"]

    def _notice_training(self) -> None:
        backbone = self.base_model.backbone
        if any(parameter.requires_grad for parameter in backbone.parameters()):
            refuse_changes(backbone)
            self.config.backbone_modified = True

    @staticmethod
    def _tensors(state_dict: dict[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
        names = {key: key.removeprefix("kadapter.") for key in state_dict}
        wanted = [key for key, name in names.items() if name.startswith(prefixes)]
        return {key: state_dict[key] for key in wanted if "backbone.pooler." not in key}  # it is never used

    def _write(
        self, path: Any, config: KAdapterConfig, tensors: dict[str, Tensor], model_class: Any, tokenizer: Any = None
    ) -> None:
        config.architectures = [model_class.__name__]
        if model_class.__name__ != MASKED_LM:
            config.lm_head = config.lm_head_source = None
        config.dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.") if tensors else None
        kinds = {config.adapter_config(name).kind for name in config.adapters} - {DEFAULT_KIND}
        package, _, home = model_class.__module__.rpartition(".")
        ours = f"{home}.py" in (*HEADS, SEVERAL_HEADS)
        of_ours = ours and package == self.model_class.__module__.rpartition(".")[0]
        own_pipeline = OWN_PIPELINES.get(model_class.__name__) if of_ours else None
        others = [SEVERAL_HEADS] if f"{home}.py" == SEVERAL_HEADS else []
        others += [PIPELINES] if own_pipeline is not None else []
        folder = Path(inspect.getfile(self.model_class)).parent
        code = travelling_code(folder, kinds, self.name_or_path, others)
        config.auto_map = {"AutoConfig": "configuration_kadapter.KAdapterConfig"}
        config.auto_map["AutoModel"] = "modeling_kadapter.KAdapterModel"
        tasks = {
            f"AutoModelFor{task}": f"{file[:-3]}.KAdapterFor{task}" for task, file in TASKS.items() if file in code
        }
        config.auto_map.update(tasks)
        if of_ours:  # a head from elsewhere does not travel along
            config.auto_map.update(dict.fromkeys(model_class._auto_classes, f"{home}.{model_class.__name__}"))
        _name_pipeline(config, own_pipeline if PIPELINES in code else None, model_class._auto_classes)
        for kind in sorted(kinds)[:1]:  # whose file imports all others, those of later kinds among them
            module = plugin_module(kind)
            for name, target in config.auto_map.items():
                exported = target.rpartition(".")[2]
                if hasattr(module, exported):
                    config.auto_map[name] = f"{kind}_kadapter.{exported}"
        write_artifact(path, code, config, tensors, tokenizer)

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


def _name_pipeline(config: Any, own: tuple[str, str] | None, auto_classes: Sequence[str]) -> None:
    """Name a head's own pipeline in a configuration, which then says nothing of any other."""
    vars(config).pop("custom_pipelines", None)  # transformers takes its length, so it can't be None
    if own is not None:
        task, name = own
        implementation = {"impl": f"{PIPELINES[:-3]}.{name}", "pt": list(auto_classes[:1]), "type": "text"}
        config.custom_pipelines = {task: implementation}


def _taken_for_backbone(kwargs: dict[str, Any], reading: dict[str, Any], config: Any, dtype: Any) -> dict[str, Any]:
    """Take the keywords that reach the backbone out of those of `from_pretrained`, and return all that it loads by."""
    taken = {key: kwargs.pop(key) for key in FOR_BACKBONE if kwargs.get(key) is not None}
    taken.update({key: value for key, value in reading.items() if key in FOR_BACKBONE})
    attention = kwargs.pop("attn_implementation", None) or getattr(config, "_attn_implementation", None)
    more = {"dtype": dtype, "attn_implementation": attention}
    return {**taken, **{key: value for key, value in more.items() if value is not None}}


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | str | None:
    """Return a dtype of torch for its name, and None and "auto" as they are."""
    if isinstance(dtype, str) and dtype != "auto":
        name, dtype = dtype, getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"dtype={name!r} is no dtype of torch; give torch.bfloat16, 'bfloat16' or 'auto'")
    if isinstance(dtype, torch.dtype) and dtype not in DTYPES:
        raise ValueError(f"dtype={dtype} can't be computed with; give one of {', '.join(map(str, DTYPES))}, or 'auto'")
    return dtype


def _subclasses(cls: type[Any]) -> Iterator[type[Any]]:
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _config_for(
    artifact: Artifact,
    config: KAdapterConfig | None,
    overrides: dict[str, Any],
    new_head: bool,
    own_fields: Sequence[str] = (),
) -> KAdapterConfig:
    """Return an artifact's configuration, with what may be chosen anew when it is loaded.

    `config` is what AutoModel read of it, into which it wrote every keyword that names a field.
    """
    overrides = {key: value for key, value in overrides.items() if key not in IGNORED and key[0] != "_"}
    free = (*LABEL_FIELDS, *own_fields, *(() if artifact.head else HEAD_FIELDS))
    if not artifact.head and artifact.config.get("fusion", "add") in WITHOUT_WEIGHTS:
        free += ("fusion",)
    fixed = {key: value for key, value in overrides.items() if key in (*OWN_FIELDS, *STRUCTURE, *BACKBONE_FIELDS)}
    if config is not None:
        asked, stored = config.to_dict(), KAdapterConfig.from_dict(dict(artifact.written)).to_dict()
        changed = {key: value for key, value in asked.items() if value != stored.get(key)}
        overrides.update({key: value for key, value in changed.items() if key in free})
        fixed.update({key: value for key, value in changed.items() if key in STRUCTURE})
    for key, value in fixed.items():
        if key not in free:
            raise ValueError(
                f"{key}={value!r} can't be chosen for {artifact.where}: its weights were made for another value; "
                "compose by compose_with=[...], or build a new model by from_backbone"
            )
    if new_head and artifact.head:  # the kind of problem was the other head's, and so were several heads
        overrides.setdefault("problem_type", None)
        overrides["heads"] = None
    typed, unused = KAdapterConfig.from_dict(dict(artifact.config), return_unused_kwargs=True, **overrides)
    known = ("backbone", "backbone_kwargs", "compose_with", *FOR_BACKBONE, *READING[:2], *free)
    refuse_keywords(unused, known, "from_pretrained")
    typed.name_or_path = artifact.where
    return typed
