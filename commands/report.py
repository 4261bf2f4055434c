"""Report which adapter helps on which task."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["run"]

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


def run(
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
    from ..reports.comparison import Resampling  # metrics and matplotlib take seconds to import
    from ..reports.report import report as report_on

    report_on(runs, output_dir, reference, Resampling(resamples, seed, confidence), tell=typer.echo)
