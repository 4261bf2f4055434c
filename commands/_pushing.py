"""Push the directory of an artifact to the Hub."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from ..artifacts_kadapter import CARD, CONFIG, WEIGHTS, read_artifact, upload
from ..processing_kadapter import TOKENIZER_FILES

__all__ = ["push"]

PUSHED = (CONFIG, WEIGHTS, CARD, "*_kadapter.py", *TOKENIZER_FILES, "LICENSE*", "*.png", "*.svg", ".eval_results")


def push(
    directory: Path, repo_id: str, private: bool | None, revision: str | None, message: str | None
) -> tuple[str, list[str]]:
    """Push a directory as one commit, and return the commit's address and the names of what was left out.

    Raises:
        OSError: the Hub refuses it or can't be reached.
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

    options = {"private": private, "revision": revision, "commit_message": message}
    try:
        if revision is not None:
            api = HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        chosen = {key: value for key, value in options.items() if value is not None}
        return upload(repo_id, save, **chosen), left_out
    except (HfHubHTTPError, OSError) as error:
        raise OSError(f"{directory} could not be pushed to {repo_id} ({error})") from error
