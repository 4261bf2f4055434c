"""What an answer competes with: a whole vocabulary, the words that several vocabularies share, or a closed list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

from .prompts import CausalPrompter, Prompter

__all__ = ["CANDIDATES", "common_words", "vocabulary", "words_as_tokens"]

CANDIDATES = ("vocabulary", "common", "relation")


def vocabulary(prompter: Prompter) -> Tensor:
    """Return all tokens of a vocabulary but the special ones, (candidates,)."""
    known = sorted(prompter.tokenizer.get_vocab().values())
    return torch.tensor([token for token in known if token not in prompter.special])


def common_words(prompter: Prompter, others: Sequence[str]) -> frozenset[str]:
    """Return the words that are a single token in every vocabulary.

    Words are compared as they are written; where a tokenizer lower-cases, it takes every spelling for its own.

    Args:
        prompter: the probed model's.
        others: ids or directories of other models, or text files with a word a line, such as LAMA's common vocabulary.

    Raises:
        OSError: a tokenizer or a file can't be read.
        ValueError: there are no others, a file holds no word, or no word is left.
    """
    if not others:
        raise ValueError(
            "--candidates common needs --common_with MODEL..., the models whose vocabularies the words must be in, or "
            "a text file of words"
        )
    named = {other: _words_of(other) for other in others if other.endswith(".txt")}
    prompters = [prompter, *(_open(other) for other in others if other not in named)]
    words: set[str] = set().union(*(each.words() for each in prompters), *named.values())
    for own in named.values():
        words &= own
    for each in prompters:
        words &= each.single_tokens(sorted(words)).keys()
    if not words:
        raise ValueError(
            f"no word is a single token in the vocabularies of {prompter.tokenizer.name_or_path!r} and "
            f"{', '.join(map(repr, others))}; compare models of the same script and language"
        )
    return frozenset(words)


def _open(model: str) -> Prompter:
    tokenizer = AutoTokenizer.from_pretrained(model)
    return (CausalPrompter if tokenizer.mask_token is None else Prompter)(tokenizer)


def _words_of(path: str) -> set[str]:
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"--common_with {path}: it is not UTF-8 ({error}); give a file with a word a line") from error
    if not (words := {line.strip() for line in lines} - {""}):
        raise ValueError(f"--common_with {path}: it holds no word; give a file with a word a line")
    return words


def words_as_tokens(prompter: Prompter, words: frozenset[str]) -> Tensor:
    """Return the tokens of words, at the beginning and in the middle of a sentence, (candidates,)."""
    known = sorted(words)
    inside, first = prompter.single_tokens(known), prompter.single_tokens(known, carrier="")
    return torch.tensor(sorted({*inside.values(), *first.values()}))
