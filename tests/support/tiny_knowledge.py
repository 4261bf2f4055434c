"""Knowledge maps in tests: the golden cases of the official map-tuning code, their tokenizer, model and table."""

import json
import random

import torch
from helpers import GOLDEN, golden
from tiny_runs import PEOPLE, PLACES, relation_record, write_backbone
from tiny_tasks import write_adapters
from transformers import BertConfig, BertForPreTraining, BertTokenizer

from kadapter import EntityEmbeddings, KAdapterModel, KnowledgeMap, KnowledgeMapConfig, KnowledgeSource

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


def difference(ours, official, mask=None):
    """The largest difference of two tensors, where the mask is 1, as a share of the largest official entry."""
    assert ours.shape == official.shape
    if mask is not None:
        ours, official = ours[mask.bool()], official[mask.bool()]
    return (ours - official).abs().max().item() / max(official.abs().max().item(), 1e-12)


# ---- downstream tasks with a map ------------------------------------------------------------------------------------

ID_OF = {name: f"Q{number}" for number, name in enumerate((*PEOPLE, *PLACES), 1)}
LACKING = PLACES[-1]  # of which the table has no row


def linked_relation(number, rng):
    """One record in Wiki80's released layout, whose mentions have ids."""
    record = relation_record(number, rng)
    sides = {}
    for key, side in (("h", "subj"), ("t", "obj")):
        first, end = record[f"{side}_start"], record[f"{side}_end"] + 1
        name = " ".join(record["token"][first:end])
        sides[key] = {"name": name, "id": ID_OF[name], "pos": [first, end]}
    return {"token": record["token"], "relation": record["relation"], **sides}


def linked_typing(number, rng):
    """One record in Wiki-ET's layout: the mention of a person or a place, linked by the row of the table."""
    name = rng.choice(PLACES if number % 2 else PEOPLE)
    text = f"In Tarnstad lives {name} ."
    row = -1 if name == LACKING else list(ID_OF).index(name)
    start = text.rindex(name)
    labels = ["location"] if number % 2 else ["person"]
    return {"sent": text, "start": start, "end": start + len(name), "id": str(row), "labels": labels}


def write_linked(folder, make, sizes, suffix=".txt"):
    """Write an invented corpus with linked mentions, a file for each split, and return its folder."""
    folder.mkdir(parents=True)
    for number, (split, size) in enumerate(sizes.items()):
        rng = random.Random(number)
        lines = [json.dumps(make(1000 * number + one, rng)) + "\n" for one in range(size)]
        (folder / f"{split}{suffix}").write_text("".join(lines), encoding="utf-8")
    return folder


def write_map_ground(folder, sizes=None):
    """Write a backbone, the adapters fac and lin, a table, a map, and linked corpora, which no run may change."""
    write_backbone(folder / "backbone")
    write_adapters(folder, folder / "backbone", "fac", "lin")
    ids = [name for mention, name in ID_OF.items() if mention != LACKING]
    rows = torch.randn(len(ids), 8, generator=torch.Generator().manual_seed(5))
    EntityEmbeddings(ids, rows, "wikidata").save_pretrained(folder / "table")
    model = KAdapterModel.from_backbone(str(folder / "backbone"))
    table = EntityEmbeddings.from_pretrained(folder / "table")
    model.add_adapter("wikidata", KnowledgeMapConfig.for_table(table))
    model.save_adapter(folder / "map", "wikidata")
    sizes = sizes or {"train": 24, "dev": 13}
    write_linked(folder / "wiki80", linked_relation, sizes)
    write_linked(folder / "wiki_et", linked_typing, sizes, ".json")
    return folder
