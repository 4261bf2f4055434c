"""Prompts keep the mask in the place of a word with its space, and answers have the tokens of that place."""

import json

import pytest
from helpers import tiny_tokenizer
from tiny_lm import words_tokenizer
from tiny_runs import PEOPLE, PLACES, tokenizer_of
from tokenizers import decoders
from transformers import RobertaTokenizer

from kadapter.trainers.fact_probing.candidates import common_words, words_as_tokens
from kadapter.trainers.fact_probing.prompts import Prompter, check_mask


@pytest.fixture
def byte_level(tmp_path):
    """A RobertaTokenizer made from vocab.json and merges.txt, as old checkpoints have them."""
    trained = json.loads(tokenizer_of([f" {name}" for name in (*PEOPLE, *PLACES)] * 3).backend_tokenizer.to_str())
    (tmp_path / "vocab.json").write_text(json.dumps(trained["model"]["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in trained["model"]["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    tokenizer = RobertaTokenizer.from_pretrained(tmp_path)
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_a_mask_that_lost_its_space_gets_it_back(byte_level):
    lone = byte_level.convert_tokens_to_ids("Ġ")
    assert lone in byte_level("born in <mask>.").input_ids
    ids = byte_level("a", add_special_tokens=False).input_ids
    check_mask(byte_level)
    assert byte_level("a <mask>", add_special_tokens=False).input_ids == [*ids, byte_level.mask_token_id]
    masked = Prompter(byte_level).masked("Mira in [MASK].")
    assert masked.ids[masked.positions[0]] == byte_level.mask_token_id
    assert masked.ids[masked.positions[0] - 1] != lone


def test_a_tokenizer_without_a_mask_is_refused():
    with pytest.raises(ValueError, match="has no mask token, so its model can't be asked to fill one"):
        Prompter(tiny_tokenizer())


def test_answers_take_the_space_of_their_place(byte_level):
    prompter = Prompter(byte_level)
    kell = byte_level.convert_tokens_to_ids("ĠKell")
    assert prompter.answer_in("Mira in [MASK].", "Kell") == (kell,)
    assert prompter.answer_in("Mira in <mask>.", "Kell") == (kell,)
    at_the_start, in_brackets = (
        prompter.answer_in("[MASK] is big.", "Kell"),
        prompter.answer_in("Big ([MASK])", "Kell"),
    )
    plain = tuple(byte_level("Kell", add_special_tokens=False).input_ids)
    assert at_the_start == in_brackets == plain != (kell,)


def test_a_lower_casing_tokenizer_takes_every_spelling():
    prompter = Prompter(words_tokenizer())
    assert prompter.answer_in("Mira in [MASK].", "LIND") == prompter.answer_in("in [MASK]", "lind")
    assert len(prompter.answer_in("in [MASK]", "Newton")) == 2


@pytest.mark.parametrize("answer", ["Zürich", "<mask>", "\u200b"])
def test_answers_that_no_tokens_can_give_have_none(answer):
    assert Prompter(words_tokenizer()).answer_in("Mira in [MASK].", answer) is None


def test_a_prompt_without_a_mask_is_an_error():
    with pytest.raises(ValueError, match=r"the prompt 'Mira in Lind\.' has no mask; write \[MASK\]"):
        Prompter(words_tokenizer()).masked("Mira in Lind.")


def test_a_masked_prompt_has_as_many_masks_as_asked_and_ends_with_the_end():
    prompter = Prompter(words_tokenizer(), max_length=8)
    mask, end = prompter.tokenizer.mask_token_id, prompter.tokenizer.eos_token_id
    masked = prompter.masked("Mira in [MASK] was born in Lind.", 2)
    assert masked.positions == (3, 4) and masked.ids[3:5] == (mask, mask)
    assert len(masked.ids) == 8 and masked.ids[-1] == end
    assert prompter.masked("Mira was born in old [MASK].", 2) is None
    assert prompter.masked("Mira was born in [MASK].", 2).positions == (5, 6)


# ---- vocabularies -------------------------------------------------------------------------------------------------


def test_words_are_single_tokens_inside_a_sentence_with_a_letter_or_digit(byte_level):
    words = Prompter(words_tokenizer()).words()
    assert {"mira", "tarnstad", "new"} <= words.keys() and not {".", "?", "ton", "##ton", "<mask>"} & words.keys()
    bytes_words = Prompter(byte_level).words()
    assert bytes_words["Kell"] == byte_level.convert_tokens_to_ids("ĠKell")


def test_common_words_are_single_tokens_of_every_model_and_of_every_list(byte_level, tmp_path):
    words_tokenizer(["kell", "lumen", "lind", "old"]).save_pretrained(tmp_path / "words")
    prompter = Prompter(byte_level)
    both = common_words(prompter, [str(tmp_path / "words")])
    assert {"Kell", "Lumen"} <= both and "lind" not in both and "Bethoncourt" not in both
    (tmp_path / "list.txt").write_text("Kell\nQuarry\n\n", encoding="utf-8")
    assert common_words(prompter, [str(tmp_path / "words"), str(tmp_path / "list.txt")]) == {"Kell"}
    kell = byte_level.convert_tokens_to_ids("ĠKell")
    assert kell in words_as_tokens(prompter, frozenset({"Kell"})).tolist()


def test_an_empty_intersection_and_an_empty_list_are_refused(tmp_path):
    words_tokenizer(["rome", "oslo"]).save_pretrained(tmp_path / "other")
    prompter = Prompter(words_tokenizer(["lind", "kell"]))
    with pytest.raises(ValueError, match="no word is a single token in the vocabularies of"):
        common_words(prompter, [str(tmp_path / "other")])
    with pytest.raises(ValueError, match="--candidates common needs --common_with MODEL"):
        common_words(prompter, [])
    (tmp_path / "list.txt").write_text("\n \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"list\.txt: it holds no word"):
        common_words(prompter, [str(tmp_path / "list.txt")])
