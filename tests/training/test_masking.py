"""Masks for masked-LM training: which tokens are masked, by what, and that it never depends on chance."""

import re
from collections import Counter

import datasets
import pytest
import torch
from tiny_runs import PEOPLE, PLACES, tokenizer_of, with_special_tokens
from tiny_tasks import tokenizer_of_words
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kadapter.trainers.common.masking import MaskedExamples, Masking

TEXTS = ["Mira Voss was born in Old Quarry, near Tarnstad.", "Bethoncourt: Pell Ankor, town!"]
MENTIONS = [[(0, 9), (22, 32)], [(0, 11), (13, 23)]]


def metaspace(texts):
    """A tokenizer whose words end at white space alone, as SentencePiece's; its pieces are single characters."""
    letters = sorted({letter for text in texts for letter in text if letter.strip()})
    vocab = {
        token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "\u2581", *letters])
    }
    one = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    one.pre_tokenizer = pre_tokenizers.Metaspace()
    return with_special_tokens(one)


TOKENIZERS = {
    "byte-level": lambda: tokenizer_of(TEXTS * 2, vocab_size=9),
    "WordPiece": lambda: tokenizer_of_words(
        [*"abcdefghijklmnopqrstuvwxyz',.:!", *(f"##{x}" for x in "abcdefghijklmnopqrstuvwxyz")]
    ),
    "metaspace": lambda: metaspace(TEXTS),
}


