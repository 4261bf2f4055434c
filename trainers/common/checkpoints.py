"""Checkpoints: used only if complete, and resumed only by the run that wrote them, even if their folder was moved."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate import PartialState
from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ...configuration_kadapter import DEFAULT_KIND

__all__ = [
    "MANIFEST",
    "all_checkpoints",
    "check_same_run",
    "checkpoint_to_resume",
    "checksum",
    "damage",
    "describe_model",
    "describe_training",
    "is_complete",
    "is_same_run",
    "last_complete_checkpoint",
    "write_manifest",
]

MANIFEST = "manifest.json"  # the run that a checkpoint belongs to, and the checksums of its files
STATE = "trainer_state.json"
COMPLETE = ("model.safetensors", "optimizer.pt", "scheduler.pt", STATE)
TRAINING_FLAGS = (  # what the results of a run depend on, apart from its length and how often it saves
    *("seed", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "optim"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "train_sampling_strategy", "metric_for_best_model"),
    *("bf16", "fp16", "optim_args", "label_smoothing_factor", "neftune_noise_alpha"),
)
NOT_LEARNED_FROM = ("cache_index",)  # columns of encoded examples that depend on a cache
SHOWN_DIFFERENCES = 3
LONGEST_VALUE = 60  # characters of a value in a message


# ---- which checkpoint is resumed ------------------------------------------------------------------------------------


def step_of(checkpoint: Path) -> int | None:
    """Return the number of steps in a checkpoint's name, None if the name is not that of a checkpoint."""
    step = checkpoint.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
    return int(step) if step.isdigit() and step != checkpoint.name else None


def all_checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """Return the checkpoints of a run, complete or not, those with most steps first."""
    checkpoints = [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if step_of(path) is not None]
    return sorted(checkpoints, key=lambda path: step_of(path) or 0, reverse=True)


def is_complete(checkpoint: Path) -> bool:
    """Return whether a checkpoint has all files that a resumed run needs; their content is not read."""
    return _missing(checkpoint) is None


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """Return the checkpoint with most steps among those with all files that a resumed run needs, or None."""
    return next((str(path) for path in all_checkpoints(output_dir) if is_complete(path)), None)


def checkpoint_to_resume(requested: str | bool | None, output_dir: str) -> str | bool:
    """Return the checkpoint to resume from, True for a run that has none yet and starts again, or False.

    A damaged checkpoint is reported, and the one before it is used.

    Raises:
        ValueError: the requested checkpoint is incomplete or damaged.
    """
    if not requested or str(requested).lower() == "false":
        return False
    if str(requested).lower() not in ("true", "last"):
        checkpoint = Path(str(requested)).expanduser()
        if not is_complete(checkpoint):
            raise ValueError(
                f"--resume_from_checkpoint {requested!r} is no complete checkpoint; name another, or say last"
            )
        if reason := damage(checkpoint):
            raise ValueError(f"--resume_from_checkpoint {requested!r} is damaged: {reason}; name another, or say last")
        return str(checkpoint)
    checkpoints = all_checkpoints(output_dir)
    for number, checkpoint in enumerate(checkpoints):
        reason = damage(checkpoint)
        if reason is None:
            return str(checkpoint)
        following = "the checkpoint before it is tried" if checkpoints[number + 1 :] else "the run starts again"
        if PartialState().is_main_process:
            print(f"{checkpoint} is damaged and not used ({reason}); {following}")
    return True


def damage(checkpoint: Path) -> str | None:
    """Describe what is wrong with the files of a checkpoint; return None if they are unchanged."""
    if missing := _missing(checkpoint):
        return missing
    if not (checkpoint / MANIFEST).is_file():
        return _unreadable(checkpoint)
    try:
        sums = _manifest(checkpoint)["files"]
        changed = [name for name, expected in sums.items() if checksum(checkpoint / name) != expected]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"{MANIFEST} or what it names can't be read: {error}"
    return f"{changed[0]} was cut short or changed" if changed else None


def _missing(checkpoint: Path) -> str | None:
    for name in COMPLETE:
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
    if not any(checkpoint.glob("rng_state*.pth")):
        return "the state of the random numbers is missing"
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{STATE} can't be read"
    return None if isinstance(state, dict) else f"{STATE} holds no state"


def _unreadable(checkpoint: Path) -> str | None:
    """Check a checkpoint without checksums, as earlier versions wrote it, for files that can't be read."""
    for path in sorted(checkpoint.iterdir()):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
            elif path.suffix in (".pt", ".pth"):
                with zipfile.ZipFile(path) as archive:
                    if archive.testzip() is not None:
                        return f"{path.name} was changed"
        except (OSError, SafetensorError, zipfile.BadZipFile) as error:
            return f"{path.name} can't be read: {error}"
    return None


# ---- which run a checkpoint belongs to ------------------------------------------------------------------------------


