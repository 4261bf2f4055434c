"""What a directory of exported graphs holds: its manifest, and whether the files are those that were written."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .inputs import READS

__all__ = ["FORMAT_VERSION", "MANIFEST", "Export", "read_export", "write_manifest"]

MANIFEST = "export.json"
FORMAT_VERSION = 1
KEYS = ("runtime", "precision", "backbone", "encoder", "adapters", "active_adapters", "head", "single", "files")
# What is read of a manifest, and of which type; a file that was edited or half written may lack any. A list stands for
# a list of such, a tuple for one of several, a set for one of its words.
NUMBERS: Any = [int]
WORDS: Any = [str]
FEATURES = ("adapters", "contributions")  # of adapters a fusion reads their outputs, or what they add to tapped states
VALUES: dict[str, Any] = {"single": bool, "active_adapters": (WORDS, None)}
READ: dict[str, dict[str, Any]] = {
    "backbone": {
        "name_or_path": (str, None),
        "fingerprint": str,
        "longest": (int, None),
        "vocab_size": int,
        "type_vocab_size": int,
    },
    "encoder": {"file": (str, None), "layers": NUMBERS},
    "adapters": {"file": (str, None), "layers": NUMBERS, "features": {"either", *FEATURES}},  # of each
    "head": {
        "file": (str, None),
        "class": str,
        "fusion": str,
        "features": {*FEATURES},
        "adapters": (WORDS, None),
        "reads": {*READS},
        "mentions": int,
        "problem_type": (str, None),
        "markers": [NUMBERS],
        "labels": WORDS,
    },
    "tokenizer": {
        "file": str,
        "pad_token_id": int,
        "unk_token_id": (int, None),
        "mask_token_id": (int, None),
        "mask_token": (str, None),
        "max_length": (int, None),
        "prefix": NUMBERS,
        "suffix": NUMBERS,
    },
    "files": {"bytes": int, "sha256": str},  # of each
}
OF_EACH, OPTIONAL = ("adapters", "files"), ("head", "tokenizer")
AGAIN = "copy the directory again, or export the artifact anew"
CHUNK = 2**22  # bytes that are hashed at a time


@dataclass(frozen=True)
class Export:
    """A directory of exported graphs and what its manifest says of them."""

    directory: Path
    manifest: dict[str, Any]

    @property
    def active_adapters(self) -> list[str]:
        """The names of the adapters that the head, or the fusion without any, went through when it was exported."""
        chosen = self.manifest["active_adapters"]
        return [name for name in self.manifest["adapters"] if chosen is None or name in chosen]

    def digest(self, file: str) -> str:
        """Return the SHA-256 of a graph as it was written, with those of its weights that lie apart."""
        return " ".join(self.manifest["files"][name]["sha256"] for name in self.files_of(file))

    def graph(self, file: str, verify: bool) -> Path:
        """Return the path of a graph, after comparing it and the files that belong to it with the manifest.

        Without `verify` only their sizes are compared.

        Raises:
            OSError: one of them is missing.
            ValueError: one of them is not what was written.
        """
        for name in self.files_of(file):
            self._check(name, verify)
        return self.directory / file

    def files_of(self, file: str) -> list[str]:
        """Return a file and those that hold its weights apart, as beyond 2 GB."""
        if file not in self.manifest["files"]:
            raise ValueError(f"{self.directory / MANIFEST} has no hash of {file!r}, which it names; {AGAIN}")
        return [name for name in self.manifest["files"] if name == file or name.startswith(f"{file}.")]

    def _check(self, name: str, verify: bool) -> None:
        path, written = self.directory / name, self.manifest["files"][name]
        if not path.is_file():
            raise OSError(f"{path} is missing, which {MANIFEST} names; {AGAIN}")
        if (size := path.stat().st_size) != written["bytes"]:
            why = "so it was cut or replaced" if size < written["bytes"] else "so it was replaced"
            raise ValueError(f"{path} has {size} bytes and was written with {written['bytes']}, {why}; {AGAIN}")
        if verify and (digest := digest_of_file(path)) != written["sha256"]:
            raise ValueError(
                f"{path} is damaged: its SHA-256 is {digest[:12]}..., and {written['sha256'][:12]}... was written; "
                f"{AGAIN}"
            )


def read_export(directory: str | os.PathLike) -> Export:
    """Return an exported directory by its manifest.

    Raises:
        OSError: there is no such directory, or no manifest in it.
        ValueError: the manifest is damaged, of a newer format, or names files elsewhere.
    """
    folder = Path(directory).expanduser()
    path = folder / MANIFEST
    if not path.is_file():
        missing = f"there is no {MANIFEST} in it" if folder.is_dir() else "there is no such directory"
        raise OSError(
            f"no exported model at {str(directory)!r}: {missing}; write one by kadapter export ARTIFACT -o DIR"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file ({error}); {AGAIN}") from error
    version: Any = manifest.get("format_version") if isinstance(manifest, dict) else None
    if not fits(version, int):
        raise ValueError(f"{path} is no manifest of an exported model: it has no format_version; {AGAIN}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {version}, and this kadapter reads up to {FORMAT_VERSION}; install a newer kadapter"
        )
    lacking = [key for key in KEYS if key not in manifest]
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}; {AGAIN}")
    check_manifest(path, manifest)
    for name in manifest["files"]:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"{path} names the file {name!r}, which lies outside the directory; {AGAIN}")
    return Export(folder, manifest)


def check_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Raise ValueError for a manifest that lacks what is read of it, or has it of another type."""
    for key, shape in VALUES.items():
        if not fits(manifest[key], shape):
            raise ValueError(f"{path} is damaged: {key!r} is {manifest[key]!r}; {AGAIN}")
    for key, fields in READ.items():
        value = manifest.get(key)
        if value is None and key in OPTIONAL and not (key == "head" and manifest["single"]):
            continue
        entries = value if key in OF_EACH else {"": value}
        for name, entry in entries.items() if isinstance(entries, dict) else [("", None)]:
            where = f"{path} is damaged: {key!r}" + (f" of {name!r}" if name else "")
            if not isinstance(entry, dict) or any(field not in entry for field in fields):
                raise ValueError(f"{where} is no record of {', '.join(fields)}; {AGAIN}")
            for field, shape in fields.items():
                if not fits(entry[field], shape):
                    raise ValueError(f"{where} has {entry[field]!r} for {field!r}; {AGAIN}")


def fits(value: Any, shape: Any) -> bool:
    """Return whether a value is of a type, as `READ` writes types."""
    if isinstance(shape, tuple):
        return any(fits(value, each) for each in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
    if isinstance(shape, set):
        return isinstance(value, str) and value in shape
    return value is None if shape is None else type(value) is shape  # True is an int, too


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file, read in chunks, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, with size and hash of every file beside it."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    manifest["files"] = {path.name: {"bytes": path.stat().st_size, "sha256": digest_of_file(path)} for path in paths}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
