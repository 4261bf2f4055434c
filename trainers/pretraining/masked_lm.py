"""Filling in masked words: knowledge from plain text, and LM heads for backbones without (K-Adapter, appendix D).

accelerate launch trainers/run_adapter.py --recipe recipes/lm_head_minilm.yaml --data_dir DIR --output_dir HEAD
accelerate launch trainers/run_adapter.py --recipe recipes/mlm_fewrel_minilm.yaml --data_dir DIR --output_dir OUT
    --lm_head HEAD/pretraining_head
Published: a linear layer on top of K-Adapter (F), everything else frozen, WikiText-2, no loss given. Ours: see the
README's results table.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from datasets import Dataset

from ...configuration_kadapter import LM_HEADS, KAdapterConfig
from ...data_builders import as_texts
from ...language_modeling_kadapter import KAdapterForMaskedLM
from ..common.masking import Masking

IGNORED = -100


class Objective:
    """An adapter learns through an LM head that is frozen, or a new LM head learns with everything else frozen.

    Whole words are masked, or the mentions of entities. In training the masks follow from the seed, the epoch and the
    example, and in evaluation from the example alone. A text that is too long becomes several examples.
    """

    record_type = "text"
    model_class = KAdapterForMaskedLM
    metric = "accuracy"
    fusion = "delta"  # whose start is the backbone itself, so that its own LM head reads what it was made for

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        self.tokenizer, self.max_length, self.lm_head = tokenizer, max_length, arguments.lm_head
        shares = {"probability": arguments.mask_probability, "mention_share": arguments.mask_mentions}
        self.masking = Masking(tokenizer, unit=arguments.mask_unit, **shares)
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "positions": -1, "labels": IGNORED}

    def learn(self, train: Dataset) -> dict[str, Any]:
        """Choose the LM head; nothing is learned from the records."""
        return {"lm_head": self.lm_head}

    def recall(self, config: KAdapterConfig) -> None:
        """Check that a trained model has the requested LM head.

        Raises:
            ValueError: it has another.
        """
        if self.lm_head in LM_HEADS and config.lm_head != self.lm_head:
            raise ValueError(
                f"the trained model has the LM head {config.lm_head!r}, and these flags ask for {self.lm_head!r}; "
                "give the --lm_head that it was trained with, or none"
            )

    def encode(self, rows: dict[str, list], training: bool = False) -> dict[str, list]:
        """Tokenise texts, and number the words and the mentions of their tokens; masks come later."""
        texts = as_texts(rows)
        mentions = [[(span["start"], span["end"]) for span in spans] for spans in texts["mentions"]]
        return self.masking.encode(texts["text"], mentions, self.max_length)

    def measure(self, predictions: np.ndarray, labels: np.ndarray, evaluated: Dataset) -> dict[str, float]:
        """Return the share of the masked tokens that are filled in as they were."""
        counted = labels != IGNORED
        return {"accuracy": float(np.mean(predictions[counted] == labels[counted]))}

    def from_loss(self, loss: float) -> dict[str, float]:
        """Return the perplexity of the masked tokens."""
        return {"perplexity": math.exp(min(loss, 700.0))}  # e**709 is the largest float
