"""Flags of the feature cache, and opening it. If it can't be used, training continues without it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import gather_object
from huggingface_hub import constants

from ...backbone_kadapter import plain
from ..common.atomic_files import replace_file
from ..common.encoding import column
from ..common.memory import limit_native_caches
from .shards import KEY, PATTERN, Layout, key_of
from .store import Examples, FeatureStore

__all__ = [
    "CacheArguments",
    "check_budget",
    "check_cache",
    "directory_of",
    "open_features",
    "open_store",
    "readable",
]

WITHOUT = "training continues without the cache"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass
class CacheArguments:
    """Whether the hidden states of the frozen backbone are kept, and where."""

    cache_features: str | None = field(
        default=None,
        metadata={
            "nargs": "?",
            "const": "true",
            "help": "Keep the hidden states that the adapter taps, in this directory or in the Hugging Face cache.",
        },
    )
    cache_budget: str | None = field(
        default=None,
        metadata={"help": "Maximum size of the cache's directory, such as 50GB; the rest is computed."},
    )
    cache_dtype: str | None = field(
        default=None,
        metadata={
            "choices": ["float32", "bfloat16", "int8"],
            "help": "Dtype of the kept states: by default the backbone's own; int8 has a scale for each token.",
        },
    )

    def __post_init__(self) -> None:
        """Limit the kernel caches before the first product of the process, which `RunArguments` may time."""
        limit_native_caches(many_kernels=self.asked)

    @property
    def asked(self) -> bool:
        """Whether a cache is requested."""
        return str(self.cache_features).lower() not in ("none", "false")


def check_cache(flags: CacheArguments, mask_padding: bool, masked: bool = False) -> None:
    """Refuse flags with which the cache would change what is trained.

    Raises:
        ValueError: the budget is no size, there is a budget or a dtype but no cache, the adapter reads padding, which
            the cache does not keep, or the examples are masked anew in each epoch.
    """
    for name in ("cache_budget", "cache_dtype"):
        if getattr(flags, name) is not None and flags.cache_features is None:
            raise ValueError(f"--{name} is for a cache, and there is none; give --cache_features or leave it out")
    check_budget(flags.cache_budget)
    if flags.asked and masked:
        raise ValueError(
            "--cache_features keeps the hidden states of examples, and this objective masks other words of them in "
            "each epoch; leave it out"
        )
    if flags.cache_features is not None and not mask_padding:
        raise ValueError(
            "--cache_features keeps no padding, and with --mask_padding False the adapter reads it; leave one out"
        )


def check_budget(budget: str | None) -> None:
    """Raise ValueError if there is a budget that is no size."""
    if budget is not None:
        size_of(budget)


class CacheUnavailable(Exception):
    """The feature cache can't be used; the message says why."""


def open_features(
    flags: CacheArguments, model: Any, examples: dict[str, Any], run: Any, verbose: bool
) -> tuple[FeatureStore | None, dict[str, Any]]:
    """Open the cache, and return it with the examples and their column `cache_index`; without a cache, return None.

    If the cache is unavailable in one process, the reason is printed and no process uses it; this only costs time. All
    processes of a run must call this function.
    """
    if not flags.asked:
        return None, examples
    state, opened, unavailable = PartialState(), None, None
    with state.local_main_process_first():
        try:
            opened = _open(flags, model, examples, run, verbose)
        except CacheUnavailable as error:
            unavailable = str(error)
        except OSError as error:
            unavailable = f"--cache_features {str(directory_of(flags.cache_features))!r} can't be used ({error})"
    # Processes wait for each other to share what they kept, so either all have a cache or none has.
    reasons = [reason for reason in gather_object([unavailable]) if reason is not None]
    if opened is not None and not reasons:
        return opened
    if verbose:
        number = state.num_processes
        among = f" in {len(reasons)} of {number} processes, so none of them uses it" if number > 1 else ""
        print(f"features: {reasons[0]}{among}: {WITHOUT}")
    return None, examples


def _open(
    flags: CacheArguments, model: Any, examples: dict[str, Any], run: Any, verbose: bool
) -> tuple[FeatureStore, dict[str, Any]]:
    """Open the cache of this process, and return it with the examples and their indices in it.

    Raises:
        OSError: its directory can't be used.
        CacheUnavailable: there is no room, or the states depend on more than token ids.
    """
    if in_front := model.base_model.adapters.in_front:
        raise CacheUnavailable(
            f"the cache finds states by token ids, and {', '.join(map(repr, in_front))} changes the input embeddings "
            "by the entities of a text"
        )
    directory = directory_of(flags.cache_features)
    layout = _layout(flags, model)
    different, indices = Examples.of(
        np.concatenate([_keys(split) for split in examples.values()]),
        np.concatenate([column(split, "length") for split in examples.values()]),
    )
    about = {"layers": list(layout.layers), "stored": str(layout.stored)}
    log = print if verbose else None
    features = _with_more_layers(directory, {**_about_encoder(model, run), **about}, layout, different, log)
    if features is None:
        features = open_store(directory, flags.cache_budget, model, run, about, layout, different, log=log)
    _check_worth(features, run)
    _describe(features, directory)
    ends = np.cumsum([len(split) for split in examples.values()])[:-1]
    indexed = zip(examples.items(), np.split(indices, ends), strict=True)
    return features, {name: split.add_column("cache_index", own) for (name, split), own in indexed}


