"""The command `kadapter predict`."""

from pathlib import Path
from typing import Annotated

import typer

from ._flags import AsJson, Backbone, Revision

__all__ = ["run"]

Artifact = Annotated[
    str, typer.Argument(help="Artifact with a head, a Hub id or a directory, or an exported directory.")
]
Texts = Annotated[list[str] | None, typer.Argument(help="Texts; mentions stand in double square brackets.")]
TextFile = Annotated[
    Path | None,
    typer.Option(
        "--file", help="File of texts, one in each line, or with the ending .jsonl of records; - reads standard input."
    ),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option(
        help="Adapters to use, such as fac, fac+lin or __base__ for none: once for all texts, or once for each.",
        show_default="those that the artifact uses",
    ),
]
Head = Annotated[str | None, typer.Option("--head", help="Name of the head to ask, of an artifact of several.")]
Top = Annotated[
    int | None,
    typer.Option(
        min=1, help="How many answers are shown.", show_default="1 label, all types from 0.5 on, 5 words for a mask"
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts of a batch.")]
Device = Annotated[str, typer.Option(help="Device to run on, such as cpu or cuda; exported graphs run on the CPU.")]


def run(
    artifact: Artifact,
    texts: Texts = None,
    file: TextFile = None,
    adapters: Adapters = None,
    head: Head = None,
    top: Top = None,
    batch_size: BatchSize = 8,
    device: Device = "cpu",
    backbone: Backbone = None,
    revision: Revision = None,
    as_json: AsJson = False,
) -> None:
    """Ask an artifact's head about texts: labels, types of mentions, heads of words, or what a mask hides.

    Example: kadapter predict org/kadapter-relations "[[Marie Curie]] was born in [[Warsaw]]."

    The head decides. Relations and types are asked of mentions in double square brackets; of a pair the first is the
    head and the second the tail, unless they say so: "[[Warsaw|tail]] bore [[Marie Curie|head]]." Words are asked of
    <mask> or [MASK]. A parser splits a text into words and punctuation. With --json there is a line of JSON for each
    text. A record of a *.jsonl file, {"text": ..., "adapter_names": ["fac", "lin"]}, may name the adapters of its
    text, and --adapters those of all others. No code in the artifact is run.
    """
    from ._choosing import chosen_adapters, chosen_head
    from ._exported import exported_config, exported_predictor
    from ._preflight import check_local, config_of
    from ._printing import printable
    from ._texts import examples_of, texts_of

    check_local(artifact, revision)
    asked = texts_of(texts or [], file)
    exported = exported_config(artifact)
    config = chosen_head(artifact, exported or config_of(artifact, revision), head)
    architecture = (config.get("architectures") or ["KAdapterModel"])[0]
    examples = examples_of(artifact, architecture, asked)
    known = list(config.get("adapters") or {})
    chosen = chosen_adapters(asked, adapters or [], artifact, known, config.get("active_adapters"))
    for number, names in enumerate(chosen or []):
        examples[number]["adapter_names"] = names
    typer.echo(f"loading {printable(artifact)}", err=True)
    if exported:
        predict = exported_predictor(artifact, architecture, device, backbone)
    else:
        from ._predicting import predictor  # torch takes seconds to import

        predict = predictor(artifact, architecture, device, backbone, revision, head)
    for prediction in predict(examples, top, batch_size):
        typer.echo(prediction.as_json() if as_json else prediction.in_words())
