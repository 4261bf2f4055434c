"""All that knows the frozen backbone: how it is found, loaded, pinned, recognised and run.

It is recognised by the fingerprint of its checkpoint: a hash of all tensors as they are stored, which depends neither
on the dtype in which they are loaded nor on the files over which they are spread.
"""

import contextlib
import copy
import difflib
import hashlib
import inspect
import json
import logging as python_logging
import os
import pickle
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    Cache,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.accelerate import load_offloaded_parameter
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.utils import CONFIG_NAME, cached_file, logging
from transformers.utils.hub import extract_commit_hash, get_checkpoint_shard_files
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from .configuration_kadapter import LM_HEADS, KAdapterConfig

__all__ = [
    "READING",
    "BackboneHead",
    "Positions",
    "backbone_fingerprint",
    "brought_back",
    "carries_gradient",
    "check_keywords",
    "check_shapes",
    "check_takes_embeddings",
    "check_tapped",
    "device_of",
    "digest_of_tensor",
    "dropout_settings",
    "embedding_size_of",
    "embeddings_of",
    "find_checkpoint",
    "fingerprint_of",
    "head_of",
    "is_causal",
    "is_decoder",
    "is_offloaded",
    "making_models_in_turn",
    "of_beams",
    "pooler_of",
    "positions_of",
    "prepare_taps",
    "random_backbone",
    "refuse_changes",
    "release",
    "replacing",
    "resolve_backbone",
    "run_and_tap",
    "set_mode",
    "without_capturing_hooks",
]

logger = logging.get_logger(__name__)
READING = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "force_download", "proxies")
SHAPES = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "dim", "n_layers")
MAKING_MODELS = threading.RLock()
SAMPLES, SAMPLE = 16, 64 * 1024  # how many parts of a file of weights are looked at, and of how many bytes
CHECKPOINTS = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)


def making_models_in_turn(function: Callable) -> Callable:
    """Let only one thread at a time make a model.

    While transformers loads a model, it replaces torch's initialisers and its default dtype for the whole process: a
    model that another thread made meanwhile would keep whatever lay in memory.
    """

    @wraps(function)
    def in_turn(*args: Any, **kwargs: Any) -> Any:
        with MAKING_MODELS:
            return function(*args, **kwargs)

    return in_turn


class Checkpoint(NamedTuple):
    """Where a backbone's checkpoint lies, and what it is."""

    source: str
    revision: str | None
    fingerprint: str


def resolve_backbone(
    config: KAdapterConfig,
    backbone: Any,
    kwargs: dict[str, Any],
    trained: dict[str, Tensor] | None = None,
    lm_task: str | None = None,
) -> PreTrainedModel:
    """Load or take the backbone, and check that it is the one that `config` is pinned to, or pin `config` to it.

    `trained` are the tensors of a backbone that was trained along, which need no other source. With `lm_task`,
    "MaskedLM" or "CausalLM", the backbone comes within its language model, whose `base_model` it is.

    Raises:
        OSError: it can't be found; the sentence says how to name its place.
        TypeError: it is no model of transformers, or its class does not take a keyword.
        ValueError: it is another backbone, reads no text, or its checkpoint lacks tensors, or those of an LM head.
    """
    if config.backbone_modified and backbone is not None:
        raise ValueError("this model's backbone was trained along and is saved with it; leave out backbone=...")
    if config.backbone_modified:
        return _load("the backbone that was trained along", kwargs, config.typed_backbone_config(), trained or {})
    if isinstance(backbone, torch.nn.Module):
        return _take_module(config, backbone, lm_task)
    source = backbone if backbone is not None else config.backbone_name_or_path
    if not source:
        raise ValueError(
            "these adapters stand beside a backbone that existed only in memory; pass it as backbone=MODULE_OR_PATH"
        )
    source, kwargs = os.path.expanduser(source), dict(kwargs)
    if source == config.backbone_name_or_path and config.backbone_revision is not None:
        kwargs.setdefault("revision", config.backbone_revision)
    with contextlib.suppress(OSError):  # a backbone that can't be found is reported below
        finding = {key: value for key, value in kwargs.items() if key in READING}
        if commit := extract_commit_hash(cached_file(source, CONFIG_NAME, **finding), None):
            kwargs["revision"] = commit  # all files are of one commit, and the Hub is asked for it once
        _check_kind(_configuration(source, kwargs), f"backbone {source!r}")
    checkpoint = find_checkpoint(source, kwargs, anew=not config.backbone_fingerprint)
    if config.backbone_fingerprint and checkpoint.fingerprint != config.backbone_fingerprint:
        raise ValueError(_another(config, source, checkpoint.fingerprint))
    module = _load(source, kwargs, lm_task=lm_task)
    if config.backbone_config:
        check_shapes(config.backbone_config, module.config.to_dict(), f"backbone {source!r}")
    else:
        _pin(config, module, checkpoint)
    return module


def _another(config: KAdapterConfig, source: str, fingerprint: str) -> str:
    return (
        f"backbone {source!r} has fingerprint {fingerprint[:12]}, and these adapters were made for "
        f"{config.backbone_name_or_path!r} with {(config.backbone_fingerprint or '')[:12]}; pass the right checkpoint "
        "as backbone=ID_OR_PATH, or its revision in backbone_kwargs"
    )