def write_manifest(checkpoint: Path, run: dict[str, Any] | None) -> None:
    """Write into a checkpoint the run that it belongs to and the checksums of its files."""
    files = {path.name: checksum(path) for path in sorted(checkpoint.iterdir()) if path.is_file()}
    (checkpoint / MANIFEST).write_text(json.dumps({"run": run, "files": files}, indent=1) + "\n", encoding="utf-8")


def checksum(path: Path) -> str:
    """Return a hash of a file's bytes.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        return file_digest(file, lambda: blake2b(digest_size=16)).hexdigest()


def _manifest(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))


def check_same_run(checkpoint: str | os.PathLike, run: dict[str, Any] | None) -> None:
    """Refuse a checkpoint that belongs to another run than the one that resumes it.

    Raises:
        ValueError: they differ; the message names the differences and the remedy.
    """
    try:
        recorded = _manifest(Path(checkpoint))["run"]
    except (OSError, ValueError, KeyError):
        recorded = None
    if recorded is None or run is None:
        if PartialState().is_main_process:
            print(
                f"{checkpoint} is of an earlier version and does not say which run it belongs to; it is not compared"
            )
        return
    is_same_run(recorded, run, repr(str(checkpoint)))


def is_same_run(recorded: dict[str, Any], run: dict[str, Any], where: str) -> None:
    """Refuse to continue from another run; `recorded` describes that run, and `where` begins the message.

    Raises:
        ValueError: they differ in something that both describe.
    """
    old, new = _flat(json.loads(json.dumps(recorded))), _flat(json.loads(json.dumps(run, default=str)))
    common = recorded.keys() & run.keys()
    names = [name for name in {**new, **old} if name[0] in common and old.get(name) != new.get(name)]
    if names:
        differences = [
            f"{' '.join(name)} was {_shown(old.get(name))} and is {_shown(new.get(name))}" for name in names
        ]
        more = f", and {len(differences) - SHOWN_DIFFERENCES} more" if len(differences) > SHOWN_DIFFERENCES else ""
        raise ValueError(
            f"{where} was made with other flags or other data: {', '.join(differences[:SHOWN_DIFFERENCES])}{more}; "
            "resume with the flags and data that it was made with, or start again with --overwrite_output_dir without "
            "--resume_from_checkpoint, or in another --output_dir"
        )


def _flat(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(value, dict) or not value:
        return {path: value}
    return {key: leaf for name, inner in value.items() for key, leaf in _flat(inner, (*path, name)).items()}


def _shown(value: Any) -> str:
    if value is None:
        return "missing"
    text = str(value)
    shortened = text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
    return repr(shortened) if isinstance(value, str) else shortened


def describe_training(run: Any, examples: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Describe a training: its flags, its tokenizer and its examples in their order.

    Args:
        run: the arguments of training.
        examples: encoded examples by what they are called in messages.
        tokenizer: the tokenizer that encoded them.
    """
    flags = {f"--{name}": getattr(run, name) for name in TRAINING_FLAGS}
    flags["--data_seed"] = run.seed if run.data_seed is None else run.data_seed
    return {
        **flags,
        "examples in a step": run.train_batch_size * run.gradient_accumulation_steps * run.world_size,
        "tokenizer": blake2b(repr(sorted(tokenizer.get_vocab().items())).encode(), digest_size=16).hexdigest(),
        **{
            name: {"number": len(encoded), "fingerprint": fingerprint_of_examples(encoded)}
            for name, encoded in examples.items()
        },
    }


def describe_model(config: Any, fields: dict[str, Any]) -> dict[str, Any]:
    """Describe a model: its frozen encoder, the shapes of its adapters, and the fields of its head."""
    fields = {name: value for name, value in fields.items() if name != "label2id"}  # id2label holds the same
    adapters = {}
    for name, values in config.adapters.items():
        shape = {key: value for key, value in values.items() if key not in ("training", "source")}
        if shape.get("kind") == DEFAULT_KIND:  # which earlier versions did not write
            del shape["kind"]
        adapters[name] = {**shape, "hash": (values.get("source") or {}).get("hash")}
    shared = {"LM head": config.lm_head_source["hash"]} if config.lm_head_source else {}
    return {"backbone": config.backbone_fingerprint, "adapters": adapters, **fields, **shared}


def fingerprint_of_examples(examples: datasets.Dataset) -> str:
    """Return a hash of the values of encoded examples in their order, independent of where they are cached."""
    total = blake2b(digest_size=16)
    names = sorted(set(examples.column_names) - set(NOT_LEARNED_FROM))
    for table in examples.select_columns(names).with_format("arrow").iter(10_000):
        for name in names:
            total.update(name.encode())
            for piece in _pieces(table.column(name).combine_chunks()):
                total.update(piece)
    return total.hexdigest()


def _pieces(column: pa.Array) -> Iterator[bytes]:
    """Yield the values of a column as bytes: for lists their lengths, then their items."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), -1)
        yield lengths.to_numpy(zero_copy_only=False).astype(np.int64).tobytes()
        yield from _pieces(column.flatten())
    elif (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)) and not column.null_count:
        yield column.to_numpy(zero_copy_only=False).tobytes()
    else:
        yield repr(column.to_pylist()).encode()
