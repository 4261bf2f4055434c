"""The golden cases of the official code, as the files that its users have: from tests/golden and from ../shared."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import RobertaConfig, RobertaModel

SMALL = Path(__file__).parents[1] / "golden"
SHARED = Path(__file__).parents[2].parent / "shared" / "golden" / "kadapter"
LAYERS, HEADS = [0, 2, 4], 4


@dataclass(frozen=True)
class Case:
    """One official model with its inputs, outputs and gradients; `sampled` gradients are every n-th entry of each.

    `backbone_grad_norm` is of all gradients of the backbone, where it was trained along.
    """

    name: str
    layers: list[int]
    heads: int
    backbone_heads: int
    skip_layers: int
    tensors: dict[str, Tensor]
    backbone: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    grads: dict[str, Tensor]
    sampled: bool
    backbone_grad_norm: float | None = None

    @property
    def adapter_name(self) -> str:
        return "lin" if "lin" in self.name and "fac" not in self.name else "fac"

    def options(self) -> list[str]:
        """What the command line needs to know of this model beside its file."""
        layers = [word for layer in self.layers for word in ("--layers", str(layer))]
        return [*layers, "--num-attention-heads", str(self.heads), "--skip-layers", str(self.skip_layers)]

    def model_inputs(self) -> dict[str, Tensor]:
        """The inputs under our names, with the official position ids."""
        ids = self.inputs["input_ids"]
        given = {key: self.inputs[key] for key in ("input_ids", "attention_mask", "labels") if key in self.inputs}
        given["position_ids"] = torch.arange(2, ids.shape[-1] + 2).expand_as(ids)
        marks = ("subj_special_start_id", "obj_special_start_id", "start_id")
        positions = [self.inputs[key].argmax(dim=1) for key in marks if key in self.inputs]
        if positions:
            given["entity_positions"] = torch.stack(positions, dim=1)
        return given


def wrapped(*adapters: str) -> dict[str, Tensor]:
    """The adapters of the small cases, as every official model but the pre-training ones holds them."""
    tensors = {}
    for name in adapters:
        for key, one in load_file(SMALL / f"{name}.safetensors").items():
            if key.startswith("adapter."):
                tensors[f"{name}_adapter.{key}"] = one.clone()
    return tensors


def small_case(name: str) -> Case:
    """A case of tests/golden, its file put together from the weights that the cases share."""
    parts: dict[str, dict[str, Tensor]] = {"inputs": {}, "outputs": {}, "grads": {}, "model": {}}
    for key, one in load_file(SMALL / f"{name}.safetensors").items():
        part, _, rest = key.partition(".")
        parts[part][rest] = one
    backbone = load_file(SMALL / "backbone.safetensors")
    own, norm = parts.pop("model"), parts["outputs"].pop("backbone_grad_norm", None)
    if name.startswith("pretrain"):
        tensors = load_file(SMALL / f"{name[9:12]}.safetensors")
    elif own:  # a fine-tuned model without its backbone
        adapters = wrapped(*(one for one in ("fac", "lin") if one[0].upper() in name.rpartition(".")[2]))
        tensors = {**own, **adapters, **(load_file(SMALL / "task.safetensors") if "concat" in name else {})}
    else:
        tensors = {**backbone, **wrapped(*(one for one in ("fac", "lin") if one in name))}
    if name.endswith("concat"):
        unused = {"fac_lin": ("none",), "single_fac": ("task_dense_lin",), "single_lin": ("task_dense_fac",)}
        task = load_file(SMALL / "task.safetensors")
        left_out = unused[name.split(".")[1].removesuffix("_concat")]
        tensors.update({key: one for key, one in task.items() if not key.startswith(left_out)})
    skip = int(name[-1]) if "skip" in name else 0
    norm = None if norm is None else norm.item()
    return Case(name, LAYERS, HEADS, HEADS, skip, tensors, backbone, **parts, sampled=not own, backbone_grad_norm=norm)


def shared_case(name: str) -> Case:
    """A case of ../shared/golden/kadapter, whatever its sizes."""
    told = json.loads((SHARED / f"{name}.json").read_text())
    parts = {}
    for part in ("model", "inputs", "outputs", "grads"):
        file = SHARED / f"{name}.{part}.safetensors"
        parts[part] = load_file(file) if file.exists() else {}
    return Case(
        name,
        told["args"]["adapter_list"],
        told["adapter_dims"]["heads"],
        told["roberta_config"]["num_attention_heads"],
        told["args"]["adapter_skip_layers"],
        parts.pop("model"),
        load_file(SHARED / f"{name.split('.')[0]}.backbone.safetensors"),
        **parts,
        sampled=False,
        backbone_grad_norm=told.get("backbone_grad_norm"),
    )


def cases(*kinds: str, small: bool = True) -> list:
    """All cases whose names begin so, each as a parameter that makes it; without ../shared one that is skipped."""
    files = [file for file in sorted(SMALL.glob("*.safetensors")) if small and file.name.startswith(kinds)]
    found = [pytest.param((small_case, file.stem), id=file.stem) for file in files]
    names = [file.stem for file in sorted(SHARED.glob("*.json")) if file.name.partition(".")[2].startswith(kinds)]
    if not names:
        reason = "../shared/golden/kadapter is not here"
        return [*found, pytest.param(None, id="shared", marks=pytest.mark.skip(reason=reason))]
    return found + [pytest.param((shared_case, name), id=f"shared-{name}") for name in names]


def save_backbone(tensors: dict[str, Tensor], heads: int, folder: Path) -> Path:
    """Save the backbone of a case as a checkpoint of transformers."""
    shapes = {key.removeprefix("model."): one.shape for key, one in tensors.items()}
    blocks = [key for key in shapes if key.endswith("intermediate.dense.weight")]
    config = RobertaConfig(
        vocab_size=shapes["embeddings.word_embeddings.weight"][0],
        hidden_size=shapes["embeddings.word_embeddings.weight"][1],
        num_hidden_layers=len(blocks),
        num_attention_heads=heads,
        intermediate_size=shapes[blocks[0]][0],
        max_position_embeddings=shapes["embeddings.position_embeddings.weight"][0],
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
    )
    model = RobertaModel(config, add_pooling_layer=False)
    kept = {key.removeprefix("model."): one for key, one in tensors.items() if "pooler" not in key}
    model.load_state_dict(kept)
    model.save_pretrained(folder)
    return folder


def save_official(tensors: dict[str, Tensor], file: Path) -> Path:
    """Save tensors as an official file, .bin or .safetensors."""
    if file.suffix == ".bin":
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    return file