def _pin(config: KAdapterConfig, module: PreTrainedModel, checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None:
        config.backbone_name_or_path, config.backbone_revision, config.backbone_fingerprint = checkpoint
    config.backbone_config, config.pad_token_id = plain(module.config), getattr(module.config, "pad_token_id", None)


def plain(backbone_config: PreTrainedConfig) -> dict[str, Any]:
    """Return a backbone's configuration as a plain dict, without what depends on how it was loaded."""
    passing = ("_name_or_path", "dtype", "transformers_version", "quantization_config")
    return {key: value for key, value in backbone_config.to_dict().items() if key not in passing}


def check_shapes(ours: Any, theirs: dict[str, Any], where: str) -> None:
    """Raise ValueError where two backbones' configurations differ in kind, depth or width."""
    for key in SHAPES:
        if ours.get(key) != theirs.get(key):
            raise ValueError(
                f"{where} has {key}={theirs.get(key)!r}, and these adapters were made for {key}={ours.get(key)!r}; "
                "use the backbone that they were made for"
            )


# ---- a backbone in memory -------------------------------------------------------------------------------------------


def _take_module(config: KAdapterConfig, model: torch.nn.Module, lm_task: str | None = None) -> PreTrainedModel:
    """Take a module, which is pinned to its checkpoint only if it still equals it, with its LM head if that is asked.

    Raises:
        TypeError: it is no model of transformers.
        ValueError: it is another backbone, reads no text, or has no LM head.
    """
    base: Any = getattr(model, "base_model", model)  # of one with a head, such as RobertaForMaskedLM
    if not isinstance(base, PreTrainedModel):
        raise TypeError(f"a backbone is a PreTrainedModel of transformers, its id or its path, not {type(model)}")
    _check_kind(base.config, "the backbone given as a module")
    if lm_task is not None and not is_language_model(model, lm_task):
        raise ValueError(
            f"the backbone given as a module, a {type(model).__name__}, has no LM head; give a {IN_WORDS[lm_task]} "
            f"such as AutoModelFor{lm_task} loads{f', or {OTHER_HEADS}' if lm_task == 'MaskedLM' else ''}"
        )
    module: Any = model if lm_task is not None else base
    checkpoint = _unchanged(module)
    if not config.backbone_config:
        _pin(config, module, checkpoint)
        if checkpoint is None:
            logger.warning(
                "the backbone given as a module equals no checkpoint at hand, so it exists only in memory: keep it, "
                "and pass it as backbone=MODULE when you load what is saved now"
            )
        return module
    check_shapes(config.backbone_config, module.config.to_dict(), "the backbone given as a module")
    if checkpoint is None:
        logger.warning("of the backbone given as a module only kind and shapes were compared, not its tensors")
    elif config.backbone_fingerprint and checkpoint.fingerprint != config.backbone_fingerprint:
        raise ValueError(_another(config, checkpoint.source, checkpoint.fingerprint))
    return module


def _unchanged(module: PreTrainedModel) -> Checkpoint | None:
    """Return the checkpoint that a module was loaded from, if it is at hand and the module still equals it."""
    source = module.config.name_or_path
    if not source or getattr(module, "is_quantized", False):
        return None
    return next(filter(None, (_equal(module, source, revision) for revision in _revisions_at_hand(source))), None)


def _revisions_at_hand(source: str) -> list[str | None]:
    """Return the commits of a repository in the cache, newest first, since a loaded model does not know its own."""
    if os.path.isdir(source):
        return [None]
    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=source, repo_type="model"), "snapshots")
    snapshots = sorted(folder.iterdir(), key=os.path.getmtime, reverse=True) if folder.is_dir() else []
    return [path.name for path in snapshots] or [None]


def _equal(module: PreTrainedModel, source: str, revision: str | None) -> Checkpoint | None:
    """Return the checkpoint at a revision if it is at hand and the module equals it."""
    finding = {"local_files_only": True, "revision": revision}
    try:
        checkpoint = find_checkpoint(source, finding)
        lm_task = next((task for task in LANGUAGE_MODELS if is_language_model(module, task)), None)
        stored = _load(source, {"dtype": module.dtype, **finding}, lm_task=lm_task).state_dict()
    except (OSError, ValueError, TypeError):  # moved, or in need of keywords that only its owner knows
        return None
    ours = module.state_dict()
    wanted = {key: tensor for key, tensor in stored.items() if "pooler" not in key}
    equal = all(
        key in ours and _equals(tensor, brought_back(module, key, ours[key])) for key, tensor in wanted.items()
    )
    return checkpoint if equal else None


def _equals(stored: Tensor, ours: Tensor | None) -> bool:
    return ours is not None and not ours.is_meta and torch.equal(stored, ours.cpu())


# ---- a backbone whose weights are elsewhere (`device_map`) ----------------------------------------------------------


