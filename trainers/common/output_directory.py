"""The output directory of a run: whether it may be used, which run uses it, and whether that run has finished."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from accelerate import PartialState
from filelock import FileLock, Timeout
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ...artifacts_kadapter import CONFIG, WEIGHTS, check_destination
from ...reports.runs import DESCRIPTION as RUN
from ...reports.runs import RESULTS
from .atomic_files import PARTIAL, remove, replace_file
from .checkpoints import MANIFEST, all_checkpoints, is_complete, is_same_run, last_complete_checkpoint

__all__ = [
    "HEAD",
    "MULTITASK",
    "RUN",
    "check_output_directory",
    "clear",
    "finished_results",
    "in_use",
    "mark_finished",
]

HEAD = "pretraining_head"  # folder of the complete model with its head, in the output directory
MULTITASK = "multitask.json"  # stored with an encoder that run_multitask.py trained
FINISHED = "finished.json"  # names the run that the directory belongs to; written last
LOCK = "_lock"  # a Trainer does not push files with such names
OF_A_RUN = (
    *(f"{PREFIX_CHECKPOINT_DIR}-*", "runs", "*_results.json", "trainer_state.json", "pred*.jsonl"),
    *(RUN, FINISHED, "relations.*", "injection.*", "card.json", "training_curve.png", ".eval_results"),
)
OF_A_TOKENIZER = (  # each family has its own
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    "chat_template.jinja",
)
LEFT_BY_A_KILL = (f"{PARTIAL}*", f".*{PARTIAL}", f"{HEAD}/{PARTIAL}*", f"{HEAD}/.*{PARTIAL}")
OURS = (
    *OF_A_RUN,
    *(MULTITASK, LOCK, f"*{PARTIAL}*", HEAD, WEIGHTS, CONFIG, "README.md", "*_kadapter.py", "training_args.bin"),
    *("seed-*", "lr-*", *OF_A_TOKENIZER),
)


# ---- whether a directory may be used --------------------------------------------------------------------------------


def check_output_directory(
    output_dir: str,
    resume: str | bool,
    overwrite: bool,
    backbone: str | None = None,
    adapters: Sequence[str] = (),
    mark: str | None = None,
) -> None:
    """Refuse an output directory that holds files of others, or a run that is not to be replaced.

    A run that was killed before its first checkpoint does not count: the same command starts it again.

    Args:
        output_dir: the directory that the run is to write to.
        resume: the checkpoint to resume from, or whether to resume from the last.
        overwrite: whether an earlier run may be replaced.
        backbone: the encoder; if it is a directory, the output must be separate from it.
        adapters: artifacts that are read, none of which may be the output directory.
        mark: a file that marks a model of this program that is no artifact.

    Raises:
        ValueError: the directory must not be used; the message says why.
        OSError: it, or a checkpoint in it, holds a model that is not ours.
    """
    folder = Path(output_dir)
    _check_apart(folder, backbone, adapters)
    checkpoint, finished = last_complete_checkpoint(folder), _any_of(folder, (FINISHED, RUN))
    _check_ours(folder, mark, tolerant=bool(resume and (checkpoint or finished)))
    weights = _any_of(folder, (WEIGHTS, f"{HEAD}/{WEIGHTS}"))
    used = checkpoint or finished or weights
    if used and not overwrite and not (resume and (checkpoint or finished)):
        how = "it has no checkpoint to resume from;" if resume else "resume it with --resume_from_checkpoint last,"
        raise ValueError(
            f"--output_dir {output_dir!r} holds another run; {how} replace it with --overwrite_output_dir, or choose "
            "another directory"
        )


def _any_of(folder: Path, names: Iterable[str]) -> bool:
    return any((folder / name).exists() for name in names)


def _check_path(folder: Path) -> None:
    for path in (folder, *folder.parents):
        if path.is_file():
            raise ValueError(f"--output_dir {str(path)!r} is a file; name a directory")
        if path.is_symlink() and not path.exists():
            raise ValueError(
                f"--output_dir {str(path)!r} is a link to {os.readlink(path)!r}, which does not exist; make that "
                "directory or name another"
            )


def _check_apart(folder: Path, backbone: str | None, adapters: Sequence[str]) -> None:
    ours = folder.resolve()
    theirs = Path(backbone).resolve() if backbone is not None and Path(backbone).is_dir() else None
    if theirs is not None and (ours == theirs or ours in theirs.parents or theirs in ours.parents):
        how = "is" if ours == theirs else "lies in" if theirs in ours.parents else "holds"
        raise ValueError(
            f"--output_dir {str(folder)!r} {how} the directory of the encoder {backbone!r}, which no run may change; "
            "choose another directory"
        )
    for adapter in adapters:
        if Path(adapter).is_dir() and ours == Path(adapter).resolve():
            raise ValueError(
                f"--output_dir {str(folder)!r} is the directory of an adapter or a model that is read; choose another"
            )


def _check_ours(folder: Path, mark: str | None, tolerant: bool) -> None:
    """Refuse a directory with files that no run of ours wrote; if a run is resumed, other files are tolerated."""
    checkpoints = all_checkpoints(folder)
    manifests = [f"{path.name}/{MANIFEST}" for path in checkpoints]
    check_destination(folder, marks=[] if mark is None else [mark, *manifests])
    for path in checkpoints:
        if (path / CONFIG).is_file():  # ours hold none where only some of the tensors train
            check_destination(path)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() and not tolerant else []
    strange = next((name for name in names if not any(fnmatch(name, pattern) for pattern in OURS)), None)
    if strange is not None:
        raise ValueError(
            f"--output_dir {str(folder)!r} holds {strange!r}, which no run of kadapter wrote, so nothing is written "
            "there; choose another directory"
        )


@contextmanager
def in_use(output_dirs: Iterable[str]) -> Iterator[None]:
    """Reserve output directories for this run; another run that wants one of them is refused until this run has ended.

    The main process holds a lock on a file in each, which the system releases when the process dies, for any reason.
    Directories that were created for it and stay empty are removed.

    Raises:
        ValueError: a directory is in use, or its path can't be a directory.
        OSError: it can't be written.
    """
    with ExitStack() as locks:
        for output_dir in output_dirs if PartialState().is_main_process else ():
            locks.enter_context(_locked(Path(output_dir)))
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    _check_path(folder)
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ValueError(
            f"--output_dir {str(folder)!r} is in use by another run that has not ended; wait for it, or choose "
            "another directory"
        ) from error
    except OSError as error:
        raise OSError(f"--output_dir {str(folder)!r} can't be written ({error}); choose another directory") from error
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink()
        lock.release()
        with suppress(OSError):
            for path in created:
                path.rmdir()


# ---- whether a run has finished -------------------------------------------------------------------------------------


def mark_finished(run: Any, description: dict[str, Any], files: Sequence[str]) -> None:
    """Record, when everything is written, which run it was and the files by which its results are recognised.

    Raises:
        OSError: it can't be written.
    """
    record = {"run": description, "length": _length(run), "files": [RESULTS, *files]}
    replace_file(Path(run.output_dir) / FINISHED, json.dumps(record, indent=1, default=str))


def finished_results(run: Any, description: dict[str, Any]) -> dict[str, float] | None:
    """Return the results of a finished run that is resumed and has nothing left to do; None if there is more to do.

    Raises:
        ValueError: it is another run than the one described, or a longer one is requested and no checkpoint is left.
    """
    folder = Path(run.output_dir)
    try:
        recorded = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
        there = all((folder / name).is_file() for name in recorded["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not there:
        return None
    is_same_run(recorded["run"], description, f"the run in {str(folder)!r}")
    if recorded["length"] != _length(run):
        if last_complete_checkpoint(folder) is None:
            raise ValueError(
                f"the run in {str(folder)!r} has finished after {recorded['length']} and left no checkpoint, so it "
                f"can't go on to {_length(run)}; give --overwrite_output_dir instead of --resume_from_checkpoint"
            )
        return None
    if PartialState().is_main_process:
        print(f"the run in {str(folder)!r} has finished; it is left unchanged")
    return json.loads((folder / RESULTS).read_text(encoding="utf-8"))


def _length(run: Any) -> str:
    return f"{run.max_steps} steps" if run.max_steps > 0 else f"{run.num_train_epochs:g} epochs"


# ---- removing an earlier run ----------------------------------------------------------------------------------------


def clear(output_dir: str, resume: bool) -> None:
    """Remove files that a kill left incomplete and, unless it is resumed, the earlier run.

    The earlier artifact stays until the complete new one replaces it.
    """
    for pattern in LEFT_BY_A_KILL if resume else LEFT_BY_A_KILL + OF_A_RUN:
        for path in Path(output_dir).glob(pattern):
            remove(path)
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not is_complete(path):
            remove(path)