def words_of(masking, text, ids, words):
    """The text of each word, of the tokens that have its number."""
    groups = {}
    for token, word in zip(ids, words, strict=True):
        if word >= 0:
            groups.setdefault(word, []).append(token)
    pieces = (masking.tokenizer.convert_ids_to_tokens(own) for own in groups.values())
    return [re.sub("\u2581|\u0120|##", "", "".join(own)).lower() for own in pieces]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_end_at_white_space_and_punctuation_whatever_the_tokenizer(name):
    masking = Masking(TOKENIZERS[name]())
    examples = masking.encode(TEXTS, MENTIONS, 60)
    words = [
        words_of(masking, text, ids, words)
        for text, ids, words in zip(TEXTS, examples["input_ids"], examples["words"], strict=True)
    ]
    assert words[0] == ["mira", "voss", "was", "born", "in", "old", "quarry", ",", "near", "tarnstad", "."]
    assert words[1] == ["bethoncourt", ":", "pell", "ankor", ",", "town", "!"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_mentions_are_all_their_tokens(name):
    masking = Masking(TOKENIZERS[name]())
    examples = masking.encode(TEXTS, MENTIONS, 60)
    named = [
        words_of(masking, text, ids, words)
        for text, ids, words in zip(TEXTS, examples["input_ids"], examples["mentions"], strict=True)
    ]
    assert named == [["miravoss", "oldquarry"], ["bethoncourt", "pellankor"]]


def examples_of(masking, texts=TEXTS, mentions=MENTIONS, max_length=60):
    return datasets.Dataset.from_dict(masking.encode(texts, mentions, max_length))


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("share", [0, 1])
def test_a_word_or_a_mention_is_masked_whole_and_special_tokens_never(name, share):
    masking = Masking(TOKENIZERS[name](), mention_share=share)
    examples = examples_of(masking)
    special = set(masking.tokenizer.all_special_ids)
    for epoch in range(30):
        for index, example in enumerate(examples):
            masked = masking.mask(example, epoch, index)
            units = torch.tensor(example["mentions" if share else "words"])
            chosen = set(units[masked["positions"]].tolist())
            assert chosen and -1 not in chosen
            expected = [position for position, unit in enumerate(units.tolist()) if unit in chosen]
            assert masked["positions"] == expected
            assert masked["labels"] == [example["input_ids"][position] for position in expected]
            assert not special & set(masked["labels"])
            kept = set(range(len(units))) - set(expected)
            assert all(masked["input_ids"][place] == example["input_ids"][place] for place in kept)


def test_fifteen_in_a_hundred_words_are_masked_eighty_ten_and_ten_in_a_hundred_of_them_in_each_way():
    masking = Masking(TOKENIZERS["byte-level"]())
    texts = [" ".join([*PEOPLE, *PLACES] * 3)] * 20
    examples = examples_of(masking, texts, [[]] * 20, 1000)
    outcomes, tokens = Counter(), 0
    for epoch in range(15):
        for index, example in enumerate(examples):
            masked = masking.mask(example, epoch, index)
            tokens += sum(word >= 0 for word in example["words"])
            for position, label in zip(masked["positions"], masked["labels"], strict=True):
                now = masked["input_ids"][position]
                outcomes[
                    "mask" if now == masking.tokenizer.mask_token_id else "same" if now == label else "other"
                ] += 1
    total = sum(outcomes.values())
    assert abs(total / tokens - 0.15) < 0.01
    assert abs(outcomes["mask"] / total - 0.8) < 0.02
    assert abs(outcomes["same"] / total - 0.1) < 0.02 and abs(outcomes["other"] / total - 0.1) < 0.02


def test_the_share_of_mentions_is_kept_and_texts_without_mentions_are_masked_by_words():
    masking = Masking(TOKENIZERS["byte-level"](), mention_share=0.3, probability=0.01)
    example, other = examples_of(masking, TEXTS, [MENTIONS[0], []])
    inside = [
        all(example["mentions"][place] >= 0 for place in masking.mask(example, epoch, 0)["positions"])
        for epoch in range(400)
    ]
    assert abs(sum(inside) / 400 - (0.3 + 0.7 * 4 / 11)) < 0.07  # of 11 words 4 are in mentions
    assert all(masking.mask(other, epoch, 1)["positions"] for epoch in range(20))


def test_masks_follow_from_seed_epoch_and_index_and_those_of_evaluation_from_the_index_alone():
    tokenizer = TOKENIZERS["byte-level"]()
    masking, other = Masking(tokenizer, seed=1), Masking(tokenizer, seed=2)
    examples = datasets.concatenate_datasets([examples_of(masking)] * 8)
    training, again = MaskedExamples(examples, masking), MaskedExamples(examples, Masking(tokenizer, seed=1))
    for epoch in (2, 0):
        training.set_epoch(epoch)
        again.set_epoch(epoch)
        forward = [training[index] for index in range(16)]
        assert [again[index] for index in reversed(range(16))] == forward[::-1]  # in whatever order they are read
    first = list(training)
    training.set_epoch(1)
    assert sum(before != after for before, after in zip(first, training, strict=True)) > 12
    assert sum(one != two for one, two in zip(first, MaskedExamples(examples, other), strict=True)) > 12
    fixed = [MaskedExamples(examples, by, fixed=True) for by in (masking, other)]
    fixed[1].set_epoch(5)
    assert list(fixed[0]) == list(fixed[1])
    assert len(training) == 16 and training.column("record").tolist() == [0, 1] * 8


def test_plain_tokens_are_masked_as_transformers_masks_them():
    masking = Masking(TOKENIZERS["byte-level"](), unit="token", probability=0.5)
    example = examples_of(masking)[0]
    numbers = [number for number in example["words"] if number >= 0]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > 20
    shares = [len(masking.mask(example, epoch, 0)["positions"]) / len(numbers) for epoch in range(100)]
    assert abs(sum(shares) / 100 - 0.5) < 0.04


def test_a_long_text_becomes_several_examples_and_a_mention_that_is_cut_is_none():
    masking = Masking(TOKENIZERS["metaspace"]())
    examples = masking.encode(TEXTS, MENTIONS, 12)  # ten characters and two special tokens
    assert all(len(ids) <= 12 for ids in examples["input_ids"])
    assert sorted(set(examples["record"])) == [0, 1]
    whole = masking.encode(TEXTS, MENTIONS, 60)
    for record in (0, 1):
        pieces = [
            ids[1:-1] for ids, own in zip(examples["input_ids"], examples["record"], strict=True) if own == record
        ]
        assert [token for ids in pieces for token in ids] == whole["input_ids"][record][1:-1]
    named = [max(numbers) for numbers, own in zip(examples["mentions"], examples["record"], strict=True) if own == 0]
    assert named.count(0) == 1  # "Mira Voss" fills the first ten; "Old Quarry" lies across two


def test_texts_without_a_word_are_left_out_and_unknown_tokens_are_never_masked():
    masking = Masking(tokenizer_of_words(["mira", "rests"]), probability=1)
    examples = masking.encode(["", "????", "Mira ???? rests"], [[], [], []], 20)
    assert examples["record"] == [2]
    masked = masking.mask({name: values[0] for name, values in examples.items()}, 0, 0)
    assert masked["positions"] == [1, 3 + len(examples["input_ids"][0]) - 5]


def test_what_cannot_mask_says_why():
    tokenizer = TOKENIZERS["byte-level"]()
    with pytest.raises(ValueError, match="the unit of masking is 'span' and must be one of word, token"):
        Masking(tokenizer, unit="span")
    for probability, share in ((0, 0), (1.5, 0), (0.15, -1)):
        with pytest.raises(
            ValueError, match=f"probability of a mask is {probability} and the share of mentions {share}"
        ):
            Masking(tokenizer, probability=probability, mention_share=share)
    without = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>")
    with pytest.raises(ValueError, match="has no mask token, so its model can't learn to fill one; choose a masked"):
        Masking(without)
