"""The output directory of a run: whether it may be used, by whom it is used, and files written at once."""

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

HEAD = "pretraining_head"  # where the complete model with its head stands in the output directory
RUN = "run.json"  # what a downstream run was
MULTITASK = "multitask.json"  # stands beside an encoder that run_multitask.py trained
FINISHED = "finished.json"  # of which run everything in the directory is, once all is written
RESULTS = "all_results.json"
LOCK = "_lock"  # with such a name it is left out of what a Trainer pushes
OF_A_RUN = (
    *(f"{PREFIX_CHECKPOINT_DIR}-*", "runs", "*_results.json", "trainer_state.json", "pred*.jsonl"),
    *(RUN, FINISHED),
)
OF_A_TOKENIZER = (  # of each family its own
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
    """Refuse an output directory that holds what no run of ours wrote, or a run that is not to be replaced.

    What a run left that was killed before its first checkpoint is no run: the same command starts it anew.

    Args:
        output_dir: where the run is to write.
        resume: the checkpoint that it goes on from, or whether it goes on from the last.
        overwrite: whether an earlier run may be replaced.
        backbone: the encoder; one that is a directory must be apart from this one.
        adapters: artifacts that are read, none of which may be this directory.
        mark: a file that stands beside a model of the program's own that is no artifact.

    Raises:
        ValueError: the directory must not be used; the sentence says why.
        OSError: it, or a checkpoint in it, holds a model that is not ours.
    """
    folder = Path(output_dir)
    _check_apart(folder, backbone, adapters)
    checkpoint, finished = last_complete_checkpoint(folder), _any_of(folder, (FINISHED, RUN))
    _check_ours(folder, mark, tolerant=bool(resume and (checkpoint or finished)))
    weights = _any_of(folder, (WEIGHTS, f"{HEAD}/{WEIGHTS}"))
    used = checkpoint or finished or weights
    if used and not overwrite and not (resume and (checkpoint or finished)):
        how = "it has no checkpoint to resume from;" if resume else "resume it by --resume_from_checkpoint last,"
        raise ValueError(
            f"--output_dir {output_dir!r} holds another run; {how} replace it by --overwrite_output_dir, or choose "
            "another directory"
        )


def _any_of(folder: Path, names: Iterable[str]) -> bool:
    return any((folder / name).exists() for name in names)


def _check_place(folder: Path) -> None:
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
                f"--output_dir {str(folder)!r} is the directory of an adapter that is read; choose another directory"
            )


def _check_ours(folder: Path, mark: str | None, tolerant: bool) -> None:
    """Refuse a directory with what no run of ours wrote; beside a run that goes on, files of other names may lie."""
    checkpoints = all_checkpoints(folder)
    manifests = [f"{path.name}/{MANIFEST}" for path in checkpoints]
    check_destination(folder, marks=[] if mark is None else [mark, *manifests])
    for path in checkpoints:
        if (path / CONFIG).is_file():  # ours hold none where only a part of the model trains
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
    """Keep output directories for this run; another that wants one of them is refused until this one has ended.

    The main process holds a lock on a file in each, which the system lets go when the process dies, however it does.
    Directories that were made for it and stay empty are removed.

    Raises:
        ValueError: a directory is in use, or is no place for one.
        OSError: it can't be written.
    """
    with ExitStack() as locks:
        for output_dir in output_dirs if PartialState().is_main_process else ():
            locks.enter_context(_locked(Path(output_dir)))
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    _check_place(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
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
            for path in made:
                path.rmdir()


# ---- whether a run has finished -------------------------------------------------------------------------------------


def mark_finished(run: Any, description: dict[str, Any], files: Sequence[str]) -> None:
    """Note, when all of a run is written, which run it was and by which files it is known to be there.

    Raises:
        OSError: it can't be written.
    """
    record = {"run": description, "length": _length(run), "files": [RESULTS, *files]}
    replace_file(Path(run.output_dir) / FINISHED, json.dumps(record, indent=1, default=str))


def finished_results(run: Any, description: dict[str, Any]) -> dict[str, float] | None:
    """Return the results of a finished run that is resumed and has nothing left to do; None if it has.

    Raises:
        ValueError: it is another run than the one described, or a longer one is asked for and no checkpoint is left.
    """
    folder = Path(run.output_dir)
    try:
        held = json.loads((folder / FINISHED).read_text(encoding="utf-8"))
        there = all((folder / name).is_file() for name in held["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not there:
        return None
    is_same_run(held["run"], description, f"the run in {str(folder)!r}")
    if held["length"] != _length(run):
        if last_complete_checkpoint(folder) is None:
            raise ValueError(
                f"the run in {str(folder)!r} has finished after {held['length']} and left no checkpoint, so it can't "
                f"go on to {_length(run)}; give --overwrite_output_dir instead of --resume_from_checkpoint"
            )
        return None
    if PartialState().is_main_process:
        print(f"the run in {str(folder)!r} has finished; it is left as it is")
    return json.loads((folder / RESULTS).read_text(encoding="utf-8"))


def _length(run: Any) -> str:
    return f"{run.max_steps} steps" if run.max_steps > 0 else f"{run.num_train_epochs:g} epochs"


# ---- what is removed and written ------------------------------------------------------------------------------------


def clear(output_dir: str, resume: bool) -> None:
    """Remove what a kill left half written or half removed and, unless it is resumed, the earlier run.

    The earlier artifact stays until the new one, when complete, takes its place.
    """
    for pattern in LEFT_BY_A_KILL if resume else LEFT_BY_A_KILL + OF_A_RUN:
        for path in Path(output_dir).glob(pattern):
            remove(path)
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not is_complete(path):
            remove(path)
