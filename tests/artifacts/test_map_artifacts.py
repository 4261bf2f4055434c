"""Artifacts of knowledge maps: what they hold, their card, and their way into processes without kadapter."""

import json

import pytest
import torch
from helpers import batch, make_model, run_python, save_backbone, shake, tiny_tokenizer
from hub_server import running_hub
from safetensors.torch import load_file

from kadapter import (
    EntityEmbeddings,
    KAdapterForSequenceClassification,
    KAdapterModel,
    KnowledgeMap,
    KnowledgeMapConfig,
    PreNormAdapterConfig,
)

pytestmark = pytest.mark.slow

ELSEWHERE = """
import torch
from transformers import AutoModel, AutoModelForSequenceClassification
inputs, found = torch.load("inputs.pt", weights_only=True), {}
with torch.no_grad():
    head = AutoModelForSequenceClassification.from_pretrained("head", trust_remote_code=True)
    found["head"] = head(**inputs).logits
    found["map"] = AutoModel.from_pretrained("map", trust_remote_code=True)(**inputs).last_hidden_state
    both = AutoModel.from_pretrained("map", compose_with=["fac"], trust_remote_code=True)
    found["both"] = both(**inputs).last_hidden_state
    found["three"] = AutoModel.from_pretrained("three", trust_remote_code=True)(**inputs).last_hidden_state
torch.save(found, "found.pt")
"""
FROM_HUB = """
import torch
from transformers import AutoModel
with torch.no_grad():
    model = AutoModel.from_pretrained("org/kadapter-map", trust_remote_code=True)
    torch.save(model(**torch.load("inputs.pt", weights_only=True)).last_hidden_state, "from_hub.pt")
"""
PUSH = """
from kadapter import KAdapterModel
KAdapterModel.from_pretrained("map").push_adapter_to_hub("org/kadapter-map", "wikidata")
"""


def table():
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    return EntityEmbeddings(["Q1", "Q2", "Q3", "Q4"], rows, "toy")


def inputs():
    slots = torch.tensor([[1, 5], [2, -1], [-1, -1]])
    rows = torch.randn(3, 2, 6, generator=torch.Generator().manual_seed(5))
    return {**batch(), "knowledge_slots": slots, "knowledge_embeds": rows}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A map, an adapter and a head model with the map, and what they give here."""
    folder = tmp_path_factory.mktemp("maps")
    backbone = save_backbone(folder / "backbone")
    tiny_tokenizer(backbone)
    table().save_pretrained(folder / "table")
    both = make_model(backbone, "fac")
    stored = EntityEmbeddings.from_pretrained(folder / "table")
    both.add_adapter("wikidata", KnowledgeMapConfig.for_table(stored))
    shake(both).eval()
    for name, directory in (("fac", "fac"), ("wikidata", "map")):
        both.save_adapter(folder / directory, name)
    both.add_adapter("lean", PreNormAdapterConfig(hidden_size=16, num_attention_heads=2))
    shake(both, seed=4).eval().save_pretrained(folder / "three")
    head = KAdapterForSequenceClassification.from_backbone(backbone, num_labels=3)
    head.load_adapter(folder / "map")
    shake(head, seed=3).eval().save_pretrained(folder / "head")
    torch.save(inputs(), folder / "inputs.pt")
    return folder


def test_an_artifact_holds_the_map_and_refers_to_the_table(folder):
    config = json.loads((folder / "map" / "config.json").read_text(encoding="utf-8"))
    values = config["adapters"]["wikidata"]
    assert values["kind"] == "map" and values["knowledge_size"] == 6 and values["embedding_size"] == 32
    assert values["knowledge_sha256"] == table().sha256 and values["knowledge_source"] == str(folder / "table")
    tensors = load_file(folder / "map" / "model.safetensors")
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == {
        "adapters.wikidata.projection.weight": (32, 6),
        "adapters.wikidata.projection.bias": (32,),
        "adapters.wikidata.embeddings_sample": (64,),
    }
    assert (folder / "map" / "map_kadapter.py").is_file() and not (folder / "fac" / "map_kadapter.py").exists()


def test_its_card_names_the_table_and_shows_how_it_is_plugged(folder):
    card = (folder / "map" / "README.md").read_text(encoding="utf-8")
    assert f"sha256 `{table().sha256[:12]}`), which is no part of this artifact" in card
    assert (
        "| wikidata | input embeddings | - |" in card and "plugged = plug(model, KnowledgeMap.from_pretrained(" in card
    )
    assert "knowledge map" not in (folder / "fac" / "README.md").read_text(encoding="utf-8")


def test_a_damaged_map_and_an_artifact_without_a_map_are_refused(folder):
    with pytest.raises(ValueError, match=r"holds no knowledge map, but the adapters \['fac'\]; name the artifact"):
        KnowledgeMap.from_pretrained(folder / "fac")
    with pytest.raises(ValueError, match=r"adapter_name='umls' does not say which of them"):
        KnowledgeMap.from_pretrained(folder / "map", "umls")
    alone = KnowledgeMap.from_pretrained(folder / "map")
    assert torch.equal(alone.projection.bias, load_file(folder / "map" / "model.safetensors")[
        "adapters.wikidata.projection.bias"
    ]) and not alone.projection.weight.requires_grad  # fmt: skip


def test_in_a_process_without_kadapter_the_auto_classes_give_the_same_bits(folder):
    run_python(ELSEWHERE, folder)
    found = torch.load(folder / "found.pt", weights_only=True)
    with torch.no_grad():
        head = KAdapterForSequenceClassification.from_pretrained(folder / "head")(**inputs()).logits
        alone = KAdapterModel.from_pretrained(folder / "map")(**inputs()).last_hidden_state
        both = KAdapterModel.from_pretrained([folder / "map", folder / "fac"])(**inputs()).last_hidden_state
        three = KAdapterModel.from_pretrained(folder / "three")(**inputs()).last_hidden_state  # of three kinds
    assert torch.equal(found["head"], head) and torch.equal(found["map"], alone) and torch.equal(found["both"], both)
    assert torch.equal(found["three"], three)


@pytest.mark.thorough
def test_a_pushed_map_loads_from_the_hub(folder):
    with running_hub() as hub:
        online = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_test", "offline": False}
        run_python(PUSH, folder, package=True, **online)
        run_python(FROM_HUB, folder, **{**online, "HF_HUB_CACHE": str(folder / "fresh")})
        pushed = hub.repositories["org/kadapter-map"][-1][1]
    assert {"map_kadapter.py", "config.json", "model.safetensors"} <= set(pushed)
    expected = KAdapterModel.from_pretrained(folder / "map")(**inputs()).last_hidden_state
    assert torch.equal(torch.load(folder / "from_hub.pt", weights_only=True), expected)
