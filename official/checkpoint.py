"""Read the checkpoint files of the official K-Adapter code, and translate the names in them.

There are three layouts, recognised by their keys (as of commit 43651cd):

- pre-training (fac-adapter.py, lin-adapter.py): `adapter.0.down_project.weight`, `com_dense`, `dense`, `out_proj`, and
  `self_attention` in the linguistic adapter;
- `RobertaModelwithAdapter`: `model.*` is the backbone, `fac_adapter.adapter.0.*` and `lin_adapter.adapter.0.*` the
  adapters, `task_dense_fac`, `task_dense_lin` and `task_dense` the learned fusion;
- fine-tuning (Open Entity, FIGER, TACRED): the same without `model.*`, with the task's `dense` and `out_proj`;
  CosmosQA has `classifier` instead, and each adapter also has an untrained projection, `fac_adapter.task_dense`.
"""

import os
import pickle
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..artifacts_kadapter import all_finite

__all__ = ["OfficialCheckpoint", "load_tensors", "official_name", "read_official"]

PREFIXES = ("fac_adapter.", "lin_adapter.")  # in the order in which the official code concatenates them
BACKBONE = "model."
HEAD = ("dense.", "out_proj.", "classifier.")
PRETRAINING_HEAD = (*HEAD, "com_dense.", "self_attention.")
INNER = tuple(f"{prefix}task_dense." for prefix in PREFIXES)
# Computed but never used by the official code, or a constant that some versions of transformers store.
UNUSED = ("model.pooler.", "model.embeddings.position_ids")

ATTENTION = {
    "query": "self.query",
    "key": "self.key",
    "value": "self.value",
    "dense": "output.dense",
    "layer_norm": "output.LayerNorm",
}
BLOCK = {
    **{f"attention.{ours}": f"attention.{official}" for ours, official in ATTENTION.items()},
    "intermediate": "intermediate.dense",
    "output": "output.dense",
    "layer_norm": "output.LayerNorm",
}


@dataclass(frozen=True)
class OfficialCheckpoint:
    """The tensors of one official file under their official names."""

    where: str
    tensors: dict[str, Tensor]

    @property
    def prefixes(self) -> list[str]:
        """The prefix of each adapter's names, before "adapter."; "" in the pre-training layout."""
        prefixes = [prefix for prefix in PREFIXES if self.has(f"{prefix}adapter.")]
        return prefixes or ([""] if self.has("adapter.") else [])

    @property
    def of_pretraining(self) -> bool:
        """Whether the file has the layout of the pre-training scripts."""
        return self.prefixes == [""]

    def has(self, *starts: str) -> bool:
        """Return whether the name of any tensor starts with any of the strings."""
        return any(key.startswith(starts) for key in self.tensors)

    def shape(self, key: str) -> torch.Size:
        """Return the shape of a tensor.

        Raises:
            ValueError: there is no tensor of that name.
        """
        if key not in self.tensors:
            raise ValueError(f"{self.where} lacks tensor {key!r}; use the file as the official code saved it")
        return self.tensors[key].shape

    def number_of_layers(self, prefix: str) -> int:
        """Return the number of layers of an adapter."""
        return self._count(rf"{re.escape(prefix)}adapter\.(\d+)\.")

    def adapter_sizes(self, prefix: str) -> dict[str, int]:
        """Return the sizes of an adapter's first layer, by their names in `KnowledgeAdapterConfig`."""
        first = f"{prefix}adapter.0."
        return {
            "hidden_size": self.shape(f"{first}down_project.weight")[0],
            "num_hidden_layers": self._count(rf"{re.escape(first)}encoder\.layer\.(\d+)\."),
            "intermediate_size": self.shape(f"{first}encoder.layer.0.intermediate.dense.weight")[0],
        }

    def check(self, expected: dict[str, torch.Size], ignored: tuple[str, ...]) -> None:
        """Refuse missing, misshapen and unknown tensors, except those whose names start with an ignored prefix.

        Raises:
            ValueError: there is such a tensor; the message names it.
        """
        unknown = [key for key in self.tensors.keys() - expected if not key.startswith(ignored)]
        for problem, keys in (("lacks", expected.keys() - self.tensors), ("has unknown", unknown)):
            if keys:
                raise ValueError(
                    f"{self.where} {problem} {_some(keys)}; use the file as the official code saved it, with the "
                    "options (--fusion, --keep-head) that it was trained with"
                )
        for key, shape in expected.items():
            if self.shape(key) != shape:
                raise ValueError(
                    f"{self.where}: tensor {key!r} has shape {tuple(self.shape(key))}, and a model like its other "
                    f"tensors needs {tuple(shape)}; use the file as the official code saved it"
                )

    def _count(self, pattern: str) -> int:
        return len({match[1] for match in map(re.compile(pattern).match, self.tensors) if match})


