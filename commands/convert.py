"""The command `kadapter convert`."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ._flags import AsJson, OutputDir, Overwrite

__all__ = ["run"]

OF_FILES = (".bin", ".pt", ".safetensors")  # which are no names for a directory

Official = Annotated[
    Path | None,
    typer.Option(
        help="The official pytorch_model.bin of adapters, or Affine.bin or ckpt.bin of a knowledge map; also as "
        ".safetensors."
    ),
]
Artifact = Annotated[
    str | None,
    typer.Option(help="Instead of --official: our artifact of a knowledge map, to be written as Affine.bin."),
]
Backbone = Annotated[str | None, typer.Option(help="Hub id or directory of the backbone, for example roberta-large.")]
BackboneRevision = Annotated[str | None, typer.Option(help="Commit, tag or branch of the backbone.")]
Layers = Annotated[
    list[int] | None,
    typer.Option(help="Hidden state that an adapter layer reads (0 = embeddings); repeat for each layer, in order."),
]
Embeddings = Annotated[
    str | None, typer.Option(help="Entity embeddings that the map was trained with, to which its artifact refers.")
]
MissingEntity = Annotated[
    Literal["skip", "bias"] | None,
    typer.Option(
        help='What the map does with entities that its table lacks: "bias" as in the official tasks, "skip" as in '
        "general training.",
        show_default="skip",
    ),
]
Name = Annotated[
    str | None, typer.Option(help="Name of the adapter; not needed if the file contains fac_adapter or lin_adapter.")
]
AttentionHeads = Annotated[int, typer.Option(help="Attention heads in each block of the adapter.")]
SkipLayers = Annotated[int, typer.Option(help="--adapter_skip_layers of the official script.")]
KeepHead = Annotated[bool, typer.Option("--keep-head/--drop-head", help="Convert the pre-training or task head too.")]
FusionMode = Annotated[
    Literal["concat", "add"] | None,
    typer.Option(help="--fusion_mode of the official script.", show_default="concat if the file has its weights"),
]


def run(
    output_dir: OutputDir,
    official: Official = None,
    artifact: Artifact = None,
    backbone: Backbone = None,
    layers: Layers = None,
    name: Name = None,
    num_attention_heads: AttentionHeads = 12,
    skip_layers: SkipLayers = 0,
    keep_head: KeepHead = False,
    fusion: FusionMode = None,
    backbone_revision: BackboneRevision = None,
    entity_embeddings: Embeddings = None,
    missing_entity: MissingEntity = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Convert an official checkpoint into an artifact, or a knowledge map into an official file.

    Example: kadapter convert --official fac-adapter/pytorch_model.bin --backbone roberta-large
    --layers 0 --layers 11 --layers 22 --name fac -o kadapter-fac

    Example: kadapter convert --official Affine.bin --backbone bert-base-uncased --name wikidata -o kadapter-map

    The artifact computes what the official code computed; adapters, if called with position_ids=torch.arange(2,
    length + 2). The layout (pre-training, RobertaModelwithAdapter, fine-tuning or map) is recognised by the names in
    the file.
    """
    _check(output_dir, official, artifact, overwrite)
    if artifact is not None:
        _write_official(artifact, name, output_dir, as_json)
        return
    if official is None or not official.is_file():
        raise OSError(f"no file {str(official)!r}; give the official pytorch_model.bin, or a .safetensors file")
    if backbone is None:
        raise ValueError("--backbone is missing; give the Hub id or directory of the encoder of the file")
    typer.echo(f"converting {official}", err=True)
    from ..artifacts_kadapter import check_destination  # after the checks, since torch takes seconds to import
    from ..official.knowledge_map import is_official_map
    from ._writing import tell

    check_destination(output_dir, sources=[backbone, official.parent])
    if is_official_map(official):
        config = {} if missing_entity is None else {"missing_entity": missing_entity}
        model = _map(official, backbone, name, backbone_revision, entity_embeddings, **config)
    elif missing_entity is not None:
        raise ValueError(f"{official} holds adapters, which read no entities; leave out --missing-entity")
    else:
        shape: dict[str, Any] = {"num_attention_heads": num_attention_heads, "skip_layers": skip_layers}
        shape.update(keep_head=keep_head, fusion=fusion, backbone_revision=backbone_revision)
        model = _adapters(official, backbone, layers or [], as_json, name=name, **shape)
    model.save_pretrained(output_dir)
    tell(model, output_dir, as_json)


def _check(output_dir: Path, official: Path | None, artifact: str | None, overwrite: bool) -> None:
    """Refuse a destination that can't be used, and all but one source."""
    from ._preflight import refuse_used

    if output_dir.suffix in OF_FILES:
        raise ValueError(f"--output-dir {output_dir} is the name of a file; name a directory, which may hold others")
    refuse_used(output_dir, overwrite)
    if (official is None) == (artifact is None):
        raise ValueError("give --official FILE to convert it, or --artifact ID_OR_PATH to write Affine.bin of it")


def _adapters(official: Path, backbone: str, layers: list[int], as_json: bool, **options: Any) -> Any:
    """Return the model of official adapters."""
    from ..official.convert import convert_official

    return convert_official(official, backbone, layers, log=partial(typer.echo, err=as_json), **options)


def _map(
    official: Path, backbone: str, name: str | None, revision: str | None, embeddings: str | None, **config: Any
) -> Any:
    """Return the model of an official map."""
    from ..embeddings_kadapter import EntityEmbeddings
    from ..official.knowledge_map import convert_official_map

    if name is None:
        raise ValueError(f"{official} does not name its knowledge base; pass a name, for example --name wikidata")
    table = None if embeddings is None else EntityEmbeddings.from_pretrained(embeddings)
    return convert_official_map(official, backbone, name, revision, table, **config)


def _write_official(artifact: str, name: str | None, output_dir: Path, as_json: bool) -> None:
    """Write the map of an artifact as Affine.bin."""
    from ._preflight import config_of

    config_of(os.path.expanduser(artifact))
    typer.echo(f"converting {artifact}", err=True)
    from ..map_kadapter import KnowledgeMap
    from ..official.knowledge_map import write_official_map

    knowledge_map = KnowledgeMap.from_pretrained(artifact, name)
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / "Affine.bin"
    write_official_map(knowledge_map, path)
    if as_json:
        typer.echo(json.dumps({"path": str(output_dir), "files": {path.name: path.stat().st_size}}))
        return
    typer.echo(f"saved the map of {artifact} to {output_dir / 'Affine.bin'}, as the official code reads it")
