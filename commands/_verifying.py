"""The checks of `kadapter verify`; no code of an artifact is run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError

from ..artifacts_kadapter import STRUCTURE, Artifact, digest_of, read_artifact
from ..backbone_kadapter import find_checkpoint
from ..configuration_kadapter import split_composition
from ..embeddings_kadapter import EntityEmbeddings
from ._hub import no_answer
from ._preflight import config_of, file_of, holds_table, is_remote
from ._summary import header_of

__all__ = ["Check", "checks"]

PACKAGE = Path(__file__).resolve().parents[1]
ROWS = 65536  # of a table that are looked at together


class Check(NamedTuple):
    """What was checked, with which result ("ok", "failed" or "skipped"), and what was seen."""

    artifact: str
    check: str
    result: str
    detail: str

    def __str__(self) -> str:
        return f"{self.result:7} {self.check:8} {self.artifact}: {self.detail}"


def checks(
    artifact: str, revision: str | None = None, backbone: str | None = None, any_code: bool = False
) -> Iterator[Check]:
    """Yield the checks of an artifact, or of each that a shorthand names, as they are made."""
    for name in split_composition(artifact):
        name = os.path.expanduser(name)
        reading = {} if revision is None else {"revision": revision}
        if holds_table(name, revision):
            yield _made(_table, name, reading)
            continue
        for check in (_record, _tensors):
            yield _made(check, name, reading)
        yield Check(name, "code", "skipped", "--any-code") if any_code else _made(_code, name, reading)
        if backbone is None:
            yield Check(name, "backbone", "skipped", "give --backbone ID_OR_PATH to compare its fingerprint")
        else:
            yield _made(_backbone, name, reading, backbone)


def _made(check: Any, name: str, reading: dict[str, Any], *arguments: Any) -> Check:
    """Make a check, which returns what it saw or raises what is wrong."""
    try:
        return Check(name, check.__name__[1:], "ok", check(name, reading, *arguments))
    except HTTPError as error:
        return Check(name, check.__name__[1:], "failed", no_answer(error))
    except (ValueError, OSError) as error:
        return Check(name, check.__name__[1:], "failed", " ".join(str(error).split()))


def _record(name: str, reading: dict[str, Any]) -> str:
    """Compare config.json with the record that the weights carry of their save."""
    revision = reading.get("revision")
    config, (_, metadata) = config_of(name, revision), header_of(name, revision)
    if "kadapter" not in metadata:
        return "the weights carry no record, as those of early versions"
    record = json.loads(metadata["kadapter"])
    if config.get("record_digest") != digest_of(record):
        raise ValueError("config.json is of another save than the weights; save the artifact again")
    if edited := [key for key in STRUCTURE if config.get(key) != record.get(key)]:
        raise ValueError(f"{edited} in config.json were edited since it was saved; save the artifact again")
    return f"config.json belongs to the weights, record {config['record_digest']}"


def _tensors(name: str, reading: dict[str, Any]) -> str:
    """Compare all tensors with what was noted when they were saved, and look for NaN and infinite values."""
    artifact = read_artifact(name, **reading)
    for path, stored in artifact.files.items():
        if missing := sorted(stored.checksums.keys() - stored.tensors.keys()):
            raise ValueError(f"{path} lacks tensor {missing[0]!r}, which was saved; fetch the artifact again")
    artifact.check()
    return f"{len(artifact.tensors)} tensors are finite and {_noted(artifact)}"


def _noted(artifact: Artifact) -> str:
    stored = artifact.files.values()
    if any(own.checksums for own in stored):
        return "those of which checksums were saved"
    if any(own.hashes for own in stored):
        return "have the hashes that were saved"
    return "nothing else was noted of them"


def _table(name: str, reading: dict[str, Any]) -> str:
    """Compare a table of entity embeddings with the hash of its save, and look for NaN and infinite values."""
    table = EntityEmbeddings.from_pretrained(name, **reading)
    for first in range(0, len(table), ROWS):
        sound = table.embeddings[first : first + ROWS].isfinite().all(dim=1)
        if not sound.all():
            row = first + int(sound.logical_not().nonzero()[0])
            raise ValueError(
                f"the embedding in row {row} holds NaN or infinite values; import or train the table again"
            )
    size = f"{len(table)} entities of {table.knowledge_base}, {table.dimension} wide"
    return f"{size}, are finite and have the hash that was saved, {table.sha256[:12]}"


def _code(name: str, reading: dict[str, Any]) -> str:
    """Compare all Python files of an artifact with the package's."""
    files = _python_files(name, reading.get("revision"))
    ours = {file: PACKAGE / Path(file).name for file in files}
    foreign = [file for file, own in ours.items() if not own.is_file() or not own.name.endswith("_kadapter.py")]
    if foreign:
        raise ValueError(f"{foreign} are no files of kadapter; look at them before you trust them")
    paths = {file: file_of(name, file, reading.get("revision")) for file in files}
    if changed := [file for file, path in paths.items() if Path(path).read_bytes() != ours[file].read_bytes()]:
        raise ValueError(
            f"{changed} are not those of this kadapter: of another release, or changed; pass --any-code if they may "
            "be of another release, since only trust_remote_code=True runs them"
        )
    return f"{len(files)} files are equal to those of this kadapter" if files else "there is none"


def _python_files(name: str, revision: str | None) -> list[str]:
    """Return the Python files of an artifact, those in folders of a repository too."""
    if is_remote(name):
        return sorted(file for file in HfApi().list_repo_files(name, revision=revision) if file.endswith(".py"))
    return sorted(path.name for path in Path(name).glob("*.py"))


def _backbone(name: str, reading: dict[str, Any], backbone: str) -> str:
    """Compare the fingerprint of a backbone with that for which the artifact was made."""
    config = config_of(name, reading.get("revision"))
    if config.get("backbone_modified"):
        return "it was trained along, and is held by the artifact"
    pinned = config.get("backbone_fingerprint")
    if not pinned:
        raise ValueError(f"{name} notes no fingerprint: its backbone existed only in memory when it was saved")
    moved = backbone != config.get("backbone_name_or_path")
    at = {} if moved or not config.get("backbone_revision") else {"revision": config["backbone_revision"]}
    checkpoint = find_checkpoint(os.path.expanduser(backbone), at)
    if checkpoint.fingerprint != pinned:
        raise ValueError(
            f"{backbone} has fingerprint {checkpoint.fingerprint[:12]}, and {name} was made for "
            f"{config.get('backbone_name_or_path')} with {pinned[:12]}; name that backbone"
        )
    return f"{backbone} has the fingerprint {pinned[:12]} for which it was made"
