"""Dependency heads in the layout of K-Adapter's linguistic pre-training (task find_head).

Source: Wang et al., Findings of ACL 2021; https://github.com/microsoft/K-Adapter. The files were not released; the
    paper parses sentences of BookCorpus with the Stanford parser.
Licence: that of the parsed text.
Layout: `*.json`, a JSON array per file: `{"sent": str, "tokens": [{"1": {"start", "end"}}, {"2": ...}, ...],
    "pairs": [{"dependent_index", "governor_index"}, ...]}`; offsets count characters, end exclusive; words count from
    1, governor 0 is the root. There are no relation names, so `deprels` are "_".
Splits: `train.json`, `dev.json`; otherwise by hash.
Kept: every sentence whose heads form a tree. The published loader drops sentences whose last word is a head.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ._builder import CorpusBuilder, Row
from ._files import NumberedRecords, json_array
from ._records import BadRecord, dependency_row, required, shown

SAMPLE_FILES = {
    "train.json": (
        '[{"sent": "Birds sing.", "tokens": [{"1": {"start": 0, "end": 5}}, {"2": {"start": 6, "end": 10}},'
        ' {"3": {"start": 10, "end": 11}}], "pairs": [{"dependent_index": 1, "governor_index": 2},'
        ' {"dependent_index": 2, "governor_index": 0}, {"dependent_index": 3, "governor_index": 2}]},'
        ' {"sent": "Mira rests", "tokens": [{"1": {"start": 0, "end": 4}}, {"2": {"start": 5, "end": 10}}],'
        ' "pairs": [{"dependent_index": 2, "governor_index": 0}, {"dependent_index": 1, "governor_index": 2}]}]'
    )
}
SAMPLE_ROWS = [
    {"id": "train.json:1", "tokens": ["Birds", "sing", "."], "heads": [2, 0, 2], "deprels": ["_", "_", "_"]},
    {"id": "train.json:2", "tokens": ["Mira", "rests"], "heads": [2, 0], "deprels": ["_", "_"]},
]


class Corpus(CorpusBuilder):
    """Read find_head files: one row per sentence."""

    record_type = "dependency"
    file_patterns = ("*.json",)
    homepage = "https://github.com/microsoft/K-Adapter"
    licence = "that of the parsed text"

    def read(self, path: Path) -> NumberedRecords:
        """Yield the records of a file."""
        return json_array(path)

    def rows(self, record: Any) -> Iterable[Row]:
        """Return the row of a sentence."""
        tokens = _tokens(record)
        return [dependency_row(tokens, _heads(record, len(tokens)), ["_"] * len(tokens))]


def _tokens(record: Any) -> list[str]:
    """Return the words of a sentence, cut out of it by their offsets."""
    sentence, tokens = required(record, "sent", str), []
    for number, token in enumerate(required(record, "tokens", list), 1):
        if not isinstance(token, dict) or list(token) != [str(number)]:
            raise BadRecord(f"field 'tokens', entry {number}: must be one object under the key '{number}'")
        offsets = required(token, str(number), dict)
        start, end = required(offsets, "start", int), required(offsets, "end", int)
        if not 0 <= start < end <= len(sentence):
            raise BadRecord(
                f"field 'tokens', word {number}: its offsets are [{start}, {end}) "
                f"but must not be empty or reversed and must lie in 0..{len(sentence)}"
            )
        tokens.append(sentence[start:end])
    if not tokens:
        raise BadRecord("field 'tokens' is an empty list")
    return tokens


def _heads(record: Any, length: int) -> list[int]:
    """Return the head of each word."""
    governors: dict[int, int] = {}
    for pair in required(record, "pairs", list):
        word, governor = required(pair, "dependent_index", int), required(pair, "governor_index", int)
        if not 1 <= word <= length or word in governors:
            why = "more than once" if word in governors else f"but must lie in 1..{length}"
            raise BadRecord(f"field 'pairs': dependent_index is {word} {why}")
        governors[word] = governor
    missing = [word for word in range(1, length + 1) if word not in governors]
    if missing:
        raise BadRecord(f"field 'pairs' gives no head to the words {shown(missing)}")
    return [governors[word] for word in range(1, length + 1)]
