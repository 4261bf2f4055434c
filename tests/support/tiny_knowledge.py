"""Knowledge maps in tests: the golden cases of the official map-tuning code, their tokenizer, model and table."""

import json

from helpers import GOLDEN, golden
from transformers import BertConfig, BertForPreTraining, BertTokenizer

from kadapter import EntityEmbeddings, KnowledgeMap, KnowledgeMapConfig, KnowledgeSource

TENSORS = golden("map_tuning")
INFO = json.loads((GOLDEN / "map_tuning.json").read_text(encoding="utf-8"))


def tensors_of(case):
    """The tensors of a case, by their names in it."""
    return {key.removeprefix(f"{case}/"): tensor for key, tensor in TENSORS.items() if key.startswith(f"{case}/")}


def entity_table():
    """The entities of the golden cases, whose rows are in another order than their ids."""
    rows = sorted(INFO["entity2id"], key=INFO["entity2id"].get)
    return EntityEmbeddings(rows, TENSORS["entities"], "wikidata")


def bert_tokenizer():
    """The fast tokenizer of the golden cases."""
    return BertTokenizer(vocab={token: number for number, token in enumerate(INFO["vocab"])}, do_lower_case=True)


def save_bert(folder):
    """Save the encoder of the golden cases, with its tokenizer and pre-training head, and return the directory."""
    model = BertForPreTraining(BertConfig(**INFO["bert_config"]))
    missing = model.load_state_dict(tensors_of("bert"), strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {
        "cls.predictions.decoder.weight",
        "cls.predictions.decoder.bias",
    }
    model.tie_weights()
    model.save_pretrained(folder)
    bert_tokenizer().save_pretrained(folder)
    return str(folder)


def official_map(**config):
    """The map of the golden cases."""
    knowledge_map = KnowledgeMap(KnowledgeMapConfig(knowledge_size=16, embedding_size=32, **config), 32)
    official = tensors_of("mapper")
    own = {"projection.weight": official["model.weight"], "projection.bias": official["model.bias"]}
    knowledge_map.load_state_dict({**knowledge_map.state_dict(), **own})
    return knowledge_map.requires_grad_(False)


def relation_texts():
    """The sentences of the relation cases, and their linked heads and tails, in characters."""
    texts, entities = [], []
    for record in INFO["records"]:
        starts = [sum(map(len, record["token"][:n])) + n for n in range(len(record["token"]) + 1)]
        spans = [(starts[record[key]["pos"][0]], starts[record[key]["pos"][1]] - 1) for key in "ht"]
        texts.append(" ".join(record["token"]))
        entities.append([(*span, record[key]["id"]) for span, key in zip(spans, "ht", strict=True)])
    return texts, entities


def typing_texts():
    """The sentences of the typing case, and their linked mentions, whose official ids are rows."""
    ids = {str(row): name for name, row in INFO["entity2id"].items()}
    texts = [record["sent"] for record in INFO["typing"]]
    return texts, [[(record["start"], record["end"], ids[record["id"]])] for record in INFO["typing"]]


def with_zeros():
    """The table, where an entity that it lacks has a row of zeros, as in the official downstream tasks."""
    return KnowledgeSource(entity_table(), missing_entity="bias")


def official_tokens(tokenizer, text):
    """The tokens of a text as the official code names them, whose entities are words of their own."""
    tokens = tokenizer.convert_ids_to_tokens(text.input_ids)
    for position, link in text.slots:
        tokens[position] = f"hashdonothackme{link.id.lower()}hashdonothackme"
    return tokens


def near(ours, official, tolerance=1e-6):
    """Assert that tensors differ by no more than a share of the largest entry."""
    assert ours.shape == official.shape
    difference, largest = (ours - official).abs().max().item(), official.abs().max().item()
    assert difference <= tolerance * max(largest, 1e-12), f"differs by {difference}, largest {largest}"


def equal_where_real(ours, official, mask):
    """Assert that hidden states are equal where there are tokens."""
    near(ours[mask.bool()], official[mask.bool()])
