"""What a run is told of its feature cache, and how it opens one; what hinders it is told and costs only time."""

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

__all__ = ["CacheArguments", "check_cache", "open_features", "readable", "size_of"]

WITHOUT = "training goes on without the cache"
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass
class CacheArguments:
    """Whether what the frozen backbone reads is kept, and where."""

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
        metadata={"help": "Most bytes that the cache's directory may take, such as 50GB; the rest is computed."},
    )
    cache_dtype: str | None = field(
        default=None,
        metadata={
            "choices": ["float32", "bfloat16", "int8"],
            "help": "How the states are kept: by default as the backbone computes them; int8 with a scale each token.",
        },
    )

    def __post_init__(self) -> None:
        """Choose how many kernels are kept before the first product of the process, which `RunArguments` may time."""
        limit_native_caches(many_kernels=self.asked)

    @property
    def asked(self) -> bool:
        """Whether there is to be a cache."""
        return str(self.cache_features).lower() not in ("none", "false")


def check_cache(flags: CacheArguments, mask_padding: bool) -> None:
    """Refuse flags under which the cache would change what is trained.

    Raises:
        ValueError: the budget is no size, there is one or a dtype and no cache, or the adapter reads padding, of
            which nothing is kept.
    """
    for name in ("cache_budget", "cache_dtype"):
        if getattr(flags, name) is not None and flags.cache_features is None:
            raise ValueError(f"--{name} is for a cache, and there is none; give --cache_features or leave it out")
    if flags.cache_budget is not None:
        size_of(flags.cache_budget)
    if flags.cache_features is not None and not mask_padding:
        raise ValueError(
            "--cache_features keeps no padding, and with --mask_padding False the adapter reads it; leave one out"
        )


class CacheUnavailable(Exception):
    """What keeps a run from its cache, in a sentence."""


def open_features(
    flags: CacheArguments, model: Any, examples: dict[str, Any], run: Any, verbose: bool
) -> tuple[FeatureStore | None, dict[str, Any]]:
    """Return the cache, None where there is none, and the examples with a column `place`, theirs in the cache.

    What hinders the cache of one process is told in a sentence, and none has one; nothing is lost but time. All
    processes of a run call it.
    """
    if not flags.asked:
        return None, examples
    state, opened, hindrance = PartialState(), None, None
    with state.local_main_process_first():
        try:
            opened = _open(flags, model, examples, run, print if verbose else _discard)
        except CacheUnavailable as error:
            hindrance = str(error)
        except OSError as error:
            hindrance = f"--cache_features {str(_directory(flags))!r} can't be used ({error})"
    # Processes wait for each other to share what they kept, so all of them have a cache or none.
    hindrances = [one for one in gather_object([hindrance]) if one is not None]
    if opened is not None and not hindrances:
        return opened
    if verbose:
        number = state.num_processes
        among = f" in {len(hindrances)} of {number} processes, so none of them uses it" if number > 1 else ""
        print(f"features: {hindrances[0]}{among}: {WITHOUT}")
    return None, examples


def _open(
    flags: CacheArguments, model: Any, examples: dict[str, Any], run: Any, log: Callable[[str], None]
) -> tuple[FeatureStore, dict[str, Any]]:
    """Return this process's cache and the examples with their places in it.

    Raises:
        OSError: its directory can't be used.
        CacheUnavailable: there is no room.
    """
    directory = _directory(flags)
    layout = _layout(flags, model)
    folder = directory / _name(model, layout, run)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "about.json").is_file():
        replace_file(folder / "about.json", _about(model, layout, run))
    room = partial(room_in, directory, flags.cache_budget)
    different, places = Examples.of(
        np.concatenate([_keys(one) for one in examples.values()]),
        np.concatenate([column(one, "length") for one in examples.values()]),
    )
    features = FeatureStore(folder, layout, different, room, log)
    _check_worth(features, run)
    _describe(features, directory, log)
    ends = np.cumsum([len(one) for one in examples.values()])[:-1]
    parts = zip(examples.items(), np.split(places, ends), strict=True)
    return features, {split: one.add_column("place", part) for (split, one), part in parts}


def _discard(sentence: str) -> None:
    """Say nothing, as all processes but one."""


