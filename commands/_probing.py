"""Ask a model with and without adapters what fills the masks of a text, or how it goes on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from shutil import get_terminal_size

from rich import box
from rich.console import Console
from rich.table import Table

from ..artifacts_kadapter import read_artifact
from ..configuration_kadapter import split_composition
from ..language_modeling_kadapter import KAdapterForCausalLM, KAdapterForMaskedLM
from ..trainers.downstream.arguments import RowArguments
from ..trainers.fact_probing.language_model import LanguageModel
from ..trainers.fact_probing.model import language_model, without_adapters
from ..trainers.fact_probing.prompts import Masked

__all__ = ["probe_text", "rows_of"]


def probe_text(
    text: str,
    adapters: Sequence[str],
    backbone: str | None = None,
    lm_head: str | None = None,
    top: int = 5,
    log: Callable[[str], None] = print,
) -> dict[str, list[list[tuple[str, float]]]]:
    """Log a table for each mask of a text, with the best answers and their probabilities by row, and return them.

    Args:
        text: the text, with <mask> or [MASK]; for a decoder at its end.
        adapters: artifacts of adapters.
        backbone: id or path of the backbone; by default that of the first adapter.
        lm_head: artifact of a trained LM head; by default the backbone's own, or that of a whole masked-LM model.
        top: how many answers are logged.
        log: function that logs a text.

    Returns:
        By row, the answers of each mask, best first.

    Raises:
        OSError: the backbone, an adapter or the LM head can't be read.
        ValueError: they don't fit together, or the text has no mask, goes on after it before a decoder, or is too
            long.
    """
    source = backbone or _backbone_of(adapters[0])
    model = language_model(RowArguments(backbone=source, adapters=list(adapters)), lm_head)
    asked = model.prompter.every_mask(text)
    if asked is None:
        raise ValueError(f"the mask is cut off: the text has more tokens than {source!r} takes; shorten it")
    answers = {row: _best(model, asked, top) for row in rows_of(model.model)}
    for number in range(len(asked.positions)):
        title = f"mask {number + 1}" if len(asked.positions) > 1 else ""
        log(_table({row: best[number] for row, best in answers.items()}, title))
    return answers


def _backbone_of(artifact: str) -> str:
    """Return where the backbone of an artifact is."""
    return str(read_artifact(split_composition(artifact)[0]).config["backbone_name_or_path"])


def rows_of(model: KAdapterForMaskedLM | KAdapterForCausalLM) -> Iterator[str]:
    """Yield the names of rows while the model is switched to each: the backbone, each adapter, and all together."""
    with without_adapters(model):
        yield "backbone"
    names = list(model.base_model.adapters)
    alone = names if model.config.fusion != "concat" or len(names) == 1 else []  # which is made for all
    for name in alone:
        model.set_adapter(name)
        yield name
    if names:
        model.set_adapter(names)
    if names and alone != names[:1]:
        yield "+".join(names)


def _best(model: LanguageModel, masked: Masked, top: int) -> list[list[tuple[str, float]]]:
    """Return the best answers for each mask with their probabilities."""
    ((_, scores),) = model.log_probabilities([masked])
    values, tokens = scores.exp().topk(min(top, scores.shape[-1]))
    return [
        [(model.prompter.name(token), value) for token, value in zip(*pair, strict=True)]
        for pair in zip(tokens.tolist(), values.tolist(), strict=True)
    ]


def _table(answers: dict[str, list[tuple[str, float]]], title: str) -> str:
    drawn, file = Table(box=box.SIMPLE), io.StringIO()
    for row in answers:
        drawn.add_column(row, overflow="fold")
        drawn.add_column("", justify="right")
    for line in zip(*answers.values(), strict=True):
        drawn.add_row(*(cell for answer, probability in line for cell in (answer, f"{probability:.3f}")))
    width = get_terminal_size((100_000, 0)).columns
    Console(file=file, width=width, markup=False, highlight=False, emoji=False).print(drawn)
    return "\n".join(
        [*[title] * bool(title), *(text.rstrip() for text in file.getvalue().splitlines() if text.strip())]
    )
