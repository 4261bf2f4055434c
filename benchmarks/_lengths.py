"""Sentence lengths for benchmarks: recorded from FewRel, or measured on a directory with its release.

Both include the markers of two mentions and the special tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

# Number of sentences of FewRel 1.0 (21,000 of 30 relations) of each length in tokens, from SHORTEST on, counted by the
# tokenizer of all-MiniLM-L6-v2; the mean is 35 tokens.
RECORDED = "lengths recorded of FewRel by all-MiniLM-L6-v2"
SHORTEST = 10
SENTENCES = """
2 1 1 4 18 25 44 63 102 145 190 282 378 418 507 561 610 661 699 771 857 853 893 887 933 986 1008 959 900 943
916 852 850 719 600 583 402 317 242 213 154 122 91 57 33 43 16 21 21 7 9 11 4 5 1 3 3 0 0 1 0 1 1 0 0 0 1
"""

# Read by default, if both exist next to the repository.
SHARED = Path(__file__).resolve().parents[2] / "shared"
RELEASE, TOKENIZER = "data/fewrel", "models/all-MiniLM-L6-v2"


def chosen(data_dir: Path | None, tokenizer: str | None) -> tuple[list[int], str]:
    """Return the lengths in a directory, or in the release next to the repository, or as recorded; and their source.

    Raises:
        OSError: there is no such tokenizer.
        ValueError: the directory holds no FewRel release.
    """
    if data_dir is None or tokenizer is None:
        data_dir, tokenizer = SHARED / RELEASE, str(SHARED / TOKENIZER)
        if not (data_dir.is_dir() and Path(tokenizer).is_dir()):
            return recorded(), RECORDED
    return measured(data_dir, tokenizer), f"lengths read from {data_dir.name} by {Path(tokenizer).name}"


def recorded() -> list[int]:
    """Return the recorded length of every sentence."""
    return [SHORTEST + index for index, number in enumerate(SENTENCES.split()) for _ in range(int(number))]


def measured(data_dir: Path, tokenizer: str) -> list[int]:
    """Return the length of every sentence of a FewRel directory, counted by a tokenizer (Hub id or directory).

    Raises:
        OSError: there is no such tokenizer.
        ValueError: the directory holds no FewRel release.
    """
    from transformers import AutoTokenizer

    from kadapter.data_builders import load
    from kadapter.processing_kadapter import mark_entities

    loaded, lengths = AutoTokenizer.from_pretrained(tokenizer), []
    for rows in load("fewrel", data_dir).values():
        columns = rows[:]
        pairs = zip(columns["head"], columns["tail"], strict=True)
        spans = [[(mention["start"], mention["end"]) for mention in pair] for pair in pairs]
        lengths += [len(ids) for ids, _ in mark_entities(loaded, columns["text"], spans)]
    return lengths


def draw(lengths: Sequence[int], number: int, longest: int, seed: int) -> list[int]:
    """Draw a number of lengths with replacement, and cap each at the longest."""
    return [min(length, longest) for length in Random(seed).choices(lengths, k=number)]
