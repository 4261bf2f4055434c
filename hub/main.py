"""The `kadapter` command. What goes wrong is told in one sentence, with exit code 1."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from huggingface_hub.errors import StrictDataclassError
from typer.core import TyperGroup

from .. import __version__

__all__ = ["app"]


class OneSentenceErrors(TyperGroup):
    """Commands whose expected errors, bad input of any kind, are printed as one sentence and without a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, TypeError, StrictDataclassError) as error:
            typer.echo(f"kadapter: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from error


class Fusion(StrEnum):
    """How the outputs of adapters and backbone become one."""

    CONCAT = "concat"
    ADD = "add"


app = typer.Typer(
    cls=OneSentenceErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Directory to write; any name.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write into a directory that is in use already.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kadapter {__version__}")
        raise typer.Exit


@app.callback()
def kadapter(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Knowledge adapters beside a frozen encoder: convert official checkpoints, compose adapters."""


@app.command()
def convert(
    official: Annotated[
        Path, typer.Option(help="The official pytorch_model.bin, or a .safetensors file of its kind.")
    ],
    backbone: Annotated[str, typer.Option(help="Hub id or directory of the backbone, for example roberta-large.")],
    layers: Annotated[
        list[int],
        typer.Option(help="A tapped hidden state, 0 = embeddings; give it once for each adapter layer, in order."),
    ],
    output_dir: OutputDir,
    name: Annotated[
        str | None, typer.Option(help="The adapter's name; not needed where the file says fac_adapter or lin_adapter.")
    ] = None,
    num_attention_heads: Annotated[int, typer.Option(help="Attention heads of the adapter's blocks.")] = 12,
    skip_layers: Annotated[int, typer.Option(help="--adapter_skip_layers of the official script.")] = 0,
    keep_head: Annotated[
        bool, typer.Option("--keep-head/--drop-head", help="Convert the pre-training or task head too.")
    ] = False,
    fusion: Annotated[
        Fusion | None,
        typer.Option(help="--fusion_mode of the official script.", show_default="concat if the file has its weights"),
    ] = None,
    backbone_revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of the backbone.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make an artifact of an official checkpoint.

    A .bin or .safetensors file of the official K-Adapter code becomes a directory that AutoModel loads, exact to the
    digit. Its layout is told by its keys: pre-training, RobertaModelwithAdapter or fine-tuning.

    Example: kadapter convert --official fac-adapter/pytorch_model.bin --backbone roberta-large
    --layers 0 --layers 11 --layers 22 --name fac -o kadapter-fac
    """
    from .convert import convert_official  # torch takes seconds to import, and --help needs none
    from .outputs import describe, refuse_used, save_with_tokenizer

    refuse_used(output_dir, overwrite)
    model = convert_official(
        official,
        backbone,
        layers,
        name=name,
        num_attention_heads=num_attention_heads,
        skip_layers=skip_layers,
        keep_head=keep_head,
        fusion=None if fusion is None else fusion.value,
        backbone_revision=backbone_revision,
        report=typer.echo,
    )
    tokenizer = save_with_tokenizer(model, output_dir, [backbone])
    for line in describe(model, output_dir, tokenizer):
        typer.echo(line)
    typer.echo("to equal the official outputs pass position_ids=torch.arange(2, length + 2), padding included")


@app.command()
def compose(
    parts: Annotated[list[str], typer.Argument(help="Artifacts, each a Hub id or a directory; org/kadapter-fac+lin.")],
    output_dir: OutputDir,
    backbone: Annotated[str | None, typer.Option(help="Where the backbone is found now, if it moved.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compose adapters into one artifact.

    They belong to one backbone and are fused by addition. AutoModel loads the directory that is written.

    Example: kadapter compose org/kadapter-fac org/kadapter-lin -o org/kadapter-fac+lin
    """
    from .compose import compose as compose_parts  # torch takes seconds to import, and --help needs none

    compose_parts(parts, output_dir, backbone=backbone, overwrite=overwrite, report=typer.echo)


if __name__ == "__main__":
    app()
