"""The command `kadapter card`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ._flags import AsJson

__all__ = ["run"]

Artifact = Annotated[Path, typer.Argument(help="Directory of the artifact.")]
Runs = Annotated[
    list[Path] | None,
    typer.Option("--runs", help="Runs of trainers/run_task.py, or their parents, to stand beside; repeatable."),
]
License = Annotated[str | None, typer.Option("--license", help="Licence of the artifact, as the Hub names it.")]
Language = Annotated[list[str] | None, typer.Option("--language", help="Language of its texts; repeatable.")]
Dataset = Annotated[
    list[str] | None,
    typer.Option(help="Name that its data set has on the Hub, or CORPUS=NAME for one of several; repeatable."),
]


def run(
    artifact: Artifact,
    runs: Runs = None,
    license_name: License = None,
    language: Language = None,
    dataset: Dataset = None,
    as_json: AsJson = False,
) -> None:
    """Write an artifact's card anew, with results beside baseline and controls.

    Example: kadapter card kadapter-fac --runs runs/wiki80 --license mit --language en

    The card keeps what the training wrote; licence, languages and data sets stay for every later save. Results on a
    data set that has a name on the Hub also go to .eval_results, which the Hub shows. A card that somebody edited
    stays as it is: delete it to have it written anew.
    """
    from ._preflight import check_datasets, check_runs, config_of

    where = artifact.expanduser()
    if not where.is_dir():
        raise OSError(f"there is no directory {str(artifact)!r}; name the directory of an artifact")
    config_of(str(where))
    check_runs(runs or [])
    check_datasets(dataset or [])
    typer.echo(f"reading {artifact}", err=True)
    from ._describing import describe  # torch takes seconds to import

    written = describe(where, runs or [], license_name, language or [], dataset or [])
    if as_json:
        typer.echo(json.dumps({"artifact": str(artifact), "written": written}))
    else:
        typer.echo(f"wrote {artifact / 'README.md'}" if written else f"kept {artifact / 'README.md'}, which is yours")