def _directory(flags: CacheArguments) -> Path:
    named = str(flags.cache_features)
    return Path(constants.HF_HOME, "kadapter", "features") if named.lower() == "true" else Path(named)


def _layout(flags: CacheArguments, model: Any) -> Layout:
    read = next(model.base_model.backbone.parameters()).dtype
    stored = read if flags.cache_dtype is None else getattr(torch, flags.cache_dtype)
    last = model.config.num_hidden_layers
    layers = [layer for layer in model.tapped() if layer != last]  # that one is the last hidden state by its number
    return Layout((*layers, last if last in model.tapped() else -1), model.config.hidden_size, stored, read)


def _about(model: Any, layout: Layout, run: Any) -> str:
    """Return in JSON all that the states depend on beside the token ids."""
    backbone, parts = model.base_model.backbone.config, model.base_model.backbone.modules()
    quantized = getattr(backbone, "quantization_config", None)
    about = {
        **({} if quantized is None else {"quantized": repr(quantized)}),
        **({"compiled": True} if any("forward" in vars(part) for part in parts) else {}),
        "backbone": model.config.backbone_fingerprint,
        "configuration": plain(backbone),  # the same weights read otherwise under another activation, say
        "attention": backbone._attn_implementation,
        "layers": list(layout.layers),
        "stored": str(layout.stored),
        "computed": [str(layout.read), run.bf16, run.fp16, run.device.type],
        "versions": [torch.__version__, transformers.__version__],
        "format": 2,
    }
    return json.dumps(about, indent=2, sort_keys=True, default=repr)


def _name(model: Any, layout: Layout, run: Any) -> str:
    source = Path(model.config.backbone_name_or_path or "backbone").name
    return f"{source}-{blake2b(_about(model, layout, run).encode(), digest_size=8).hexdigest()}"


def _keys(examples: Any) -> np.ndarray:
    batches = examples.select_columns("input_ids").iter(1000)
    return np.frombuffer(b"".join(key_of(ids) for batch in batches for ids in batch["input_ids"]), dtype=KEY)


def _check_worth(features: FeatureStore, run: Any) -> None:
    """Raise CacheUnavailable unless a batch at least is there or fits."""
    batch = min(run.per_device_train_batch_size, len(features.wanted))
    if features.wanted.sum() < batch:
        takes = readable(features.bytes_of()[features.examples.priority[:batch]].sum())
        raise CacheUnavailable(
            f"there is room for {readable(max(0, features.room()))}, and one shard takes at least the {takes} of a "
            "batch; raise --cache_budget or free some space"
        )


def _describe(features: FeatureStore, directory: Path, log: Callable[[str], None]) -> None:
    layout, examples, takes = features.layout, features.examples, readable(features.bytes_of().sum())
    there, number = int((features.shard >= 0).sum()), len(examples.keys)
    log(
        f"features: {number} different examples, {int(examples.lengths.sum())} tokens, hidden states "
        f"{list(layout.layers)} in {str(layout.stored).removeprefix('torch.')} take {takes}"
        f"; {there} examples are in {str(features.folder)!r}, {len(features.missing())} will be"
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
    """Return a number of bytes, as in 50GB or 1.5GiB.

    Raises:
        ValueError: it is no size.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([KMGT]?I?)B?", text.strip().upper())
    if found is None or found[2] not in UNITS:
        raise ValueError(f"--cache_budget {text!r} is no size; give a number with its unit, such as 50GB")
    return int(float(found[1]) * UNITS[found[2]])


def readable(size: float) -> str:
    """Return a number of bytes as a reader wants it."""
    unit = next((one for one in "TGMK" if size >= UNITS[one]), "")
    return f"{size / UNITS[unit]:.3g} {unit}B"


def room_in(directory: Path, budget: str | None) -> int:
    """Return the bytes that may still be written, below 0 where there are too many already.

    They are what the disk leaves, and the budget of the whole directory, of all that is or is being written there.
    """
    free = shutil.disk_usage(directory).free
    if budget is None:
        return free
    used = 0
    for path in (found for kind in (PATTERN, ".*.partial", "about.json") for found in directory.glob(f"*/{kind}")):
        with suppress(FileNotFoundError):  # another process gave it its name, or removed it
            used += path.stat().st_size
    return min(free, size_of(budget) - used)
