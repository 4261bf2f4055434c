"""The command `kadapter demo`."""

import importlib.util
from typing import Annotated

import typer

from ._flags import Backbone

__all__ = ["run"]

Artifacts = Annotated[
    list[str],
    typer.Argument(
        help="Artifacts of one backbone: Hub ids or directories; the first may have a head, which is asked."
    ),
]
Host = Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 for all of this machine's.")]
Port = Annotated[
    int | None, typer.Option(help="Port to serve on.", show_default="the first that is free from 7860 on")
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]
Device = Annotated[str, typer.Option(help="Device to run on, such as cpu or cuda.")]


def run(
    artifacts: Artifacts,
    host: Host = "127.0.0.1",
    port: Port = None,
    open_browser: Open = False,
    device: Device = "cpu",
    backbone: Backbone = None,
) -> None:
    """Serve a page on which adapters are tried out: what is predicted with and without each, and what each moves.

    Example: kadapter demo org/kadapter-relations org/kadapter-lin

    Of the first artifact the head is asked, of all others the adapters are put beside it. A heat map shows how much
    each adapter adds to each token. No code in an artifact is run. Needs gradio: pip install 'kadapter[demo]'.
    """
    from ._preflight import config_of

    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the demo page needs gradio, which is not installed: pip install 'kadapter[demo]'")
    for artifact in artifacts:
        if "+" not in artifact:
            config_of(artifact)
    typer.echo(f"loading {' + '.join(artifacts)}", err=True)
    from ._demo_model import load  # torch takes seconds to import
    from ._demo_page import serve

    serve(load(artifacts, device, backbone), host, port, open_browser)
