"""Small masked language models whose answers are known, and facts to ask them."""

import torch
from helpers import shake, small_adapter
from tiny_tasks import tokenizer_of_words
from tokenizers import decoders
from transformers import BertConfig, BertForMaskedLM

from kadapter import KAdapterModel
from kadapter.trainers.fact_probing.facts import Asked, Fact
from kadapter.trainers.fact_probing.language_model import LanguageModel
from kadapter.trainers.fact_probing.prompts import Prompter

WORDS = ["mira", "voss", "ole", "was", "born", "in", ".", "?", "(", ")", "tarnstad", "lind", "kell", "paris", "new"]
WORDS += [
    "##ton",
    "##by",
    "old",
    "baker",
    "is",
    "a",
    "common",
    "name",
    "the",
    "following",
    "city",
    "country",
    ":",
    ",",
]


def words_tokenizer(words=WORDS):
    """A lower-casing tokenizer of these words and pieces."""
    tokenizer = tokenizer_of_words(words)
    tokenizer.backend_tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def tiny_bert(tokenizer, scores=None, seed=0):
    """A random masked language model, or one that gives the words these scores whatever it reads."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
    longest = {"max_position_embeddings": 64, "pad_token_id": 1, "tie_word_embeddings": False}
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **sizes, **longest)).eval()
    with torch.no_grad():
        decoder = model.cls.predictions.decoder
        if scores is None:
            decoder.weight.normal_(0, 0.5)
        else:
            decoder.weight.zero_()
            decoder.bias.zero_()
            for word, score in scores.items():
                decoder.bias[tokenizer.convert_tokens_to_ids(word)] = score
    return model


def write_adapters(folder):
    """Write a masked language model to `backbone`, and two adapters on its encoder to `fac` and `lin`."""
    tokenizer, backbone = words_tokenizer(), folder / "backbone"
    tiny_bert(tokenizer).save_pretrained(backbone)
    tokenizer.save_pretrained(backbone)
    for seed, name in enumerate(("fac", "lin")):
        model = KAdapterModel.from_backbone(str(backbone), adapters={name: small_adapter()})
        shake(model, seed).save_pretrained(folder / name)


def language_model(scores=None, max_length=None, batch_tokens=4096, words=WORDS):
    tokenizer = words_tokenizer(words)
    return LanguageModel(tiny_bert(tokenizer, scores), Prompter(tokenizer, max_length), batch_tokens)


def fact(*answers, prompts=("Mira was born in [MASK].",), relation="born", subject="Mira", name="f"):
    return Fact(name, relation, subject, answers, tuple(prompts))


def ask(scorer, *facts):
    """The answered facts, and the reasons why others are left out."""
    asked = Asked(list(facts))
    return list(scorer.answers(facts, asked)), asked.reasons()
