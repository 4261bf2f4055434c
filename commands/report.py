"""The command `kadapter report`."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ._flags import AsJson

__all__ = ["run"]

Runs = Annotated[list[Path], typer.Argument(help="Output directories of trainers/run_task.py, or their parents.")]
ReportDir = Annotated[
    Path, typer.Option("--output-dir", "-o", help="Directory to write report.md, .csv, .png and .svg to.")
]
References = Annotated[
    list[str] | None,
    typer.Option(
        "--reference",
        help="Row that all others are compared with; repeat for several.",
        show_default="backbone, taps, random",
    ),
]
Only = Annotated[
    Path | None,
    typer.Option(help="File of the ids of examples, one in each line, to which the report is restricted."),
]
Resamples = Annotated[int, typer.Option(min=1, help="Number of resamples of the paired bootstrap.")]
Confidence = Annotated[float, typer.Option(help="Confidence level of the intervals.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the resampling.")]


def run(
    runs: Runs,
    output_dir: ReportDir = Path("report"),
    reference: References = None,
    only: Only = None,
    resamples: Resamples = 2000,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Report which adapter helps on which task, by how much, and whether by more than chance.

    Example: kadapter report runs/semeval runs/wiki80 -o report

    The table of all runs is printed and written as Markdown, CSV and a bar chart (PNG and SVG). A difference from a
    reference row is marked if the interval of the paired bootstrap over examples and seeds excludes zero.
    """
    from ._preflight import check_runs

    check_runs(runs)
    typer.echo(f"reading runs of {', '.join(map(str, runs))}", err=True)
    from ..reports.comparison import Resampling  # metrics and matplotlib take seconds to import
    from ..reports.report import lines_of
    from ..reports.report import report as report_on

    log = partial(typer.echo, err=as_json)
    table = report_on(runs, output_dir, reference, Resampling(resamples, seed, confidence), only, log=log)
    if as_json:
        typer.echo(json.dumps(lines_of(table)))