def device_of(module: Any) -> torch.device:
    """Return the device on which a model begins to compute, wherever its weights wait ("meta" if offloaded)."""
    for each in module.modules():
        device = getattr(getattr(each, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def is_offloaded(module: Any) -> bool:
    """Return whether weights of a model wait on a disk or in main memory until they are used."""
    hooked = any(hasattr(each, "_hf_hook") for each in module.modules())
    return hooked and any(parameter.is_meta for parameter in module.parameters())


def brought_back(module: Any, key: str, tensor: Any) -> Any:
    """Return a model's tensor of this name, read from where it waits if it is offloaded."""
    waits = tensor is not None and tensor.is_meta and is_offloaded(module)
    return load_offloaded_parameter(module, key) if waits else tensor


def check_tied_together(module: Any, source: str) -> None:
    """Raise ValueError where one of two places that share a weight is on the disk: Accelerate can't bring it back."""
    places: dict[str, Any] = getattr(module, "hf_device_map", {})

    def place_of(name: str) -> Any:
        parents = [parent for parent in places if parent == "" or f"{name}.".startswith(f"{parent}.")]
        return places[max(parents, key=len)] if parents else None

    for one, other in dict(module.all_tied_weights_keys).items():
        if place_of(one) != place_of(other) and "disk" in (place_of(one), place_of(other)):
            raise ValueError(
                f"device_map puts {one!r} of backbone {source!r} on {place_of(one)!r} and {other!r} on "
                f"{place_of(other)!r}, and they are one weight; put both on the same"
            )


def refuse_changes(backbone: Any) -> None:
    """Raise ValueError for a backbone that can't be trained or changed: quantised, or with weights offloaded."""
    quantised = getattr(backbone.config, "quantization_config", None) is not None
    if quantised or is_offloaded(backbone):
        reason, keyword = ("quantised", "quantization_config") if quantised else ("offloaded", "device_map")
        raise ValueError(
            f"weights of the backbone are {reason} by {keyword}, so they are read and neither trained, changed nor "
            f"saved; load it without {keyword}, or keep it frozen by model.backbone.requires_grad_(False)"
        )


# ---- a backbone's checkpoint ----------------------------------------------------------------------------------------


def find_checkpoint(source: str, kwargs: dict[str, Any], anew: bool = True) -> Checkpoint:
    """Find a checkpoint and its fingerprint, which is read anew unless it is only compared.

    Raises:
        OSError: there is no such repository or directory, or there are no weights in it.
    """
    finding = {key: value for key, value in kwargs.items() if key in READING}
    try:
        files = _checkpoint_files(source, finding)
    except OSError as error:
        raise OSError(
            f"backbone {source!r} can't be read ({error}); say where it is by backbone=ID_OR_PATH"
        ) from error
    name = os.path.abspath(source) if os.path.isdir(source) else source
    revision = extract_commit_hash(files[0], None) or kwargs.get("revision")
    return Checkpoint(name, revision, backbone_fingerprint(files, anew))


def _checkpoint_files(source: str, finding: dict[str, Any]) -> list[str]:
    for name in CHECKPOINTS:
        path = cached_file(source, name, _raise_exceptions_for_missing_entries=False, **finding)
        if path is not None:
            if not name.endswith(".json"):
                return [path]
            shards = {key: value for key, value in finding.items() if key != "force_download"}
            return sorted(get_checkpoint_shard_files(source, path, **shards)[0])
    raise OSError(f"no weights there: none of {', '.join(CHECKPOINTS)}")


def backbone_fingerprint(files: Sequence[str], anew: bool = False) -> str:
    """Return a hash of all tensors (name, dtype, shape, bytes) of a checkpoint as stored, whatever its shards.

    The files are streamed once; the result is remembered in the Hugging Face cache. What is pinned into an artifact
    is read `anew`; where a checkpoint is only compared with a pin, a remembered hash will do.
    """
    memory = memory_of(files)
    remembered = None if anew else _remembered(memory)
    if remembered is not None:
        return remembered
    total = fingerprint_of(entry for path in files for entry in _tensor_digests(os.path.realpath(path)))
    remember(memory, total)
    return total


def memory_of(files: Sequence[str]) -> Path:
    """Return where the hash of files as they now are is remembered, in the Hugging Face cache."""
    return Path(constants.HF_HOME, "kadapter", "fingerprints", _state_of([os.path.realpath(path) for path in files]))


def remember(memory: Path, fingerprint: str) -> None:
    """Remember a hash of files; of those that were just written too, so that their first reader need not hash them."""
    with contextlib.suppress(OSError):  # a cache that can't be written only costs time
        memory.parent.mkdir(parents=True, exist_ok=True)
        with replacing(memory) as partial:
            partial.write_text(fingerprint, encoding="ascii")


def fingerprint_of(digests: Iterable[tuple[str, bytes]]) -> str:
    """Return a hash of tensors, of each its name and what `digest_of_tensor` returns; their order does not matter."""
    total = hashlib.sha256()
    for _, digest in sorted(digests):
        total.update(digest)
    return total.hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the name of a file to write, which takes the place of `path` as a whole when the block ends.

    After an exception, or where the block wrote no file, what was at `path` is untouched and nothing else is left.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        if partial.exists():
            os.replace(partial, path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _remembered(memory: Path) -> str | None:
    """Return a remembered fingerprint, or None where there is none or the file was cut or written over."""
    try:
        text = memory.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def _state_of(paths: Sequence[str]) -> str:
    """Return a hash of which files these are, when they were written and what stands in samples of them."""
    state = hashlib.sha256()
    for path in paths:
        status = os.stat(path)
        # The time of the last change of the entry, unlike that of the content, can't be set back by copying.
        stamp = (path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
        state.update(json.dumps(stamp).encode())
        with open(path, "rb") as file:
            for number in range(SAMPLES):
                file.seek(number * max(0, status.st_size - SAMPLE) // max(1, SAMPLES - 1))
                state.update(file.read(SAMPLE))
    return state.hexdigest()


def _tensor_digests(path: str) -> Iterator[tuple[str, bytes]]:
    yield from ((key, digest_of_tensor(key, tensor)) for key, tensor in _stored_tensors(path))


def _stored_tensors(path: str, ending: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a file whose names end so."""
    try:
        if path.endswith(".bin"):
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            yield from ((key, tensor) for key, tensor in stored.items() if key.endswith(ending))
            return
        with safe_open(path, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 (not a dict)
                if key.endswith(ending):
                    yield key, opened.get_tensor(key)
    except (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fetch the backbone again") from error


def pooler_of(backbone: Any, config: KAdapterConfig) -> dict[str, Tensor]:
    """Return "weight" and "bias" of a backbone's pooler, which is loaded without it; nothing where it has none.

    It is that of a module that came with one, else that of the checkpoint, if this is at hand.
    """
    dense = getattr(getattr(backbone, "pooler", None), "dense", None)
    if isinstance(dense, torch.nn.Linear) and not dense.weight.is_meta:
        return dict(dense.state_dict())
    tensors: dict[str, Tensor] = {}
    with contextlib.suppress(OSError):
        source = config.backbone_name_or_path
        files = _checkpoint_files(source, {"revision": config.backbone_revision}) if source else []
        for path in files:
            for name in ("weight", "bias"):
                tensors.update((name, tensor) for _, tensor in _stored_tensors(path, f"pooler.dense.{name}"))
    return tensors if len(tensors) == 2 else {}


def digest_of_tensor(key: str, tensor: Tensor) -> bytes:
    """Return a hash of a tensor's name, dtype, shape and bytes."""
    digest = hashlib.sha256(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()


# ---- loading --------------------------------------------------------------------------------------------------------


def _load(
    source: str,
    kwargs: dict[str, Any],
    backbone_config: Any = None,
    tensors: dict[str, Tensor] | None = None,
    lm_task: str | None = None,
) -> PreTrainedModel:
    """Load a backbone without a pooler, from a checkpoint or of tensors, refusing to leave anything at random.

    With `lm_task` it is loaded within its language model, which is returned.
    """
    if tensors is None:
        backbone_config = _configuration(source, kwargs)
    else:
        kwargs = {key: value for key, value in kwargs.items() if key not in READING}
        kwargs.update(config=backbone_config, state_dict=tensors)
    _check_kind(backbone_config, f"backbone {source!r}")
    if lm_task is not None:
        _check_has_language_model(backbone_config, lm_task, f"backbone {source!r}")
    pooler = {} if lm_task is not None else without_pooler(backbone_config)  # language models have none
    kwargs = {**pooler, **kwargs, "output_loading_info": True}
    auto_class: Any = AutoModel if lm_task is None else LANGUAGE_MODELS[lm_task]
    model_class: Any = auto_class if tensors is None else AutoModel._model_mapping[type(backbone_config)]
    try:
        # Its report of unused heads is not shown; what is missing is an error below.
        with _quiet("transformers.modeling_utils") as report:
            module, info = model_class.from_pretrained(source if tensors is None else None, **kwargs)
    except TypeError as error:
        raise TypeError(f"backbone {source!r} could not be built with {sorted(kwargs)}: {error}") from error
    except RuntimeError:
        _refuse_other_shapes(source, report)
        raise
    lacking = sorted(key for key in info["missing_keys"] if "pooler" not in key) or sorted(info["mismatched_keys"])
    if lm_task is not None:
        _check_lm_head(module, lacking, source, lm_task)
        check_tied_together(module, source)
    if lacking or (tensors is not None and info["unexpected_keys"]):
        first = (lacking or sorted(info["unexpected_keys"]))[0]
        raise ValueError(
            f"backbone {source!r} lacks tensor {first!r}, has it in another shape or has a tensor too many; "
            "use a complete checkpoint"
        )
    return module


# How transformers reports a tensor of another shape: its name, that of the checkpoint, that of the configuration.
MISMATCH = re.compile(r"^(\S+) *\| MISMATCH .*ckpt: torch\.Size\((.*?)\).*torch\.Size\((.*?)\)", re.MULTILINE)


def _refuse_other_shapes(source: str, report: Sequence[str]) -> None:
    """Raise ValueError for the first tensor that is in a report of loading because of its shape."""
    mismatch = MISMATCH.search("\n".join(report))
    if mismatch is not None:
        name, stored, needed = mismatch.groups()
        raise ValueError(
            f"backbone {source!r} has tensor {name!r} in the shape {stored}, and its configuration says {needed}; use "
            "a checkpoint whose parts were resized together, as by resize_token_embeddings"
        )


def _configuration(source: str, kwargs: dict[str, Any]) -> PreTrainedConfig:
    names = ("revision", "token", "cache_dir", "local_files_only", "trust_remote_code", "subfolder")
    return AutoConfig.from_pretrained(source, **{key: kwargs[key] for key in names if key in kwargs})


def _check_kind(backbone_config: Any, where: str) -> None:
    """Refuse, before its weights are fetched, what a configuration shows to be no encoder or decoder of text.

    Raises:
        ValueError: it is a K-Adapter model, an encoder with a decoder, reads no text, or ends in another width.
    """
    if backbone_config.model_type == KAdapterConfig.model_type:
        raise ValueError(f"{where} is itself a K-Adapter model; load it by from_pretrained, or add_adapter to it")
    if getattr(backbone_config, "is_encoder_decoder", False):
        raise ValueError(f"{where} is an encoder with a decoder; adapters stand beside an encoder alone")
    lacking = [name for name in ("hidden_size", "num_hidden_layers") if not hasattr(backbone_config, name)]
    model_class = AutoModel._model_mapping.get(type(backbone_config), None)
    reads = getattr(model_class, "main_input_name", "input_ids")
    if lacking or reads != "input_ids":
        reason = f"reads {reads!r}" if reads != "input_ids" else f"has no {lacking[0]!r} in its configuration"
        raise ValueError(
            f"{where} ({backbone_config.model_type}) {reason}; a backbone is one text encoder, so name that, or the "
            "text encoder within it"
        )
    width = getattr(backbone_config, "word_embed_proj_dim", None) or backbone_config.hidden_size
    if width != backbone_config.hidden_size:
        raise ValueError(
            f"{where} ({backbone_config.model_type}) has blocks of width {backbone_config.hidden_size} and gives "
            f"states of width {width}, to which adapters can't add; use a backbone of a single width"
        )


def _is_known_encoder(backbone_config: Any) -> bool:
    """Return whether a model's kind is trained as a masked language model, and so sees a text as a whole."""
    return type(backbone_config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(backbone_config, "causal", False)


def _is_causal_by_kind(backbone_config: Any) -> bool:
    """Return whether a model's kind is a decoder, and nothing in its configuration says that it looks both ways."""
    if type(backbone_config) not in MODEL_FOR_CAUSAL_LM_MAPPING or _is_known_encoder(backbone_config):
        return False
    both_ways = {"is_causal": False, "use_bidirectional_attention": (True, "all"), "attn_type": "bi"}
    values = {name: getattr(backbone_config, name, None) for name in both_ways}
    return not any(
        values[name] is not None and values[name] in (value if isinstance(value, tuple) else (value,))
        for name, value in both_ways.items()
    )


def is_decoder(backbone_config: Any) -> bool:
    """Return whether a configuration alone tells that its model's tokens see only those before them."""
    return bool(getattr(backbone_config, "is_decoder", False)) or _is_causal_by_kind(backbone_config)


def is_causal(module: PreTrainedModel) -> bool:
    """Return whether a model's tokens see only those before them: by its kind, or where that does not tell by a run.

    Raises:
        ValueError: it does not read token ids.
    """
    if is_decoder(module.config):
        return True
    device = device_of(module)
    if _is_known_encoder(module.config) or device.type == "meta":
        return False
    ids = torch.tensor([[3, 4, 5], [3, 4, 6]], device=device)  # alike but for the last token
    training = module.training
    try:
        with torch.no_grad():
            states = module.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0].float()
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"the backbone ({module.config.model_type}) does not turn token ids alone into hidden states ({error}); a "
            "backbone is one text encoder, so name that, or the text encoder within it"
        ) from error
    finally:
        module.train(training)
    return bool((states[0] - states[1]).abs().max() <= 1e-6 * states.abs().max())


def without_pooler(backbone_config: Any) -> dict[str, bool]:
    """Return add_pooling_layer=False where the backbone's class takes it; its pooler is never used."""
    if type(backbone_config) not in AutoModel._model_mapping:
        return {}
    model_class: Any = AutoModel._model_mapping[type(backbone_config)]
    takes = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if takes else {}


def random_backbone(config: KAdapterConfig) -> PreTrainedModel:
    """Build an untrained backbone, as AutoModel.from_config does for any model."""
    backbone_config = config.typed_backbone_config()
    _check_kind(backbone_config, "the backbone")
    return AutoModel.from_config(backbone_config, **without_pooler(backbone_config))


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[list[str]]:
    """Show nothing of a logger but errors, and yield what it says."""
    said: list[str] = []

    def errors_only(record: python_logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return record.levelno >= python_logging.ERROR

    library_logger = python_logging.getLogger(name)
    library_logger.addFilter(errors_only)
    try:
        yield said
    finally:
        library_logger.removeFilter(errors_only)


# ---- the backbone's own LM head -------------------------------------------------------------------------------------


OTHER_HEADS = f"choose a new one by lm_head={' or '.join(map(repr, LM_HEADS[1:]))}, or a trained one by its id or path"
LANGUAGE_MODELS: dict[str, Any] = {"MaskedLM": AutoModelForMaskedLM, "CausalLM": AutoModelForCausalLM}
IN_WORDS = {"MaskedLM": "masked language model", "CausalLM": "causal language model"}
REMEDIES = {"MaskedLM": OTHER_HEADS, "CausalLM": "use a checkpoint with an LM head, as AutoModelForCausalLM loads it"}
MAPPINGS: dict[str, Any] = {"MaskedLM": MODEL_FOR_MASKED_LM_MAPPING, "CausalLM": MODEL_FOR_CAUSAL_LM_MAPPING}


def is_language_model(module: Any, lm_task: str) -> bool:
    """Return whether a model is the language model of its kind for a task, with an LM head beside its base model."""
    config_class: Any = type(getattr(module, "config", None))
    known: Any = MAPPINGS[lm_task].get(config_class, None)
    named = type(module).__name__.endswith(f"For{lm_task}") and getattr(module, "base_model", module) is not module
    return named or (known is not None and isinstance(module, known))


def _check_has_language_model(backbone_config: Any, lm_task: str, where: str) -> None:
    remote = f"AutoModelFor{lm_task}" in (getattr(backbone_config, "auto_map", None) or {})
    if type(backbone_config) not in MAPPINGS[lm_task] and not remote:
        raise ValueError(
            f"{where} ({backbone_config.model_type}) is of a kind without a {IN_WORDS[lm_task]}; {REMEDIES[lm_task]}"
        )


def _check_lm_head(module: PreTrainedModel, lacking: Sequence[str], source: str, lm_task: str) -> None:
    """Raise ValueError where tensors of an LM head are not in a backbone's checkpoint, and so were left at random."""
    inside = f"{module.base_model_prefix}."
    own = [key for key in lacking if not str(key).startswith(inside)]
    if own:
        more = f" and {len(own) - 1} more" if len(own) > 1 else ""
        raise ValueError(
            f"backbone {source!r} has no complete LM head: its checkpoint lacks {own[0]!r}{more}; {REMEDIES[lm_task]}"
        )


OF_DEVICE_MAP = ("forward", "_old_forward", "_hf_hook")  # what Accelerate sets in a module that it dispatches


@dataclass
class StatesAlone(BaseModelOutputWithPastAndCrossAttentions):
    """The last hidden state, and None for whatever else a family's language model reads of its base model's output."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


class Stub(nn.Module):
    """Stands where a backbone stood within its language model, and returns the states that it is given.

    It shares the backbone's embeddings, which some LM heads multiply by, and its numbers, by which some scale.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        vars(self).update({name: value for name, value in vars(base).items() if isinstance(value, int | float)})
        if hasattr(base, "embeddings"):
            self.embeddings = base.embeddings

    @property
    def decoder(self) -> "Stub":
        """This module: a language model that is named for its decoder runs that alone."""
        return self

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> StatesAlone:
        """Return states (batch, n, hidden) as the last hidden state."""
        return StatesAlone(last_hidden_state=inputs_embeds)


class BackboneHead(nn.Module):
    """A backbone's own LM head: its language model without the backbone, frozen.

    The class's own forward runs, so that nothing of a family's head is written anew, such as logits that are scaled
    or capped. What it shares with the backbone, the embeddings, is the backbone's, and stands in no state of it.
    """

    def __init__(self, model: PreTrainedModel, base: PreTrainedModel) -> None:
        super().__init__()
        decoder = model.get_output_embeddings()
        self.decoder = next((name for name, module in model.named_modules() if module is decoder), None)
        model = copy.copy(model)  # that which was given stays whole
        for name in OF_DEVICE_MAP:  # bound to the model that was copied, backbone and all
            vars(model).pop(name, None)
        prefix, ties = f"{model.base_model_prefix}.", dict(model.all_tied_weights_keys)
        vars(model)["_modules"] = {**model._modules, model.base_model_prefix: Stub(base)}
        for target, source in ties.items():
            (owner, _, name), inside = target.rpartition("."), source.removeprefix(prefix)
            if inside != source and model.get_parameter(target) is not base.get_parameter(inside):
                setattr(model.get_submodule(owner), name, base.get_parameter(inside))
        self.backbone = model.requires_grad_(False).eval()
        self.shared = tuple(f"backbone.{name}" for name in (*ties, prefix))
        self.register_state_dict_post_hook(_without_shared)
        self.register_load_state_dict_post_hook(_forgive_shared)

    def forward(self, states: Tensor, embeddings: nn.Module | None = None) -> Tensor:
        """Map fused states (batch, n, hidden) to logits (batch, n, vocabulary); the embeddings are known."""
        like = next(parameter for parameter in self.parameters() if parameter.is_floating_point())
        states = states.to(device=device_of(self.backbone), dtype=like.dtype)
        return self.backbone(inputs_embeds=states, return_dict=True).logits

    def output_embeddings(self, embeddings: nn.Module) -> nn.Module:
        """Return what the class of the backbone's language model calls its output embeddings."""
        return self.backbone.get_submodule(self.decoder) if self.decoder else self.backbone.get_output_embeddings()

    def requires_grad_(self, requires_grad: bool = True) -> "BackboneHead":
        """Stay frozen, or as the backbone has it what is shared with it."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name.startswith(self.shared))
        return self

    def train(self, mode: bool = True) -> "BackboneHead":
        """Stay in eval mode."""
        return super().train(False)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Copy tensors in place, since what is assigned would be tied to nothing."""
        return super().load_state_dict(state_dict, strict)


def _without_shared(module: Any, state_dict: dict[str, Any], prefix: str, metadata: Any) -> None:
    shared = tuple(f"{prefix}{name}" for name in module.shared)
    for key in [key for key in state_dict if key.startswith(shared)]:
        del state_dict[key]


def _forgive_shared(module: Any, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [
        key for key in incompatible.missing_keys if not any(f".{name}" in f".{key}" for name in module.shared)
    ]


def random_language_model(config: KAdapterConfig, lm_task: str) -> PreTrainedModel:
    """Build an untrained language model of a backbone's kind, as the Auto class's from_config does."""
    backbone_config = config.typed_backbone_config()
    _check_kind(backbone_config, "the backbone")
    _check_has_language_model(backbone_config, lm_task, "the backbone")
    return LANGUAGE_MODELS[lm_task].from_config(backbone_config)


def head_of(
    config: KAdapterConfig, backbone: PreTrainedModel | None, lm_task: str
) -> tuple[BackboneHead, PreTrainedModel]:
    """Return a backbone's own LM head and the backbone, of a language model or, where there is none, untrained.

    A backbone that was trained along comes alone, and its LM head's tensors follow.

    Raises:
        ValueError: the backbone comes without an LM head, which would be left at random, or with one that is no
            longer tied as it should be.
    """
    new = backbone is None or config.backbone_modified
    model: Any = random_language_model(config, lm_task) if new else backbone
    if not is_language_model(model, lm_task):
        raise ValueError(f"the backbone, a {type(model).__name__}, comes without an LM head; {REMEDIES[lm_task]}")
    if not new:
        check_tied(model)
    base: Any = backbone.base_model if backbone is not None else model.base_model
    if base is model:
        raise ValueError(
            f"the backbone, a {type(model).__name__}, does not say which part of it lies beneath its LM head; use "
            "another, or adapters beside its hidden states alone, by KAdapterModel"
        )
    return BackboneHead(model, base), base


def check_tied(model: Any) -> None:
    """Raise ValueError where weights that are one by the configuration of a language model are no longer the same."""
    for one, other in dict(model.all_tied_weights_keys).items():
        ours, theirs = model.get_parameter(one), model.get_parameter(other)
        if ours is not theirs and not (ours.is_meta or theirs.is_meta) and not _equals(ours.cpu(), theirs):
            raise ValueError(
                f"the LM head of the backbone is tied to its embeddings, and {one!r} {tuple(ours.shape)} is another "
                f"weight than {other!r} {tuple(theirs.shape)}; resize both by resize_token_embeddings, or save the "
                "language model with tie_word_embeddings=False and build on that"
            )


# ---- running --------------------------------------------------------------------------------------------------------


# What a backbone that documents its parameters takes beside them, if it takes others at all, and what its forward
# names for generation alone, which is the business of a model with an LM head.
DOCUMENTED = ("output_attentions", "output_hidden_states", "return_dict")
OF_DECODERS = ("cache_position", "encoder_attention_mask", "encoder_hidden_states", "past_key_values", "self")
ALWAYS = (
    *("input_ids", "attention_mask", "position_ids", "inputs_embeds", "hidden_states"),
    *("knowledge_slots", "knowledge_embeds"),  # of plug-ins before the backbone
    "adapter_names",  # of mixed batches
)
TABLES = ("wpe", "positions_embed", "embed_positions", "pos_encoding", "position_embeddings")  # as GPT-2 has one
INSTALLED = "_output_capturing_hooks_installed"  # by which transformers notes on a model that its hooks are placed


class Positions(NamedTuple):
    """How a backbone numbers positions: whether by token ids, the first number, and the largest number of tokens."""

    by_tokens: bool = False
    first: int | None = None
    longest: int | None = None

    def check_length(self, inputs: Tensor | None, past: int = 0) -> None:
        """Raise ValueError for more tokens (batch, sequence, ...), with `past` before them, than positions."""
        if inputs is not None and self.longest is not None and past + inputs.shape[1] > self.longest:
            raise ValueError(
                f"{past + inputs.shape[1]} tokens are more than the {self.longest} that the backbone takes; cut them"
            )

    def number(self, attention_mask: Tensor, by_mask_alone: bool) -> Tensor | None:
        """Number each row from its first real token on, where the backbone would count left padding along."""
        if self.first is None or attention_mask.dim() != 2 or (self.by_tokens and not by_mask_alone):
            return None
        real = attention_mask.bool()
        index = torch.arange(real.shape[1], device=real.device) + self.first
        return (index - (real.long().cumsum(dim=1) == 0).sum(dim=1, keepdim=True)).clamp(min=self.first)  # (B, S)

    def of_tokens(self, input_ids: Tensor) -> Tensor | None:
        """Number token ids (batch, sequence) as the backbone does where it sees them, and not only embeddings."""
        if not self.by_tokens or self.first is None:
            return None
        real = (input_ids != self.first - 1).long()
        return real.cumsum(dim=1) * real + self.first - 1


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
    embeddings: Any = getattr(backbone, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    padding = None if table is None else getattr(embeddings, "padding_idx", None)
    if table is None:
        own = (getattr(backbone, name, None) for name in TABLES)
        table = next((table for table in own if table is not None), None)
    if table is None or "position_ids" not in inspect.signature(backbone.forward).parameters:
        return Positions()  # relative or rotary positions: padding on the left shifts all of them alike
    first = 0 if padding is None else padding + 1  # RoBERTa's rule: padding stays at its id, others follow
    longest = len(table.weight) - getattr(table, "offset", 0) - first if hasattr(table, "weight") else None
    return Positions(padding is not None, first, longest)


def embeddings_of(model: Any) -> Any:
    """Return the input embeddings of a model; of an encoder with a decoder, those of the encoder.

    Raises:
        ValueError: it has none.
    """
    encoder = model.get_encoder()
    if getattr(model.config, "is_encoder_decoder", False) or isinstance(encoder, PreTrainedModel):
        model = encoder  # which may have embeddings of its own with the same weight, as in T5EncoderModel
    try:
        embeddings = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        embeddings = None
    weight = getattr(embeddings, "weight", None)
    if not isinstance(embeddings, nn.Module) or weight is None or weight.dim() != 2:
        raise ValueError(
            f"{type(model).__name__} ({model.config.model_type}) has no input embeddings of tokens, into which "
            "entities could be mapped; use a model that reads text"
        )
    return embeddings


def embedding_size_of(model: Any, config: KAdapterConfig) -> int | None:
    """Return the width of a backbone's input embeddings, or what is known of it while there is no backbone yet."""
    if model is None:
        return getattr(config.typed_backbone_config(), "embedding_size", None)
    try:
        return int(embeddings_of(model).weight.shape[1])
    except ValueError:  # none, as only a plug-in before the backbone minds
        return None


def check_takes_embeddings(model: Any) -> None:
    """Refuse a model without input embeddings, or that takes none instead of token ids.

    Raises:
        ValueError: it is such a model.
    """
    embeddings_of(model)
    models = (model, getattr(model, "base_model", model))
    if not any("inputs_embeds" in inspect.signature(type(own).forward).parameters for own in models):
        raise ValueError(
            f"{type(model).__name__} ({model.config.model_type}) takes no inputs_embeds, so its input embeddings are "
            "no open entrance; use a model whose forward has inputs_embeds"
        )


def uncached(knowledge_slots: Any, past: int) -> Any:
    """Return slots (batch, slots), or a dict of these, for the tokens after the first `past`, which a cache holds.

    Slots count from the first token of the text; those of tokens in the cache become -1.
    """
    if isinstance(knowledge_slots, dict):
        return {name: uncached(slots, past) for name, slots in knowledge_slots.items()}
    if knowledge_slots is None or not past:
        return knowledge_slots
    return torch.where(knowledge_slots < past, -1, knowledge_slots - past)


def of_beams(entities: Any, batch: int) -> Any:
    """Return slots or rows of texts, or a dict of these by map, for the beams of each text, in a batch of so many.

    `generate` repeats a tensor by itself, and leaves a dict as it is.
    """
    if isinstance(entities, dict):
        return {name: own.repeat_interleave(batch // len(own), dim=0) for name, own in entities.items()}
    return entities


def prepare_taps(backbone: Any) -> None:
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


def carries_gradient(inputs: dict[str, Any]) -> bool:
    """Tell whether a model's input needs a gradient: embeddings, or what a cache holds, as a prefix that learns."""
    layers = [layer for value in inputs.values() if isinstance(value, Cache) for layer in value.layers]
    held = (getattr(layer, name, None) for layer in layers for name in ("keys", "values"))
    return any(isinstance(each, Tensor) and each.requires_grad for each in (*inputs.values(), *held))


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
    last = output.last_hidden_state
    for layer, state in tapped.items():
        if (state.dim(), state.shape[-1]) != (last.dim(), last.shape[-1]):
            raise ValueError(
                f"{type(backbone).__name__} returned hidden state {layer} as {tuple(state.shape)} and the last as "
                f"{tuple(last.shape)}; adapters read states of one shape, so use another backbone"
            )
    if not tapped or len(tapped) < len(wanted):
        raise ValueError(
            f"{type(backbone).__name__} returned the hidden states {sorted(tapped)} where {sorted(layers or ())} were "
            "asked for; use a backbone that returns them when output_hidden_states is given"
        )
    return output, tapped


def dropout_settings(backbone: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the modules and attributes that hold its probabilities of dropout: of modules, and of attention."""
    found: list[tuple[nn.Module, str]] = [
        (module, "p") for module in backbone.modules() if isinstance(module, nn.Dropout)
    ]
    for module in backbone.modules():
        found += [(module, name) for name in vars(module) if "dropout" in name and type(vars(module)[name]) is float]
    return found


def set_mode(module: nn.Module, training: bool) -> None:
    """Set training or eval mode where a part of the module has the other, since setting it takes longer than looking.

    A Trainer sets it in every step, and a frozen backbone has hundreds of parts.
    """
    if any(each.training != training for each in module.modules()):
        module.train(training)


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


def check_tapped(
    hidden_states: dict[int, Tensor],
    layers: Collection[int],
    attention_mask: Tensor | None = None,
    tokens: Tensor | None = None,
) -> dict[int, Tensor]:
    """Return of given hidden states those at these layers, and the last as -1.

    Raises:
        ValueError: one of them, or -1 for the last, is missing, or is of other texts than the mask (batch, sequence),
            the tokens (batch, sequence, ...) or, where there are neither, the last.
    """
    if not {*layers, -1} <= set(hidden_states):
        raise ValueError(
            f"hidden_states hold the layers {sorted(hidden_states)}, and {sorted(layers)} are tapped, with -1 for the "
            "last; give what this model's tap returns"
        )
    beside = {"attention_mask": attention_mask, "inputs": tokens, "hidden_states[-1]": hidden_states[-1]}
    name, like = next((name, each) for name, each in beside.items() if each is not None)
    for layer in (*layers, -1):
        if hidden_states[layer].shape[:2] != like.shape[:2]:
            raise ValueError(
                f"hidden_states[{layer}] has shape {tuple(hidden_states[layer].shape)} and {name} "
                f"{tuple(like.shape)}, of other texts or another length; give what tap returned for the same inputs"
            )
    return {layer: hidden_states[layer] for layer in (*layers, -1)}


def release(backbone: nn.Module) -> None:
    """Empty a backbone's parameters, and let it refuse to run from then on."""
    for module in backbone.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # exchanged, since 8-bit weights can't be emptied
            empty = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
            setattr(module, name, nn.Parameter(empty, requires_grad=False))
    backbone.register_forward_pre_hook(_refuse_to_run, prepend=True)


def _refuse_to_run(module: nn.Module, args: tuple) -> None:
    raise ValueError("the backbone's weights have left memory; give hidden_states, or load the model again")
