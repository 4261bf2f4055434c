"""Shards of a feature cache: hidden states without padding, in files written at once and named by their checksum."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...backbone_kadapter import replacing
from ..common.checkpoints import checksum

__all__ = [
    "KEY",
    "PATTERN",
    "Layout",
    "Shard",
    "key_of",
    "read_checked",
    "read_shard",
    "write_checked",
    "write_shard",
]

KEY = "S16"  # numpy's name for 16 bytes
PATTERN = "*.safetensors"
OF_AN_EXAMPLE = 16 + torch.int64.itemsize  # bytes of its key and its length


class Layout(NamedTuple):
    """What is kept of one token, and in which form.

    Args:
        layers: the hidden states in ascending order, 0 = embeddings; the last of them is the backbone's last, whether
            it is named -1 or by its number.
        width: numbers in each.
        stored: dtype in the files; int8 has a scale for each token and layer beside it.
        read: dtype in which they are handed out.
    """

    layers: tuple[int, ...]
    width: int
    stored: torch.dtype
    read: torch.dtype

    def bytes_of(self, lengths: np.ndarray) -> np.ndarray:
        """Return the bytes that examples of these lengths in tokens take, each with its key and length."""
        scale = torch.float32.itemsize if self.stored == torch.int8 else 0
        return lengths * len(self.layers) * (self.width * self.stored.itemsize + scale) + OF_AN_EXAMPLE

    def by_layer(self, states: Tensor) -> dict[int, Tensor]:
        """Return states (layers, ...) by their layer, the last of the backbone also as -1."""
        return {**dict(zip(self.layers, states, strict=True)), -1: states[-1]}

    def encode(self, states: Tensor) -> dict[str, Tensor]:
        """Turn states (..., width) into what is stored of them; nothing is lost where both dtypes are one."""
        if self.stored != torch.int8:
            return {"states": states.to(self.stored)}
        states = states.float()
        scales = states.abs().amax(dim=-1).clamp(min=torch.finfo(torch.float32).tiny) / 127  # (...)
        return {"states": (states / scales[..., None]).round().to(torch.int8), "scales": scales}

    def decode(self, stored: dict[str, Tensor]) -> Tensor:
        """Turn what is stored into states (..., width)."""
        if self.stored != torch.int8:
            return stored["states"].to(self.read)
        return (stored["states"].float() * stored["scales"][..., None]).to(self.read)


class Shard(NamedTuple):
    """One file, memory-mapped: the keys of its examples, where each begins, and what is stored of their tokens."""

    keys: np.ndarray
    starts: np.ndarray
    stored: dict[str, Tensor]

    def example(self, row: int) -> dict[str, Tensor]:
        """Return what is stored of one example, (tokens, layers, ...) each."""
        return {name: one[self.starts[row] : self.starts[row + 1]] for name, one in self.stored.items()}


def key_of(input_ids: list[int]) -> bytes:
    """Return what an example's states are found by: all that they depend on beside the backbone is its token ids."""
    return blake2b(np.asarray(input_ids, dtype=np.int64).tobytes(), digest_size=16).digest()


def write_checked(folder: Path, tensors: dict[str, Tensor], room: Callable[[], float] = lambda: np.inf) -> Path | None:
    """Write tensors aside, name the file by its checksum when it is complete, and return its path.

    None is returned where it takes too much room. The folder's name, which stands for all that states depend on beside
    the example, is in the file too. The file has its size before `room` is asked, so that of several which are written
    at once none overlooks the others.

    Raises:
        OSError: it can't be written; nothing of it is left.
    """
    data = save(tensors, {"folder": folder.name})
    path = folder / f"{blake2b(data, digest_size=16).hexdigest()}.safetensors"
    with replacing(path) as partial, partial.open("wb") as file:
        file.truncate(len(data))
        if room() < 0:
            partial.unlink()
            return None
        file.write(data)
    return path


def read_checked(path: Path) -> dict[str, Tensor]:
    """Open the tensors of a file that is what its name says.

    Raises:
        OSError: it can't be read.
        ValueError: it was cut short or changed, comes from another folder, or holds something else.
    """
    if checksum(path) != path.stem:
        raise ValueError("it was cut short or changed")
    try:
        with safe_open(path, framework="pt") as file:
            made_in = (file.metadata() or {}).get("folder")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(f"it is no shard ({error})") from error
    if made_in != path.parent.name:
        raise ValueError(f"it was made in {made_in!r}, for another backbone, other layers or another precision")
    return tensors


def write_shard(
    folder: Path, keys: np.ndarray, examples: list[dict[str, Tensor]], room: Callable[[], float]
) -> Path | None:
    """Write a shard of these examples and return its path, None where it takes too much room.

    Raises:
        OSError: it can't be written; nothing of it is left.
    """
    stored = {name: torch.cat([one[name] for one in examples]) for name in examples[0]}
    lengths = torch.tensor([len(one["states"]) for one in examples])
    known_by = torch.from_numpy(keys.view(np.uint8).reshape(-1, 16).copy())
    return write_checked(folder, {**stored, "lengths": lengths, "keys": known_by}, room)


def read_shard(path: Path, layout: Layout) -> Shard:
    """Open a shard that is what its name says.

    Raises:
        OSError: it can't be read.
        ValueError: it was cut short or changed, comes from another folder, or holds something else.
    """
    stored = read_checked(path)
    try:
        lengths, keys = stored.pop("lengths").numpy(), stored.pop("keys").numpy()
        shape = (int(lengths.sum()), len(layout.layers), layout.width)
        if stored["states"].shape != shape or stored["states"].dtype != layout.stored:
            raise ValueError(f"its states are {tuple(stored['states'].shape)} and must be {shape}")
    except KeyError as error:
        raise ValueError(f"it is no shard ({error})") from error
    return Shard(np.ascontiguousarray(keys).view(KEY)[:, 0], np.concatenate([[0], lengths.cumsum()]), stored)
