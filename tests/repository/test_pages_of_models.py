"""The code of the pages on language models and on map-tuning runs, on tiny models under the names that they use."""

import pytest
import torch
from documented import blocks
from helpers import ROOT, make_model, save_backbone
from tiny_decoders import small_prenorm, tiny_decoder
from tiny_runs import tokenizer_of
from transformers import AutoModelForSequenceClassification

from kadapter import EntityEmbeddings, KAdapterForCausalLM, KAdapterModel, KnowledgeMapConfig

TEXTS = ("The mayor of Tarnstad is Mira Voss.", "Paris is the capital of France.")
NAME = "tests/repository/test_pages_of_models.py"


def code_of(page):
    """The blocks of a page that this file runs."""
    return [block.text for block in blocks(ROOT / "docs" / page) if block.why == NAME]


@pytest.fixture
def tokenizer():
    return tokenizer_of([f" {text}" for text in TEXTS] * 3)


def test_the_code_on_language_models_runs(tmp_path, tokenizer, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_decoder(vocab_size=len(tokenizer)).save_pretrained("HuggingFaceTB/SmolLM2-135M")
    tokenizer.save_pretrained("HuggingFaceTB/SmolLM2-135M")
    places = {"places": small_prenorm()}
    places = KAdapterForCausalLM.from_backbone("HuggingFaceTB/SmolLM2-135M", adapters=places)
    places.save_adapter("kadapter-places", "places")
    inputs = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    names = {"ids": ids, "mask": mask, "labels": ids.masked_fill(mask == 0, -100), "tokenizer": tokenizer}
    (code,) = code_of("language_models.md")
    exec(code, names)
    assert names["loss"].requires_grad and list(names["model"].base_model.adapters) == ["facts", "places"]
    assert names["text"].shape[0] == 1


def test_the_code_on_map_tuning_runs(tmp_path, tokenizer, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_backbone("bert-base-uncased", vocab_size=len(tokenizer), max_position_embeddings=48)
    tokenizer.save_pretrained("bert-base-uncased")
    tuned = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=3)
    tuned.save_pretrained("YOUR_FINE_TUNED_BERT")
    tokenizer.save_pretrained("YOUR_FINE_TUNED_BERT")
    table = EntityEmbeddings(["Q90", "Q142"], torch.ones(2, 16), knowledge_base="wikidata")
    table.save_pretrained("org/wikidata-transe")
    mapped = KAdapterModel.from_backbone(
        "bert-base-uncased", adapters={"wikidata": KnowledgeMapConfig.for_table(table)}
    )
    mapped.save_adapter("org/kadapter-wikidata", "wikidata")
    for name in ("fac", "lin"):
        make_model("bert-base-uncased", name).save_adapter(f"kadapter-{name}", name)
    first, second = code_of("map_tuning.md")
    names = {}
    exec(first, names)
    assert "tensor(" in capsys.readouterr().out
    exec(second, {**names, "table": table, "tokenizer": tokenizer})
    assert list(KAdapterModel.from_pretrained("kadapter-wikidata").adapters) == ["wikidata"]
