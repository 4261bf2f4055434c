"""The demo page: a text and adapters in, predictions and a heat map out, as gradio shows them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # what is typed here is nobody's business

import gradio
import typer

from ._demo_model import Answer, DemoModel

__all__ = ["page", "serve"]

FONTS = ("system-ui", "sans-serif")  # of the machine, so that nothing is fetched
EXAMPLES = {
    "KAdapterForEntityPairClassification": "[[Marie Curie]] was born in [[Warsaw]].",
    "KAdapterForEntityClassification": "[[Marie Curie]] was born in Warsaw.",
    "KAdapterForMaskedLM": "Marie Curie was born in [MASK].",
}
EXAMPLE = "Marie Curie was born in Warsaw."
INTRODUCTION = """# {title}

Type a sentence, choose adapters, and see what they change. Mark an entity by selecting it and pressing *Mark*, which
puts it into double square brackets; of a pair the first is the head, unless it says so: `[[Warsaw|tail]]`.
"""
STYLE = """<style>
.demo table{border-collapse:collapse;margin:.4em 0} .demo th,.demo td{padding:3px 8px;text-align:left}
.demo pre{margin:0;background:none} .demo .row{display:flex;flex-wrap:wrap;gap:2px;margin:.6em 0;align-items:center}
.demo .row b{width:100%} .demo .cell{display:flex;flex-direction:column;align-items:center;padding:2px 5px}
.demo .cell code{background:none;border:0;padding:0;color:inherit} .demo .cell small{color:inherit}
</style>"""

# Asks the page itself when Mark is pressed: of the events of a selection that grows, only the first would be heard.
# Its positions count code units, and Python's characters.
SELECTION = """(text) => {
    const box = document.querySelector("#text textarea");
    return [text, [box.selectionStart, box.selectionEnd].map((end) => Array.from(box.value.slice(0, end)).length)];
}"""


def serve(model: DemoModel, host: str, port: int | None, open_browser: bool) -> None:
    """Serve the page until it is stopped.

    Raises:
        OSError: the port is taken.
    """
    theme = gradio.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace"))
    built = page(model)
    _, address, _ = built.launch(
        prevent_thread_lock=True, server_name=host, server_port=port, inbrowser=open_browser, theme=theme, quiet=True
    )
    typer.echo(f"the page is at {address}; end it by Ctrl-C", err=True)
    built.block_thread()


def page(model: DemoModel) -> gradio.Blocks:
    """Return the page of a model."""
    with gradio.Blocks(title="kadapter", analytics_enabled=False) as blocks:
        gradio.Markdown(INTRODUCTION.format(title=f"kadapter: {', '.join(model.adapters)}"))
        text = gradio.Textbox(EXAMPLES.get(model.head or "", EXAMPLE), label="Text", lines=3, elem_id="text")
        selected = gradio.JSON(visible=False)  # what SELECTION finds
        chosen = gradio.CheckboxGroup(model.adapters, value=model.adapters, label="Adapters", elem_id="adapters")
        with gradio.Row():
            mark = gradio.Button("Mark", elem_id="mark")
            ask = gradio.Button("Show", variant="primary", elem_id="show")
        shown = gradio.HTML(elem_id="shown")

        mark.click(marked, [text, selected], text, js=SELECTION)
        # one text at a time, since the model is switched from row to row
        gradio.on([ask.click, text.submit], lambda *asked: answer(model, *asked), [text, chosen], shown)
    return blocks


def marked(text: str, selected: Sequence[int] | None) -> str:
    """Return a text with double square brackets around what was selected, if anything was."""
    first, last = selected or (0, 0)
    inside = text[first:last].strip()
    if not inside or last > len(text):
        return text
    first += text[first:last].index(inside)
    last = first + len(inside)
    return f"{text[:first]}[[{inside}]]{text[last:]}"


def answer(model: DemoModel, text: str, chosen: Sequence[str]) -> str:
    """Return what is shown of a text, or a sentence that says what is wrong with it, as HTML."""
    try:
        return STYLE + f'<div class="demo">{_predictions(found := model.answer(text, chosen))}{_heat_map(found)}</div>'
    except (ValueError, TypeError, OSError) as error:
        return f'<p class="demo" role="alert">{escape(" ".join(str(error).split()))}</p>'


def _predictions(found: Answer) -> str:
    if not found.predictions:
        return "<p>There is no head here, so nothing is predicted.</p>"
    rows = (
        f"<tr><th>{escape(row)}</th><td><pre>{escape(lines)}</pre></td></tr>"
        for row, lines in found.predictions.items()
    )
    return f"<h3>Predictions</h3><table id='predictions'>{''.join(rows)}</table>"


def _heat_map(found: Answer) -> str:
    """Return for each adapter the tokens, on a ground that is the darker the more it adds to them."""
    if not found.added:
        return "<p>No adapter is chosen, so nothing moves.</p>"
    most = max(max(shares) for shares in found.added.values()) or 1.0
    rows = (
        f"<div class='row'><b>{escape(name)}</b> "
        f"{''.join(_cell(token, share, most) for token, share in zip(found.tokens, shares, strict=True))}</div>"
        for name, shares in found.added.items()
    )
    return (
        "<h3>What each adapter adds to each token</h3><p>The length of its contribution, as a share of the length of "
        f"the encoder's own state.</p><div id='heat'>{''.join(rows)}</div>"
    )


def _cell(token: str, share: float, most: float) -> str:
    ground = round(share / most, 3)
    colour = "#fff" if ground > 0.6 else "inherit"
    style = f"background:rgba(47,111,159,{ground});color:{colour}"
    return f"<span class='cell' style='{style}'><code>{escape(token)}</code><small>{share:.2f}</small></span>"
