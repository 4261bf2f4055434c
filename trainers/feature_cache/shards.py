"""Shards of a feature cache: hidden states without padding, in atomically written files named by their checksum."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...backbone_kadapter import replacing
from ..common.checkpoints import checksum

__all__ = ["KEY", "PATTERN", "Layout", "Shard", "key_of", "read_shard", "write_shard"]

KEY = "S16"  # numpy's name for 16 bytes
PATTERN = "*.safetensors"
KEY_AND_LENGTH = 16 + torch.int64.itemsize  # bytes that they take for each example


class Layout(NamedTuple):
    """What is kept of a token, and in which form.

    Args:
        layers: the hidden states in ascending order, 0 = embeddings; the last of them is the backbone's last, whether
            it is named -1 or by its number.
        width: size of each hidden state.
        stored: dtype in the files, None for that of the states; int8 has an additional scale for each token and layer.
        read: dtype in which the states are returned, None for that of the files.
        filed: the hidden states in the files, if these hold more than `layers`; None for the same.
    """

    layers: tuple[int, ...]
    width: int
    stored: torch.dtype | None = None
    read: torch.dtype | None = None
    filed: tuple[int, ...] | None = None

    def within(self, filed: tuple[int, ...]) -> Layout | None:
        """Return how these layers are read from files that hold others too; None if one is not in them.

        The last of a file is the backbone's last hidden state by whatever name.
        """
        there = {*filed, -1}
        return self._replace(filed=filed) if there.issuperset(self.layers) else None

    def chosen(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return of stored tensors (tokens, layers in the files, ...) those of the layers, (tokens, layers, ...)."""
        if self.filed is None:
            return stored
        places = [len(self.filed) - 1 if layer == -1 else self.filed.index(layer) for layer in self.layers]
        return {name: tensor[:, places] for name, tensor in stored.items()}

    def bytes_of(self, lengths: np.ndarray) -> np.ndarray:
        """Return the bytes that examples of these lengths in tokens take, including their keys and lengths."""
        scale = torch.float32.itemsize if self.stored == torch.int8 else 0
        itemsize = (self.stored or torch.float32).itemsize
        return lengths * len(self.layers) * (self.width * itemsize + scale) + KEY_AND_LENGTH

    def by_layer(self, states: Tensor) -> dict[int, Tensor]:
        """Return states (layers, ...) by their layer, the last one also as -1."""
        return {**dict(zip(self.layers, states, strict=True)), -1: states[-1]}

    def encode(self, states: Tensor) -> dict[str, Tensor]:
        """Convert states (..., width) to their stored form; this is lossless if both dtypes are equal."""
        if self.stored != torch.int8:
            return {"states": states.to(dtype=self.stored)}
        states = states.float()
        scales = states.abs().amax(dim=-1).clamp(min=torch.finfo(torch.float32).tiny) / 127  # (...)
        return {"states": (states / scales[..., None]).round().to(torch.int8), "scales": scales}

    def decode(self, stored: dict[str, Tensor]) -> Tensor:
        """Convert the stored form to states (..., width)."""
        if self.stored != torch.int8:
            return stored["states"].to(dtype=self.read)
        return (stored["states"].float() * stored["scales"][..., None]).to(self.read)


class Shard(NamedTuple):
    """A memory-mapped file: the keys of its examples, where each begins, and the stored tensors of their tokens."""

    keys: np.ndarray
    starts: np.ndarray
    stored: dict[str, Tensor]

    def example(self, index: int) -> dict[str, Tensor]:
        """Return the stored tensors of an example, (tokens, layers, ...) each."""
        return {name: tensor[self.starts[index] : self.starts[index + 1]] for name, tensor in self.stored.items()}


def key_of(inputs: Any) -> bytes:
    """Return the key of an example's states: a hash of what the model reads of it, such as the list of token ids."""
    return blake2b(json.dumps(inputs).encode(), digest_size=16).digest()


def write_shard(
    folder: Path, keys: np.ndarray, examples: list[dict[str, Tensor]], room: Callable[[], float]
) -> Path | None:
    """Write these examples to a temporary file, name it by its checksum when it is complete, and return its path.

    Return None if it takes too much room. The folder's name, which stands for everything that states depend on apart
    from the example, is stored in the file. The file gets its size before `room` is asked, so that processes which
    write at the same time account for each other.

    Raises:
        OSError: it can't be written; nothing of it is left.
    """
    tensors = {name: torch.cat([example[name] for example in examples]) for name in examples[0]}
    tensors["lengths"] = torch.tensor([len(example["states"]) for example in examples])
    tensors["keys"] = torch.from_numpy(keys.view(np.uint8).reshape(-1, 16).copy())
    data = save(tensors, {"folder": folder.name})
    path = folder / f"{blake2b(data, digest_size=16).hexdigest()}.safetensors"
    with replacing(path) as partial, partial.open("wb") as file:
        file.truncate(len(data))
        if room() < 0:
            partial.unlink()
            return None
        file.write(data)
    return path


def read_shard(path: Path, layout: Layout) -> Shard:
    """Open a shard after checking that it is the one its name says.

    Raises:
        OSError: it can't be read.
        ValueError: it was cut short or changed, comes from another folder, or holds something else.
    """
    if checksum(path) != path.stem:
        raise ValueError("it was cut short or changed")
    try:
        with safe_open(path, framework="pt") as file:
            made_in = (file.metadata() or {}).get("folder")
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if made_in != path.parent.name:
            raise ValueError(f"it was made in {made_in!r}, for another backbone, other layers or another precision")
        lengths, keys = stored.pop("lengths").numpy(), stored.pop("keys").numpy()
        shape = (int(lengths.sum()), len(layout.filed or layout.layers), layout.width)
        if stored["states"].shape != shape:
            raise ValueError(f"its states are {tuple(stored['states'].shape)} and must be {shape}")
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"it is no shard ({error})") from error
    return Shard(np.ascontiguousarray(keys).view(KEY)[:, 0], np.concatenate([[0], lengths.cumsum()]), stored)
