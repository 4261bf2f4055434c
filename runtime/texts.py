"""Raw text to token ids, as `processing_kadapter.py` does it, by the tokenizers library alone."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Encoded", "Texts"]


class Encoded(NamedTuple):
    """The token ids of a text, special tokens included, and what a head reads beside them.

    Args:
        input_ids: the token ids.
        positions: of mentions their opening markers; of a sentence its root and words; of a masked text its masks.
        offsets: for each token its characters in the text; empty where it was not tokenised as a whole.
        special: 1 for special tokens; likewise.
    """

    input_ids: list[int]
    positions: list[int]
    offsets: Sequence[tuple[int, int]] = ()
    special: Sequence[int] = ()


class Texts:
    """The tokenizer of an exported model.

    Args:
        path: its tokenizer.json.
        settings: what the manifest says of it: ids of padding and special tokens, and the longest input.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises this type itself
            raise ValueError(f"{path} is no tokenizer ({error}); export the artifact anew") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._settings = settings

    def plain(self, texts: Sequence[str]) -> list[Encoded]:
        """Return the tokens of texts; positions are those of masks."""
        mask = self._settings["mask_token_id"]
        return [
            Encoded(
                each.ids,
                [at for at, token in enumerate(each.ids) if token == mask],
                each.offsets,
                each.special_tokens_mask,
            )
            for each in self._tokenizer.encode_batch(list(texts))
        ]

    def marked(self, texts: Sequence[str], entity_spans: Sequence[Any], markers: Sequence[list[int]]) -> list[Encoded]:
        """Return the tokens of texts with mentions, each (start, end) in characters, between the head's markers.

        Raises:
            TypeError: a span is no pair of whole numbers.
            ValueError: there is another number of mentions, or a span is empty, reversed or outside its text.
        """
        for number, spans in enumerate(entity_spans if hasattr(entity_spans, "__len__") else [entity_spans]):
            if isinstance(spans, str) or not hasattr(spans, "__len__"):
                raise TypeError(f"text {number}: entity_spans are {spans!r}; give a list of (start, end)")
        if len(texts) != len(entity_spans):
            raise ValueError(f"{len(texts)} texts but spans for {len(entity_spans)}; give spans for each text")
        return [
            self._marked(number, text, spans, markers)
            for number, (text, spans) in enumerate(zip(texts, entity_spans, strict=True))
        ]

    def _marked(self, number: int, text: str, spans: Any, markers: Sequence[list[int]]) -> Encoded:
        mentions = len(markers)
        if len(spans) != mentions:
            raise ValueError(f"text {number}: {len(spans)} mentions in {text!r}, and the head reads {mentions}")
        cuts: list[tuple[int, bool, int]] = []
        for mention, span in enumerate(spans):
            start, end = _checked(number, mention, span, text)
            cuts += [(start, True, -mention), (end, False, mention)]
        ids, openings, last = list(self._settings["prefix"]), [0] * mentions, 0
        for at, opens, mention in sorted(cuts):
            ids += self._segment(text[last:at])
            if opens:
                openings[abs(mention)] = len(ids)
            ids, last = ids + markers[abs(mention)], at
        return Encoded(ids + self._segment(text[last:]) + self._settings["suffix"], openings)

    def _segment(self, text: str) -> list[int]:
        stripped = text.strip()
        return self._tokenizer.encode(f" {stripped}", add_special_tokens=False).ids if stripped else []

    def words(self, sentences: Sequence[Sequence[str]]) -> list[Encoded]:
        """Return the tokens of sentences, each a list of words, and the positions of root and words.

        Raises:
            ValueError: a sentence has no words.
        """
        encoded = []
        prefix, suffix = self._settings["prefix"], self._settings["suffix"]
        for number, words in enumerate(sentences):
            if isinstance(words, str) or not words or not all(isinstance(word, str) for word in words):
                raise ValueError(f"sentence {number} is {words!r}; give a list of its words, at least one")
            pieces = [self._segment(word) or [self._settings["unk_token_id"]] for word in words]
            starts = list(accumulate(map(len, pieces), initial=len(prefix)))[:-1]
            ids = [*prefix, *(piece for word in pieces for piece in word), *suffix]
            encoded.append(Encoded(ids, [max(0, len(prefix) - 1), *starts]))
        return encoded

    def batch(self, encoded: Sequence[Encoded], positions: str | None = None) -> dict[str, Any]:
        """Return encoded texts as token ids and mask, padded on the right, and their positions by this name."""
        arrays = {
            "input_ids": _padded((each.input_ids for each in encoded), self._settings["pad_token_id"]),
            "attention_mask": _padded(([1] * len(each.input_ids) for each in encoded), 0),
        }
        return arrays if positions is None else {**arrays, positions: self.positions(encoded)}

    def positions(self, encoded: Sequence[Encoded]) -> np.ndarray:
        """Return the positions of encoded texts, (batch, n), -1 where a text has fewer."""
        return _padded((each.positions for each in encoded), -1)

    @property
    def mask(self) -> str:
        """The mask token; a tokenizer without any has no text with it."""
        return str(self._settings["mask_token"])

    def token(self, token_id: int) -> str:
        """Return a token as the vocabulary has it."""
        return str(self._tokenizer.id_to_token(token_id))

    def decode(self, token_id: int) -> str:
        """Return the word of a token."""
        return self._tokenizer.decode([token_id], skip_special_tokens=False)


def _padded(rows: Iterable[Sequence[int]], fill: int) -> np.ndarray:
    rows = list(rows)
    padded = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


def _checked(number: int, mention: int, span: Any, text: str) -> tuple[int, int]:
    try:
        start, end = map(operator.index, span)
    except (TypeError, ValueError):
        raise TypeError(f"text {number}: mention {mention} is {span!r}; give its (start, end)") from None
    if not 0 <= start < end <= len(text):
        raise ValueError(
            f"text {number}: span ({start}, {end}) of mention {mention} is empty, reversed or outside its "
            f"{len(text)} characters; give (start, end) with 0 <= start < end <= {len(text)}"
        )
    return start, end
