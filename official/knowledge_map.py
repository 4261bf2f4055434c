"""Convert maps of the official map-tuning code (thunlp/Knowledge-Plugin) into ours, and ours into its files.

It stores an affine map as `Affine.bin`, {"model.weight", "model.bias"}, and after task-specific tuning as `ckpt.bin`,
which has the same under "model" beside the state of its optimizer. Outputs are equal within 1e-6.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbone_kadapter import replacing
from ..map_kadapter import KnowledgeMap, KnowledgeMapConfig
from ..modeling_kadapter import KAdapterModel
from .checkpoint import load_tensors

__all__ = ["convert_official_map", "is_official_map", "read_official_map", "write_official_map"]

NAMES = {"model.weight": "projection.weight", "model.bias": "projection.bias"}
OF_TRAINING = ("optimizer_name", "optimizer", "trained_epoch", "global_step")  # beside "model" in ckpt.bin


def is_official_map(file: str | os.PathLike) -> bool:
    """Return whether a file holds a map, and not K-Adapters.

    Raises:
        ValueError: it can't be read without running code.
    """
    loaded = load_tensors(Path(file))
    return isinstance(loaded, dict) and set(NAMES) <= set(_state(loaded))


def read_official_map(file: str | os.PathLike) -> dict[str, Tensor]:
    """Return the tensors of an official map by our names; nothing in the file is executed.

    Raises:
        OSError: there is no such file.
        ValueError: it is damaged, or holds something else than a map.
    """
    path = Path(file)
    if not path.is_file():
        raise OSError(f"no file {str(path)!r}; name the Affine.bin or ckpt.bin of the official map-tuning code")
    loaded = load_tensors(path)
    state = _state(loaded) if isinstance(loaded, dict) else {}
    if set(state) != set(NAMES) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        names = ", ".join(map(repr, sorted(map(str, state))[:3])) or type(loaded).__name__
        raise ValueError(
            f"{path} holds {names}, and an official map {' and '.join(map(repr, NAMES))} alone; name an Affine.bin, "
            "or the ckpt.bin of map-tuning"
        )
    weight, bias = (state[name] for name in NAMES)
    if weight.dim() != 2 or bias.shape != weight.shape[:1] or not all(map(_finite, (weight, bias))):
        shapes = f"{tuple(weight.shape)} and {tuple(bias.shape)}"
        raise ValueError(
            f"{path}: 'model.weight' and 'model.bias' of shapes {shapes} make no affine map of finite numbers; copy "
            "the file again"
        )
    return {ours: state[theirs].float() for theirs, ours in NAMES.items()}


def _state(loaded: dict[str, Any]) -> dict[str, Any]:
    nested = loaded.get("model")
    return nested if isinstance(nested, dict) and set(loaded) <= {"model", *OF_TRAINING} else loaded


def _finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def convert_official_map(
    file: str | os.PathLike,
    backbone: Any,
    name: str,
    backbone_revision: str | None = None,
    entity_embeddings: Any = None,
    **config: Any,
) -> KAdapterModel:
    """Return a model with the map of an official file before its encoder, ready for `save_pretrained`.

    Args:
        file: Affine.bin or ckpt.bin.
        backbone: Hub id, directory or module of the encoder into whose input embeddings it maps.
        name: name of the map in the model.
        backbone_revision: commit, tag or branch of the backbone.
        entity_embeddings: the table that it was trained with, to which the artifact will refer.
        **config: other fields of `KnowledgeMapConfig`.

    Raises:
        OSError: the file or the backbone can't be found.
        ValueError: the file holds no map, or one of other widths than the encoder or the table has.
    """
    tensors = read_official_map(file)
    values = {"training": {"corpus": f"official checkpoint {Path(file).name}"}, **config}
    size, width = tensors["projection.weight"].shape[1], tensors["projection.weight"].shape[0]
    if entity_embeddings is not None:
        values = {**KnowledgeMapConfig.for_table(entity_embeddings).to_dict(), **values}
        if entity_embeddings.dimension != size:
            raise ValueError(
                f"{file} maps entity embeddings of width {size}, and those of the table have "
                f"{entity_embeddings.dimension}; name the table that the map was trained with"
            )
    options = {} if isinstance(backbone, torch.nn.Module) else {"revision": backbone_revision, "dtype": torch.float32}
    model = KAdapterModel.from_backbone(backbone, **options)
    model.add_adapter(
        name, KnowledgeMapConfig.from_dict({**values, "knowledge_size": size, "embedding_size": width, "kind": "map"})
    )
    own = model.adapters[name]
    own.load_state_dict({**own.state_dict(), **tensors})
    return model.eval()


def write_official_map(knowledge_map: KnowledgeMap, file: str | os.PathLike) -> None:
    """Write an affine map as the official code's Affine.bin.

    Raises:
        OSError: it can't be written; what was there before is untouched.
        ValueError: it is no affine map with a bias, which is all that the official code has.
    """
    config = knowledge_map.config
    if config.num_hidden_layers or not config.use_bias:
        raise ValueError(
            f"the official code has affine maps alone, and this map has num_hidden_layers={config.num_hidden_layers} "
            f"and use_bias={config.use_bias}; keep it in our format"
        )
    state = knowledge_map.state_dict()
    with replacing(Path(file)) as partial:
        torch.save({theirs: state[ours].float().cpu().contiguous() for theirs, ours in NAMES.items()}, partial)
