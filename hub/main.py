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
Official = Annotated[Path, typer.Option(help="The official pytorch_model.bin, or a .safetensors file of its kind.")]
Backbone = Annotated[str, typer.Option(help="Hub id or directory of the backbone, for example roberta-large.")]
BackboneRevision = Annotated[str | None, typer.Option(help="Commit, tag or branch of the backbone.")]
MovedBackbone = Annotated[str | None, typer.Option(help="Where the backbone is found now, if it moved.")]
Layers = Annotated[
    list[int],
    typer.Option(help="A tapped hidden state, 0 = embeddings; give it once for each adapter layer, in order."),
]
Name = Annotated[
    str | None, typer.Option(help="The adapter's name; not needed where the file says fac_adapter or lin_adapter.")
]
AttentionHeads = Annotated[int, typer.Option(help="Attention heads of the adapter's blocks.")]
SkipLayers = Annotated[int, typer.Option(help="--adapter_skip_layers of the official script.")]
KeepHead = Annotated[bool, typer.Option("--keep-head/--drop-head", help="Convert the pre-training or task head too.")]
FusionMode = Annotated[
    Fusion | None,
    typer.Option(help="--fusion_mode of the official script.", show_default="concat if the file has its weights"),
]
Parts = Annotated[list[str], typer.Argument(help="Artifacts, each a Hub id or a directory; org/kadapter-fac+lin.")]
OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Directory to write; any name.")]
Runs = Annotated[list[Path], typer.Argument(help="Output directories of trainers/run_task.py, or what holds them.")]
ReportDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Directory of report.md, .csv, .png and .svg.")]
References = Annotated[
    list[str] | None,
    typer.Option(
        "--reference",
        help="A row to which all others are compared; give it once for each.",
        show_default="backbone, taps, random",
    ),
]
Resamples = Annotated[int, typer.Option(min=1, help="Resamples of the paired bootstrap.")]
Confidence = Annotated[float, typer.Option(help="How much of the resamples an interval holds.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the resamples.")]
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
    """Knowledge adapters beside a frozen encoder: convert official checkpoints, compose adapters, report on runs."""


@app.command()
def convert(
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
    """Make an artifact of an official checkpoint.

    The directory computes what the official code computed, given position_ids=torch.arange(2, length + 2).
    The layout is told by the file's keys: pre-training, RobertaModelwithAdapter or fine-tuning.

    Example: kadapter convert --official fac-adapter/pytorch_model.bin --backbone roberta-large
    --layers 0 --layers 11 --layers 22 --name fac -o kadapter-fac
    """
    from .preflight import refuse_used

    refuse_used(output_dir, overwrite)
    if not official.is_file():
        raise OSError(f"no file {str(official)!r}; give the official pytorch_model.bin, or a .safetensors file")
    from ..artifacts_kadapter import check_destination  # torch takes seconds to import, and a refusal needs none
    from .convert import convert_official
    from .outputs import describe

    check_destination(output_dir, sources=[backbone, official.parent])
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
    model.save_pretrained(output_dir)
    describe(model, output_dir, typer.echo)


@app.command()
def compose(parts: Parts, output_dir: OutputDir, backbone: MovedBackbone = None, overwrite: Overwrite = False) -> None:
    """Compose adapters into one artifact.

    They belong to one backbone and are fused by addition. AutoModel loads the directory that is written.

    Example: kadapter compose org/kadapter-fac org/kadapter-lin -o org/kadapter-fac+lin
    """
    from .preflight import look_over, refuse_used

    refuse_used(output_dir, overwrite)
    look_over(parts)
    typer.echo(f"composing {' + '.join(parts)}")
    from .compose import compose as compose_parts  # torch takes seconds to import, and a refusal needs none

    compose_parts(parts, output_dir, backbone=backbone, overwrite=overwrite, report=typer.echo)


@app.command()
def report(
    runs: Runs,
    output_dir: ReportDir = Path("report"),
    reference: References = None,
    resamples: Resamples = 2000,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
) -> None:
    """Tell which adapter helps on which task, by how much, and whether that is more than chance.

    Prints one table of all runs and writes it as Markdown, CSV and a bar chart (PNG and SVG). A difference to a
    reference row is marked where the interval of the paired bootstrap over examples and seeds excludes zero.

    Example: kadapter report runs/semeval runs/wiki80 -o report
    """
    from .comparison import Resampling  # metrics and matplotlib take seconds to import, and --help needs none
    from .report import report as report_on

    report_on(runs, output_dir, reference, Resampling(resamples, seed, confidence), tell=typer.echo)


if __name__ == "__main__":
    app()
