"""Check the artifacts of a composition before importing torch and transformers, which takes seconds.

Only paths, config.json and the header of the weights are read, so that common mistakes are reported at once. Loading
the artifacts repeats these checks and makes further ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import file_exists, hf_hub_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ._hub import no_answer

__all__ = [
    "MASKS",
    "check_artifacts",
    "check_datasets",
    "check_local",
    "check_number",
    "check_prompt",
    "check_repository",
    "check_runs",
    "config_of",
    "file_of",
    "is_remote",
    "read_header",
    "refuse_used",
]

MASKS = ("<mask>", "[mask]")
TABLE = "entity_embeddings.safetensors"  # as in embeddings_kadapter.py, which imports torch
MAX_HEADER_BYTES = 100 * 2**20  # the limit of the safetensors library


def refuse_used(directory: str | os.PathLike, overwrite: bool) -> None:
    """Refuse an output directory that is not empty, unless it may be overwritten.

    Raises:
        OSError: it is a file, or not empty and `overwrite` is not set.
    """
    path = Path(directory).expanduser()
    if path.is_file():
        raise OSError(f"can't save to {str(directory)!r}: it is a file; name a directory")
    if not overwrite and path.is_dir() and any(path.iterdir()):
        raise OSError(f"{str(path)!r} is in use already; name another directory or pass --overwrite")


def check_artifacts(artifacts: Sequence[str | os.PathLike]) -> None:
    """Check each artifact of a composition, except shorthands such as "org/kadapter-fac+lin", checked by loading.

    Raises:
        OSError: an artifact is missing, or has no configuration or weights.
        ValueError: an artifact is damaged or was not made by this project, there are fewer than two adapters, or two
            adapters have the same name or different backbones.
    """
    names = [os.path.expanduser(artifact) for artifact in artifacts]
    plain = [name for name in names if "+" not in os.path.basename(name) or os.path.isdir(name)]
    owners: dict[str, str] = {}
    pinned: dict[str, str] = {}
    for name in plain:
        config = config_of(name)
        for adapter in config.get("adapters") or {}:
            if adapter in owners:
                raise ValueError(
                    f"adapter {adapter!r} of {name} is in another part already, {owners[adapter]}; rename one by "
                    "load_adapter(id_or_path, adapter_name=...) and save_adapter"
                )
            owners[adapter] = name
        if fingerprint := config.get("backbone_fingerprint"):
            pinned.setdefault(str(fingerprint), name)
    if plain == names:
        check_number(names, len(owners))
    if len(pinned) > 1:
        (ours, first), (theirs, second), *_ = pinned.items()
        raise ValueError(
            f"{second} was made for another backbone, with fingerprint {theirs[:12]}, not {ours[:12]} as {first}; use "
            "adapters of one backbone"
        )


def check_local(artifact: str, revision: str | None = None) -> None:
    """Check what can be seen at once of an artifact on this machine, a directory or a shorthand for several.

    Raises:
        OSError: the directory above the parts of a shorthand is missing.
        ValueError: a revision is given for a directory, which has none.
    """
    where = os.path.expanduser(artifact)
    if revision is not None and os.path.isdir(where):
        raise ValueError(
            f"--revision {revision} is a commit, tag or branch of the Hub, and {artifact} is a directory; leave it out"
        )
    folder = os.path.dirname(where)
    if "+" in os.path.basename(where) and where.startswith((".", "/")) and not os.path.isdir(folder):
        raise OSError(f"no artifacts {artifact!r}: there is no directory {folder!r}; check the path")


def check_prompt(text: str, adapters: Sequence[str], backbone: str | None) -> None:
    """Check what is asked of a model, and that there is one.

    Raises:
        OSError: an adapter is missing.
        ValueError: the text has no mask, no model is named, or an artifact is damaged or was not made by this project.
    """
    if not any(mask in text.lower() for mask in MASKS):
        raise ValueError(f"the text {text!r} has no mask; write <mask> or [MASK] where the answer belongs")
    if not adapters and backbone is None:
        raise ValueError("there is nothing to ask; name a --backbone or --adapters")
    for name in map(os.path.expanduser, adapters):
        if "+" not in os.path.basename(name) or os.path.isdir(name):
            config_of(name)


def check_number(names: Sequence[str], adapters: int) -> None:
    """Raise ValueError if artifacts have fewer than two adapters in total."""
    if adapters < 2:
        raise ValueError(
            f"{' + '.join(names)} has {'only one adapter' if adapters else 'no adapter'}; name at least two artifacts"
        )


def config_of(name: str, revision: str | None = None) -> dict[str, Any]:
    """Return the configuration of an artifact, after checking that its weights are there.

    Raises:
        OSError: it is missing.
        ValueError: it is damaged, or of another model.
    """
    path = file_of(name, CONFIG_NAME, revision)
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file ({error}); fetch or save the artifact again") from error
    model_type = config.get("model_type") if isinstance(config, dict) else type(config).__name__
    if model_type != "kadapter":
        raise ValueError(f"{name} holds a model of type {model_type!r}, not 'kadapter'; name artifacts of adapters")
    if not isinstance(config.get("adapters") or {}, dict):
        raise ValueError(f"{path}: its adapters don't map names to shapes; fetch or save the artifact again")
    if os.path.isdir(name):  # weights on the Hub are fetched only when they are loaded
        read_header(file_of(name, SAFETENSORS_SINGLE_FILE))
    return config


def check_repository(repo_id: str) -> None:
    """Refuse a name that the Hub does not take.

    Raises:
        ValueError: it holds a "+", or is no name of a repository.
    """
    if "+" in repo_id:
        raise ValueError(f"the Hub takes no '+' in a name, so not {repo_id!r}; push to {repo_id.replace('+', '-')!r}")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"{repo_id!r} is no name of a repository on the Hub ({error}); give OWNER/NAME") from error


def check_datasets(names: Sequence[str]) -> None:
    """Refuse a name that no data set on the Hub can have, or CORPUS=NAME with such a name.

    Raises:
        ValueError: there is one.
    """
    for entry in names:
        validate_repo_id(entry.rpartition("=")[2])


def check_runs(directories: Sequence[Path]) -> None:
    """Check that the directories of runs are there.

    Raises:
        OSError: one is not.
    """
    for directory in directories:
        if not directory.is_dir():
            raise OSError(f"there is no directory {str(directory)!r}; name output directories of trainers/run_task.py")


def is_remote(name: str) -> bool:
    """Return whether a name is that of a repository on the Hub, OWNER/NAME, and of no directory."""
    return not (os.path.isdir(name) or name.startswith((".", "/")) or name.count("/") != 1)


def holds_table(name: str, revision: str | None = None) -> bool:
    """Return whether an artifact is a table of entity embeddings."""
    if not is_remote(name):
        return os.path.isfile(os.path.join(name, TABLE))
    try:
        return file_exists(name, TABLE, revision=revision)
    except (HTTPError, HFValidationError, OSError):
        return False  # what is wrong is said where the artifact is read


def file_of(name: str, file: str, revision: str | None = None) -> str:
    """Return the path of a file of an artifact, which is fetched from the Hub where it is no directory.

    Raises:
        OSError: there is none.
    """
    if not is_remote(name):
        path = os.path.join(name, file)
        if os.path.isfile(path):
            return path
        if os.path.isfile(os.path.join(name, TABLE)):
            raise OSError(
                f"{name!r} holds a table of entity embeddings, and no adapter; `kadapter verify` checks it, "
                f"EntityEmbeddings.from_pretrained({name!r}) reads it, and a map refers to it"
            )
        missing = f"there is no {file} in it" if os.path.isdir(name) else "there is no such directory"
        raise OSError(f"no {file} of a K-Adapter artifact at {name!r}: {missing}; check its id or path")
    try:
        return hf_hub_download(name, file, revision=revision)
    except LocalEntryNotFoundError as error:
        cause = error.__cause__
        reason = no_answer(cause) if isinstance(cause, HTTPError) else error
        raise OSError(f"no {file} of a K-Adapter artifact at {name!r}: {reason}; check its id or path") from error
    except (HTTPError, HFValidationError, OSError) as error:
        raise OSError(f"no {file} of a K-Adapter artifact at {name!r} ({error}); check its id or path") from error


def read_header(path: str) -> dict[str, Any]:
    """Return the header of a file of weights: for each tensor its dtype, shape and offsets, and `__metadata__`.

    Raises:
        ValueError: it can't be read, as of a file that was cut short.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length)) if 0 < length < MAX_HEADER_BYTES else None
        except (ValueError, RecursionError):
            header = None
    if not isinstance(header, dict):
        raise ValueError(
            f"{path} is damaged or cut short (its header can't be read); fetch or save the artifact again"
        )
    return header
