"""The head of each word in its sentence: the linguistic adapter's objective (K-Adapter, section 3.3).

accelerate launch trainers/run_adapter.py --recipe recipes/lin_ewt_minilm.yaml --data_dir DIR --output_dir OUT
Published: no number given. Ours: see the README's results table.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset

from ...configuration_kadapter import KAdapterConfig
from ...heads_kadapter import KAdapterForDependencyParsing
from ...metrics import attachment
from ...processing_kadapter import special_tokens, word_tokens

IGNORED, LOST = -100, -1


class Objective:
    """One arc per word: by default scored among the words' first sub-tokens, with `--head official` a token position.

    With the official head a label is 1 + the position of the head's first sub-token, so 1 for the root and 2 for the
    first word, and 0 for no word. `--official_labels published` puts the i-th word's label on the i-th token, as the
    official code does although tokens are sub-words; "aligned" puts it on the word's first sub-token.
    """

    record_type = "dependency"
    model_class = KAdapterForDependencyParsing
    metric = "uas"

    def __init__(self, tokenizer: Any, max_length: int, arguments: Any) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.official, self.published = arguments.head == "official", arguments.official_labels == "published"
        self.prefix, self.suffix = special_tokens(tokenizer)
        self.padding = {"input_ids": tokenizer.pad_token_id or 0, "labels": IGNORED}
        if not self.official:
            self.padding["word_positions"] = -1

    def learn(self, train: Dataset | None) -> dict[str, Any]:
        """Choose the head; nothing is learned from the records.

        Raises:
            ValueError: every sentence is a single word, its own root.
        """
        if train is not None and not any(len(heads) > 1 for batch in train.iter(1000) for heads in batch["heads"]):
            raise ValueError(
                "all training sentences have one word, which is its own root, so there is no head to find; give a "
                "treebank of sentences with several words"
            )
        return {"dependency_head": "official" if self.official else "arc", "num_positions": self.max_length}

    def recall(self, config: KAdapterConfig) -> None:
        """Check that a trained model has the requested head.

        Raises:
            ValueError: it has the other head, or an official head for another `max_length`.
        """
        requested = self.learn(None)
        for name in ("dependency_head", "num_positions") if self.official else ("dependency_head",):
            if getattr(config, name) != requested[name]:
                raise ValueError(
                    f"the trained model has {name}={getattr(config, name)!r}, and these flags ask for "
                    f"{requested[name]!r}; give the --head and --max_length that it was trained with"
                )

    def encode(self, rows: dict[str, list], training: bool = False) -> dict[str, list]:
        """Tokenise word by word; words beyond `max_length` are lost and count as wrong.

        In training, a sentence that keeps no word with a head to learn is dropped.
        """
        examples: dict[str, list] = {name: [] for name in ("input_ids", "labels", "words", "truncated")}
        if not self.official:
            examples["word_positions"] = []
        encoded = word_tokens(self.tokenizer, rows["tokens"])
        for (ids, positions), heads in zip(encoded, rows["heads"], strict=True):
            example = self._example(ids, positions, heads)
            if training and all(label == IGNORED for label in example["labels"]):
                continue
            for name, value in example.items():
                examples[name].append(value)
        return examples

    def _example(self, ids: list[int], positions: list[int], heads: list[int]) -> dict[str, Any]:
        room = self.max_length - len(self.suffix)
        ids = ids if len(ids) <= self.max_length else ids[:room] + self.suffix
        kept = sum(start < room for start in positions[1:])
        positions = positions[: 1 + kept]  # the root's token, then each word's first
        example = {"input_ids": ids, "words": len(heads), "truncated": kept < len(heads)}
        if self.official:
            return {**example, "labels": self._official_labels(positions, heads[:kept], len(ids))}
        labels = [head if head <= kept else IGNORED for head in heads[:kept]]
        return {**example, "word_positions": positions, "labels": labels}

    def _official_labels(self, positions: list[int], heads: list[int], length: int) -> list[int]:
        labels = [0 if self.published else IGNORED] * length
        for word, head in enumerate(heads, start=1):
            position = len(self.prefix) + word - 1 if self.published else positions[word]
            target = 1 + positions[head] if head < len(positions) else self.max_length
            if position < length:
                labels[position] = target if target < self.max_length else IGNORED
        return labels

    def measure(self, predictions: np.ndarray, labels: np.ndarray, evaluated: Dataset) -> dict[str, float]:
        """Return the unlabelled attachment score over all words of all sentences, punctuation included."""
        counted = labels > 0 if self.official else labels >= 0
        guesses, heads = predictions[counted].tolist(), labels[counted].tolist()
        lost = int(np.sum(evaluated["words"])) - len(heads)  # a sum: predictions are not in the examples' order
        return attachment.compute([guesses], [[*heads, *[LOST] * lost]])
