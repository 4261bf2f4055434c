"""The command `kadapter convert`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ._flags import OutputDir, Overwrite

__all__ = ["run"]


Official = Annotated[Path, typer.Option(help="The official pytorch_model.bin, or the same as .safetensors.")]
Backbone = Annotated[str, typer.Option(help="Hub id or directory of the backbone, for example roberta-large.")]
BackboneRevision = Annotated[str | None, typer.Option(help="Commit, tag or branch of the backbone.")]
Layers = Annotated[
    list[int],
    typer.Option(help="Hidden state that an adapter layer reads (0 = embeddings); repeat for each layer, in order."),
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
    official: Official,
    backbone: Backbone,
    layers: Layers,
    output_dir: OutputDir,
    name: Name = None,
    num_attention_heads: AttentionHeads = 12,
    skip_layers: SkipLayers = 0,
    keep_head: KeepHead = False,
    fusion: FusionMode = None,
    backbone_revision: BackboneRevision = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert an official checkpoint into an artifact.

    The artifact computes what the official code computed if called with position_ids=torch.arange(2, length + 2).
    The layout (pre-training, RobertaModelwithAdapter or fine-tuning) is recognised by the names in the file.

    Example: kadapter convert --official fac-adapter/pytorch_model.bin --backbone roberta-large
    --layers 0 --layers 11 --layers 22 --name fac -o kadapter-fac
    """
    from ._preflight import refuse_used

    refuse_used(output_dir, overwrite)
    if not official.is_file():
        raise OSError(f"no file {str(official)!r}; give the official pytorch_model.bin, or a .safetensors file")
    from ..artifacts_kadapter import check_destination  # after the checks, since torch takes seconds to import
    from ..official.convert import convert_official
    from ._writing import describe

    check_destination(output_dir, sources=[backbone, official.parent])
    model = convert_official(
        official,
        backbone,
        layers,
        name=name,
        num_attention_heads=num_attention_heads,
        skip_layers=skip_layers,
        keep_head=keep_head,
        fusion=fusion,
        backbone_revision=backbone_revision,
        log=typer.echo,
    )
    model.save_pretrained(output_dir)
    describe(model, output_dir, typer.echo)
