"""The output directory of a run: whether it may be used, what in it is complete, and files written at once."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

__all__ = [
    "check_output_directory",
    "checkpoint_to_resume",
    "clear",
    "last_complete_checkpoint",
    "replace_file",
    "replace_files",
    "write_adapter",
]

PARTIAL = ".partial"
COMPLETE = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
HEAD = "pretraining_head"  # where the complete model with its head stands in the output directory
OF_A_RUN = (f"{PREFIX_CHECKPOINT_DIR}-*", "runs", "*_results.json", "trainer_state.json", "run.json", "pred*.jsonl")
LEFT_BY_A_KILL = (f"{PARTIAL}*", f".*{PARTIAL}", f"{HEAD}/{PARTIAL}*", f"{HEAD}/.*{PARTIAL}")


def check_output_directory(output_dir: str, resume: bool, overwrite: bool) -> None:
    """Refuse a used output directory, unless its run is resumed or may be overwritten.

    Raises:
        ValueError: the directory holds another run, or is a file.
    """
    folder = Path(output_dir)
    file = next((str(one) for one in (folder, *folder.parents) if one.is_file()), None)
    if file is not None:
        raise ValueError(f"--output_dir {file!r} is a file; name a directory")
    used = folder.is_dir() and any(PARTIAL not in path.name for path in folder.iterdir())
    artifacts = [folder / COMPLETE[0], folder / HEAD / COMPLETE[0]]
    finished = any(path.exists() for path in artifacts) and last_complete_checkpoint(output_dir) is None
    if used and not overwrite and (not resume or finished):
        how = "it has no checkpoint to resume from;" if resume else "resume it by --resume_from_checkpoint last,"
        raise ValueError(
            f"--output_dir {output_dir!r} holds another run; {how} replace it by --overwrite_output_dir, or choose "
            "another directory"
        )


def clear(output_dir: str, resume: bool) -> None:
    """Remove what a kill left half written or half removed and, unless it is resumed, the earlier run.

    The earlier artifact stays until the new one, when complete, takes its place.
    """
    for pattern in LEFT_BY_A_KILL if resume else LEFT_BY_A_KILL + OF_A_RUN:
        for path in Path(output_dir).glob(pattern):
            remove(path)
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not _is_complete(path):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or folder that may not be there, a folder under another name, so that it is whole or gone."""
    if path.is_dir():
        with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}-", dir=path.parent) as folder:
            os.rename(path, Path(folder) / path.name)
    else:
        path.unlink(missing_ok=True)


def checkpoint_to_resume(asked: str | bool | None, output_dir: str) -> str | bool:
    """Return the checkpoint to resume from, True for a run that has none yet and so starts anew, or False.

    Raises:
        ValueError: the checkpoint asked for is not complete.
    """
    if not asked or str(asked).lower() == "false":
        return False
    if str(asked).lower() in ("true", "last"):
        return last_complete_checkpoint(output_dir) or True
    if not _is_complete(Path(asked)):
        raise ValueError(f"--resume_from_checkpoint {asked!r} is no complete checkpoint; name one, or say last")
    return str(asked)


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """Return the checkpoint with most steps that holds all that a resumed run needs, or None."""
    found = []
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdigit() and _is_complete(path):
            found.append((int(step), str(path)))
    return max(found)[1] if found else None


def _is_complete(path: Path) -> bool:
    try:
        json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all((path / name).is_file() for name in COMPLETE) and any(path.glob("rng_state*.pth"))


def replace_file(path: Path, text: str) -> None:
    """Write a file under another name and give it its own when it is complete.

    Raises:
        OSError: it can't be written; what was there before is untouched.
    """
    replace_files(path.parent, lambda folder: (folder / path.name).write_text(text + "\n", encoding="utf-8"))


def replace_files(directory: Path, fill: Callable[[Path], object]) -> None:
    """Fill a directory beside its place, then move each of the files there as a whole.

    Raises:
        OSError: writing failed; what was there before is untouched.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f"{PARTIAL}-", dir=directory) as folder:
            fill(Path(folder))
            for path in sorted(Path(folder).iterdir()):
                os.replace(path, directory / path.name)
    except OSError as error:
        raise OSError(f"could not save to {str(directory)!r} ({error}); free some space and resume the run") from error


def write_adapter(trainer: Any, corpus: Any, adapter: Any, results: dict[str, float]) -> None:
    """Write what `run_adapter.py` trained: the adapter to OUT, the model with its head to OUT/pretraining_head.

    Raises:
        OSError: it can't be written; what was there before is untouched.
    """
    output, model = Path(trainer.args.output_dir), trainer.model
    if not adapter.without_adapter:
        model.config.adapters[adapter.adapter_name]["training"] = {
            "objective": adapter.objective,
            "corpus": corpus.corpus,
            "epochs": round(trainer.state.epoch or 0, 2),
            "steps": trainer.state.global_step,
            "learning_rate": trainer.args.learning_rate,
            "seed": trainer.args.seed,
            "results": {key.removeprefix("eval_"): value for key, value in results.items() if _is_result(key)},
        }
        model.save_adapter(output, adapter.adapter_name)
        replace_files(output, trainer.processing_class.save_pretrained)
    model.save_pretrained(output / HEAD)
    replace_files(output / HEAD, trainer.processing_class.save_pretrained)


def _is_result(key: str) -> bool:
    return key.startswith("eval_") and not key.endswith(("_runtime", "_per_second", "_loss", "_time"))