def _with_more_layers(
    directory: Path, about: dict[str, Any], layout: Layout, examples: Examples, log: Callable[[str], None] | None
) -> FeatureStore | None:
    """Return the store of another adapter that holds all of these examples, and of them these layers among others.

    It is read and never written to: what is kept there has all of its layers.
    """
    wanted = json.loads(_text_of(about))
    for path in sorted(directory.glob("*/about.json")):
        with suppress(OSError, ValueError, TypeError):
            found = json.loads(path.read_text(encoding="utf-8"))
            within = layout.within(tuple(found.get("layers", ())))
            if within is not None and {**found, "layers": wanted["layers"]} == wanted and found != wanted:
                store = FeatureStore(path.parent, within, examples, log=log)
                if store.complete():
                    store.writing = False
                    return store
    return None


def directory_of(named: str | None) -> Path:
    """Return the directory of the stores that a flag names; without a name, that in the Hugging Face cache."""
    if named is None or named.lower() == "true":
        return Path(constants.HF_HOME, "kadapter", "features")
    return Path(named)


def _layout(flags: CacheArguments, model: Any) -> Layout:
    read = next(model.base_model.backbone.parameters()).dtype
    stored = read if flags.cache_dtype is None else getattr(torch, flags.cache_dtype)
    last = model.config.num_hidden_layers
    layers = [layer for layer in model.tapped() if layer != last]  # the last hidden state is appended below
    return Layout((*layers, last if last in model.tapped() else -1), model.config.hidden_size, stored, read)


def open_store(
    directory: Path,
    budget: str | None,
    model: Any,
    run: Any,
    about: dict[str, Any],
    layout: Layout,
    examples: Examples,
    **settings: Any,
) -> FeatureStore:
    """Open the store in the folder whose name is a hash of all that the states depend on apart from the examples.

    That is what `about` says, the frozen encoder, the precision and the versions; it is written to about.json.
    `settings` are keywords of `FeatureStore`.

    Raises:
        OSError: the folder can't be made or read.
    """
    text = _text_of({**_about_encoder(model, run), **about})
    source = Path(model.config.backbone_name_or_path or "backbone").name
    folder = directory / f"{source}-{blake2b(text.encode(), digest_size=8).hexdigest()}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "about.json").is_file():
        replace_file(folder / "about.json", text)
    return FeatureStore(folder, layout, examples, partial(room_in, directory, budget), **settings)


def _text_of(about: dict[str, Any]) -> str:
    return json.dumps(about, indent=2, sort_keys=True, default=repr)


def _about_encoder(model: Any, run: Any) -> dict[str, Any]:
    backbone = model.base_model.backbone
    quantized = getattr(backbone.config, "quantization_config", None)
    return {
        **({} if quantized is None else {"quantized": repr(quantized)}),
        **({"compiled": True} if any("forward" in vars(module) for module in backbone.modules()) else {}),
        "backbone": model.config.backbone_fingerprint,
        "configuration": plain(backbone.config),  # another activation changes the states of the same weights
        "attention": backbone.config._attn_implementation,
        "computed": [str(next(backbone.parameters()).dtype), run.bf16, run.fp16, run.device.type],
        "versions": [torch.__version__, transformers.__version__],
        "format": 3,
    }


def _keys(examples: Any) -> np.ndarray:
    batches = examples.select_columns("input_ids").iter(1000)
    return np.frombuffer(b"".join(key_of(ids) for batch in batches for ids in batch["input_ids"]), dtype=KEY)


def _check_worth(features: FeatureStore, run: Any) -> None:
    """Raise `CacheUnavailable` unless at least one batch is in the cache or fits."""
    batch = min(run.per_device_train_batch_size, len(features.wanted))
    if features.wanted.sum() < batch:
        takes = readable(features.bytes_of()[features.examples.priority[:batch]].sum())
        raise CacheUnavailable(
            f"there is room for {readable(max(0, features.room()))}, and a shard takes at least the {takes} of a "
            "batch; raise --cache_budget or free some space"
        )


def _describe(features: FeatureStore, directory: Path) -> None:
    layout, examples, log = features.layout, features.examples, features.log
    there, number = int((features.shard >= 0).sum()), len(examples.keys)
    log(
        f"features: {number} different examples, {int(examples.lengths.sum())} tokens, hidden states "
        f"{list(layout.layers)} in {str(layout.stored).removeprefix('torch.')} take "
        f"{readable(features.bytes_of().sum())}; {there} examples are in {str(features.folder)!r}, "
        f"{len(features.missing())} will be"
    )
    others = sum(path.is_dir() and path != features.folder for path in directory.iterdir())
    if others and not there:
        log(f"features: {str(directory)!r} holds those of {others} other backbones, layers or precisions, left alone")
    if not features.wanted.all():
        log(
            f"features: there is room for {readable(max(0, features.room()))}, so the backbone computes "
            f"{int((~features.wanted).sum())} examples each time"
        )


def size_of(text: str) -> int:
    """Parse a number of bytes, such as 50GB or 1.5GiB.

    Raises:
        ValueError: it is no size.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([KMGT]?I?)B?", text.strip().upper())
    if match is None or match[2] not in UNITS:
        raise ValueError(f"--cache_budget {text!r} is no size; give a number with its unit, such as 50GB")
    return int(float(match[1]) * UNITS[match[2]])


def readable(size: float) -> str:
    """Format a number of bytes for a reader."""
    unit = next((unit for unit in "TGMK" if size >= UNITS[unit]), "")
    return f"{size / UNITS[unit]:.3g} {unit}B"


def room_in(directory: Path, budget: str | None) -> int:
    """Return the number of bytes that may still be written, below 0 if the budget is exceeded.

    It is limited by the free space on the disk and by the budget of the whole directory, including unfinished files.
    """
    free = shutil.disk_usage(directory).free
    if budget is None:
        return free
    used = 0
    patterns = (PATTERN, ".*.partial", "about.json")
    for path in (path for pattern in patterns for path in directory.glob(f"*/{pattern}")):
        with suppress(FileNotFoundError):  # another process renamed or removed it
            used += path.stat().st_size
    return min(free, size_of(budget) - used)
