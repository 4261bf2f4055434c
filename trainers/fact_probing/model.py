"""The masked language model of a row: adapters on a backbone, and an LM head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, set_seed

from ...artifacts_kadapter import read_artifact
from ...configuration_kadapter import LM_HEADS, split_composition
from ...fusion_kadapter import new_fusion
from ...language_modeling_kadapter import KAdapterForMaskedLM
from ..common.encoding import open_tokenizer
from ..downstream.arguments import RowArguments
from ..downstream.model import NONE, TAPS, add_adapters
from .language_model import LanguageModel
from .prompts import Prompter

__all__ = ["OWN", "guesser_of", "language_model", "masked_lm", "without_adapters"]

MASKED_LM = KAdapterForMaskedLM.__name__
OWN = "backbone"  # the probed backbone, where a model is asked for


def language_model(
    flags: RowArguments,
    lm_head: str | None,
    fusion: str = "add",
    seed: int = 0,
    max_length: int | None = None,
    batch_tokens: int = 4096,
) -> LanguageModel:
    """Return the masked language model of a row with its tokenizer, on the accelerator if there is one.

    Raises:
        OSError: the backbone, an adapter or the LM head can't be read.
        ValueError: they don't fit together, or the tokenizer has no mask.
    """
    prompter = Prompter(open_tokenizer(flags.backbone, flags.backbone_revision, max_length or 1), max_length)
    model: Any = masked_lm(flags, lm_head, fusion, seed)
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    return LanguageModel(model, prompter, batch_tokens)


def masked_lm(flags: RowArguments, lm_head: str | None, fusion: str = "add", seed: int = 0) -> KAdapterForMaskedLM:
    """Build the masked-LM model of a row.

    A single artifact of a whole masked-LM model keeps its fusion and, unless `lm_head` names another, its LM head.

    Raises:
        OSError: the backbone, an adapter or the LM head can't be read.
        ValueError: they don't fit together, or the fusion has weights that nobody trained.
    """
    if whole := _whole_model(flags.adapters):
        chosen = {} if lm_head is None else {"lm_head": lm_head}
        return KAdapterForMaskedLM.from_pretrained(whole, backbone=flags.backbone, **chosen).eval()
    model = KAdapterForMaskedLM.from_backbone(
        flags.backbone, lm_head=lm_head or LM_HEADS[0], revision=flags.backbone_revision, fusion="add"
    )
    set_seed(seed)
    add_adapters(model, flags)
    core = model.base_model
    model.config.fusion = fusion
    core.fusion = new_fusion(model.config, list(core.adapters))
    if any(True for _ in core.fusion.parameters()):
        raise ValueError(
            f"--fusion {fusion} has weights, which are untrained here; name a fusion without weights, or a masked-LM "
            "model that was trained with it as the only one of --adapters"
        )
    return model.eval()


def _whole_model(adapters: list[str]) -> str | None:
    """Return the artifact of a masked-LM model with adapters if it is the only one named."""
    if len(adapters) != 1 or adapters[0] in (NONE, TAPS) or len(split_composition(adapters[0])) > 1:
        return None
    artifact = read_artifact(adapters[0])
    if artifact.head != MASKED_LM:
        return None
    if not artifact.config.get("adapters"):
        raise ValueError(f"--adapters {adapters[0]}: it holds an LM head and no adapter; give it as --lm_head")
    return adapters[0]


def guesser_of(name: str, probed: LanguageModel) -> LanguageModel:
    """Return the model that guesses answers from names: any masked language model, or the probed backbone itself.

    Raises:
        OSError: there is no such model.
        ValueError: its tokenizer has no mask.
    """
    if name == OWN:
        return probed
    model = AutoModelForMaskedLM.from_pretrained(name).to(probed.model.device)
    return LanguageModel(model, Prompter(AutoTokenizer.from_pretrained(name)), probed.batch_tokens)


@contextmanager
def without_adapters(model: KAdapterForMaskedLM) -> Iterator[None]:
    """Switch a model's adapters off for a while."""
    if not model.config.adapters:
        yield
        return
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()