def read_official(file: str | os.PathLike) -> OfficialCheckpoint:
    """Read a .bin or .safetensors file of the official code; nothing in it is executed.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, holds anything but tensors, or has no layout that can be converted.
    """
    path = Path(file)
    if not path.is_file():
        raise OSError(f"no file {str(path)!r}; name the pytorch_model.bin (or .safetensors) of the official code")
    checkpoint = OfficialCheckpoint(str(path), _tensors(path, load_tensors(path)))
    _check_layout(checkpoint)
    return checkpoint


def load_tensors(path: Path) -> Any:
    """Return what a .bin or .safetensors file holds, without running code in it.

    Raises:
        ValueError: it is damaged, or holds code.
    """
    if path.suffix != ".safetensors":
        return _load_pickle(path)
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged, cut short or not a safetensors file ({error}); copy it again") from error


def _load_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # about the pickle protocol, which a reader can't change
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on arbitrary bytes the restricted unpickler raises errors of any type
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and refused:
            raise ValueError(
                f"{path} holds more than tensors ({refused[1]}), and code in a file is never run; save the model's "
                "state_dict alone"
            ) from error
        reason = f"{type(error).__name__}: {error}".split("\n")[0].split(". ")[0]
        raise ValueError(
            f"{path} is damaged, cut short or not written by torch.save ({reason}), and code in a file is never run; "
            "copy it again, or save the model's state_dict alone"
        ) from error


def _tensors(path: Path, loaded: Any) -> dict[str, Tensor]:
    if not isinstance(loaded, dict) or not loaded:
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not named tensors; save the model's state_dict")
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: {key!r} is a {type(value).__name__}, not a tensor; save the model's state_dict")
        if not all_finite(value):
            raise ValueError(f"{path}: tensor {key!r} holds NaN or infinite values; copy or train it again")
    return dict(loaded)


def _check_layout(checkpoint: OfficialCheckpoint) -> None:
    """Refuse a file that holds no adapters, with the reason."""
    where = checkpoint.where
    if not checkpoint.prefixes and checkpoint.has(BACKBONE):
        raise ValueError(f"{where} holds a backbone (model.*) and no adapter; name the file of the adapters")
    if not checkpoint.prefixes:
        keys = ", ".join(sorted(checkpoint.tensors)[:3])
        raise ValueError(
            f"{where} is not a file of the official K-Adapter code: it has no adapter.0.*, fac_adapter.adapter.0.* or "
            f"lin_adapter.adapter.0.*, but {keys}, ..."
        )


def _some(keys: Iterable[str]) -> str:
    first, *others = sorted(keys)
    return f"tensor {first!r}" + (f" and {len(others)} more" if others else "")


# ---- names --------------------------------------------------------------------------------------------------------


def official_name(ours: str, prefixes: dict[str, str]) -> str:
    """Return the official name of a parameter of a `KAdapterModel` or its head, given each adapter's prefix.

    Raises:
        ValueError: the official code has no such parameter.
    """
    module, _, name = ours.partition(".")
    if module == "backbone":
        return BACKBONE + name
    if module == "adapters":
        adapter, _, name = name.partition(".")
        return prefixes[adapter] + _adapter_name(name)
    return _fusion_name(name, prefixes) if module == "fusion" else _head_name(name)


def _adapter_name(name: str) -> str:
    """Turn "layers.0.blocks.1.output.bias" into "adapter.0.encoder.layer.1.output.dense.bias"."""
    _, layer, module, *rest = name.split(".")
    if module != "blocks":
        return f"adapter.{layer}.{module}.{rest[0]}"
    block, *path, parameter = rest
    return f"adapter.{layer}.encoder.layer.{block}.{BLOCK['.'.join(path)]}.{parameter}"


def _fusion_name(name: str, prefixes: dict[str, str]) -> str:
    module, parameter = name.rsplit(".", 1)
    if module == "combine":
        return f"task_dense.{parameter}"
    if module.startswith("inner."):
        return f"{prefixes[module.removeprefix('inner.')]}task_dense.{parameter}"
    prefix = prefixes[module.removeprefix("projections.")]
    return f"task_dense_{prefix.removesuffix('_adapter.')}.{parameter}" if prefix else f"com_dense.{parameter}"


def _head_name(name: str) -> str:
    module, parameter = name.rsplit(".", 1)
    if module in ("dense", "out_proj", "classifier"):
        return name
    attention = module.removeprefix("attention.")
    if attention == module or attention not in ATTENTION:
        raise ValueError(f"the official code has no head with a parameter like {name!r}, so it has no official name")
    return f"self_attention.{ATTENTION[attention]}.{parameter}"
