"""Push artifacts to the Hub: the directory of one, and what a training has reached so far."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from transformers.trainer_utils import HubStrategy

from ...artifacts_kadapter import CONFIG, WEIGHTS, in_one_line, read_artifact, upload
from ...cards_kadapter import CARD
from ...processing_kadapter import TOKENIZER_FILES
from .cards import EVAL_RESULTS

__all__ = ["push", "push_progress"]

PUSHED = (CONFIG, WEIGHTS, CARD, "*_kadapter.py", *TOKENIZER_FILES, "LICENSE*", "*.png", "*.svg", EVAL_RESULTS)


def push(directory: Path, repo_id: str, **options: Any) -> tuple[str, list[str]]:
    """Push a directory as one commit, and return the commit's address and the names of what was left out.

    `options` are keywords of `upload`, of which those that are None are left out; a `revision` is made if it is new.

    Raises:
        OSError: the Hub refuses it or can't be reached; what it holds is as it was.
        ValueError: the weights are damaged, or the Hub takes no such name.
    """
    read_artifact(directory).check()
    paths = sorted(directory.iterdir())
    pushed = [path for path in paths if any(fnmatch(path.name, pattern) for pattern in PUSHED)]
    left_out = [path.name for path in paths if path not in pushed]

    def save(folder: Path) -> None:
        folder.mkdir()
        for path in pushed:
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, folder / path.name)

    chosen = {key: value for key, value in options.items() if value is not None}
    _make_branch(repo_id, chosen)
    return upload(repo_id, save, **chosen), left_out


def _make_branch(repo_id: str, options: dict[str, Any]) -> None:
    """Make the branch that is pushed to, and its repository, where they are new."""
    if "revision" not in options or "+" in repo_id:
        return
    api = HfApi(token=options.get("token"))
    try:
        api.create_repo(repo_id, private=options.get("private"), exist_ok=True)
        api.create_branch(repo_id, branch=options["revision"], exist_ok=True)
    except (HTTPError, OSError) as error:
        where = f"branch {options['revision']!r} of {repo_id!r}"
        raise OSError(f"could not make {where} ({in_one_line(error)}); nothing was pushed") from error


def push_progress(repo_id: str, save: Callable[[Path], None], checkpoint: Path, strategy: str, **options: Any) -> None:
    """Push what a training has reached at a checkpoint, and the checkpoint too where the `hub_strategy` says so.

    Raises:
        OSError: the Hub refuses it or can't be reached.
    """
    step = checkpoint.name.rpartition("-")[2]
    message = f"Training in progress, step {step}"
    _make_branch(repo_id, options)
    upload(repo_id, save, commit_message=message, **options)
    if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else checkpoint.name
        try:
            HfApi(token=options.pop("token", None)).upload_folder(
                repo_id=repo_id, folder_path=checkpoint, path_in_repo=name, commit_message=message, **options
            )
        except (HTTPError, OSError) as error:
            raise OSError(f"could not push {checkpoint.name} to {repo_id!r} ({in_one_line(error)})") from error
