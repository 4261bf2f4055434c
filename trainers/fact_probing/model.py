"""The language model of a row: adapters on a backbone, and an LM head. The backbone says which sort it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, set_seed

from ...artifacts_kadapter import read_artifact
from ...backbone_kadapter import is_decoder
from ...configuration_kadapter import LM_HEADS, split_composition
from ...fusion_kadapter import new_fusion
from ...language_modeling_kadapter import KAdapterForCausalLM, KAdapterForMaskedLM
from ..common.encoding import open_tokenizer
from ..downstream.arguments import RowArguments
from ..downstream.model import NONE, TAPS, add_adapters
from .language_model import LanguageModel
from .prompts import CausalPrompter, Prompter

__all__ = [
    "OWN",
    "check_lm_head",
    "guesser_of",
    "is_causal",
    "language_model",
    "prompter_of",
    "row_model",
    "without_adapters",
]

OWN = "backbone"  # the probed backbone, where a model is asked for


def is_causal(backbone: str, revision: str | None = None) -> bool:
    """Return whether a backbone is a decoder, which is asked how a text goes on, as its configuration says.

    Raises:
        OSError: there is no such backbone.
    """
    return is_decoder(AutoConfig.from_pretrained(backbone, revision=revision))


def prompter_of(backbone: str, revision: str | None = None, max_length: int | None = None) -> Prompter:
    """Return the prompter of a backbone: its tokenizer, and how a model of its sort is asked.

    Raises:
        OSError: there is no such backbone.
        ValueError: it takes fewer tokens than `max_length`, or the tokenizer of an encoder has no mask.
    """
    tokenizer = open_tokenizer(backbone, revision, max_length or 1)
    config = AutoConfig.from_pretrained(backbone, revision=revision)
    if not is_decoder(config):
        return Prompter(tokenizer, max_length)
    # Tokenizers of decoders often know no longest input.
    longest = getattr(config, "max_position_embeddings", None)
    return CausalPrompter(tokenizer, min(filter(None, (max_length, longest)), default=None))


def check_lm_head(lm_head: str | None, backbone: str, revision: str | None = None) -> None:
    """Refuse another LM head than its own for a decoder.

    Raises:
        ValueError: another is named.
    """
    if lm_head not in (None, LM_HEADS[0]) and is_causal(backbone, revision):
        raise ValueError(
            f"--lm_head {lm_head}: {backbone!r} is a decoder, which is asked through its own LM head; leave the flag "
            "out, since LM heads are trained for encoders alone"
        )


def language_model(
    flags: RowArguments,
    lm_head: str | None,
    fusion: str = "add",
    seed: int = 0,
    max_length: int | None = None,
    batch_tokens: int = 4096,
) -> LanguageModel:
    """Return the language model of a row with its tokenizer, on the accelerator if there is one.

    Raises:
        OSError: the backbone, an adapter or the LM head can't be read.
        ValueError: they don't fit together, or the tokenizer of an encoder has no mask.
    """
    prompter = prompter_of(flags.backbone, flags.backbone_revision, max_length)
    model: Any = row_model(flags, lm_head, fusion, seed)
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    return LanguageModel(model, prompter, batch_tokens)


def row_model(flags: RowArguments, lm_head: str | None, fusion: str = "add", seed: int = 0) -> Any:
    """Build the model of a row: a `KAdapterForCausalLM` on a decoder, else a `KAdapterForMaskedLM`.

    A single artifact of a whole such model keeps its fusion and, unless `lm_head` names another, its LM head.

    Raises:
        OSError: the backbone, an adapter or the LM head can't be read.
        ValueError: they don't fit together, or the fusion has weights that nobody trained.
    """
    check_lm_head(lm_head, flags.backbone, flags.backbone_revision)
    causal = is_causal(flags.backbone, flags.backbone_revision)
    model_class: Any = KAdapterForCausalLM if causal else KAdapterForMaskedLM
    if whole := _whole_model(flags.adapters, model_class):
        chosen = {} if lm_head is None or causal else {"lm_head": lm_head}
        return model_class.from_pretrained(whole, backbone=flags.backbone, **chosen).eval()
    head = {} if causal else {"lm_head": lm_head or LM_HEADS[0]}
    model = model_class.from_backbone(flags.backbone, revision=flags.backbone_revision, fusion="add", **head)
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


def _whole_model(adapters: list[str], model_class: type) -> str | None:
    """Return the artifact of a whole model of a class with adapters if it is the only one named."""
    if len(adapters) != 1 or adapters[0] in (NONE, TAPS) or len(split_composition(adapters[0])) > 1:
        return None
    artifact = read_artifact(adapters[0])
    if artifact.head != model_class.__name__:
        return None
    if not artifact.config.get("adapters"):
        raise ValueError(f"--adapters {adapters[0]}: it holds an LM head and no adapter; give it as --lm_head")
    return adapters[0]


def guesser_of(name: str, probed: LanguageModel) -> LanguageModel:
    """Return the model that guesses answers from names: any language model, or the probed backbone itself.

    Raises:
        OSError: there is no such model.
        ValueError: it is an encoder whose tokenizer has no mask.
    """
    if name == OWN:
        return probed
    auto: Any = AutoModelForCausalLM if is_causal(name) else AutoModelForMaskedLM
    return LanguageModel(auto.from_pretrained(name).to(probed.model.device), prompter_of(name), probed.batch_tokens)


@contextmanager
def without_adapters(model: KAdapterForMaskedLM | KAdapterForCausalLM) -> Iterator[None]:
    """Switch a model's adapters off for a while."""
    if not model.config.adapters:
        yield
        return
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()
