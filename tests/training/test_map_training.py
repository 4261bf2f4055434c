"""A map learns by filling in masked mentions, as in the official code, and nothing else changes."""

import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from processes import run_processes
from tiny_knowledge import (
    INFO,
    bert_tokenizer,
    difference,
    entity_table,
    official_map,
    relation_texts,
    save_bert,
    tensors_of,
)
from tiny_runs import losses

from kadapter import EntityEmbeddings, KAdapterForMaskedLM, KAdapterModel, KnowledgeMap, KnowledgeMapConfig
from kadapter.trainers import run_adapter
from kadapter.trainers.common.collator import PadToBatch
from kadapter.trainers.feature_cache.options import CacheArguments, open_features
from kadapter.trainers.many_adapters.scheduler import SharedBackbone
from kadapter.trainers.pretraining.mention_masked_lm import Objective

FLAGS = ("--objective", "mention_masked_lm", "--corpus", "wiki80", "--adapter_name", "wikidata", "--max_length", "40")
FLAGS += (
    "--do_train",
    "--do_eval",
    "--per_device_train_batch_size",
    "4",
    "--num_train_epochs",
    "3",
    "--bf16",
    "false",
)
FLAGS += ("--learning_rate", "1e-2", "--lr_scheduler_type", "constant", "--report_to", "none", "--logging_steps", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An encoder with its LM head, a table, and a corpus in the layout of Wiki20m."""
    folder = tmp_path_factory.mktemp("maps")
    save_bert(folder / "bert")
    entity_table().save_pretrained(folder / "table")
    (folder / "data").mkdir()
    lines = "".join(json.dumps(record) + "\n" for record in INFO["records"])
    for split in ("train", "val"):
        (folder / "data" / f"wiki20m_{split}.txt").write_text(lines, encoding="utf-8")
    return folder


def objective_of(folder, max_length=40, **flags):
    values = {"entity_embeddings": str(folder / "table"), "entity_position": "before", "lm_head": None, **flags}
    return Objective(bert_tokenizer(), max_length, SimpleNamespace(**values))


def rows():
    texts, entities = relation_texts()
    spans = [[{"start": start, "end": end} for start, end, _ in pair] for pair in entities]
    return {
        "text": texts,
        "head": [pair[0] for pair in spans],
        "tail": [pair[1] for pair in spans],
        "head_id": [pair[0][2] for pair in entities],
        "tail_id": [pair[1][2] for pair in entities],
    }


def batch_of(folder, model):
    objective = objective_of(folder)
    columns = objective.encode(rows(), training=True)
    examples = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return PadToBatch.of(objective, model)(examples)


def model_of(folder):
    model = KAdapterForMaskedLM.from_backbone(str(folder / "bert"), fusion="add")
    model.add_adapter("wikidata", KnowledgeMapConfig(knowledge_size=16))
    own = model.base_model.adapters["wikidata"]
    sample = own.state_dict()["embeddings_sample"]
    own.load_state_dict({**official_map().state_dict(), "embeddings_sample": sample})
    model.train_adapter("wikidata")
    return model.eval()


def test_examples_loss_gradients_and_a_step_of_adam_are_the_official_ones(folder):
    model, official = model_of(folder), tensors_of("mmlm")
    batch = batch_of(folder, model)
    assert [len([label for label in row if label != -100]) for row in INFO["mmlm"]["labels"]] == [
        int((row >= 0).sum()) for row in batch["positions"]
    ]
    loss = model(**batch).loss
    assert difference(loss, official["loss"]) <= 1e-6
    loss.backward()
    own = model.base_model.adapters["wikidata"].projection
    assert difference(own.weight.grad, official["grad.model.weight"]) <= 2e-6
    assert difference(own.bias.grad, official["grad.model.bias"]) <= 2e-6
    torch.optim.Adam([own.weight, own.bias], lr=3e-5).step()
    assert difference(own.weight, official["after_adam_step.model.weight"]) <= 1e-6
    assert difference(own.bias, official["after_adam_step.model.bias"]) <= 1e-6
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == [
        "kadapter.adapters.wikidata.projection.weight",
        "kadapter.adapters.wikidata.projection.bias",
    ]


def test_what_does_not_fit_or_has_no_entity_is_left_out(folder):
    assert set(objective_of(folder, max_length=12).encode(rows())["record"]) == {1, 2}  # the first has 13 tokens
    unlinked = {**rows(), "head_id": ["Q8", "Q8", "Q42"], "tail_id": ["Q9", "", "Q99999"]}
    assert set(objective_of(folder).encode(unlinked)["record"]) == {2}


def test_the_program_trains_a_map_and_leaves_the_encoder_alone(folder, tmp_path, capsys):
    paths = ("--entity_embeddings", folder / "table", "--backbone", folder / "bert", "--data_dir", folder / "data")
    flags = [*FLAGS, *map(str, paths), "--backbone_dropout", "0.25", "--output_dir", str(tmp_path / "out")]
    before = (folder / "bert" / "model.safetensors").read_bytes()
    results = run_adapter.main(flags)
    printed = capsys.readouterr().out
    assert "entities: 6 in the training records, 1 of which the table lacks" in printed
    assert "train: 9 examples kept, 0 dropped" in printed
    assert 0 <= results["eval_accuracy"] <= 1 and results["eval_perplexity"] > 1
    knowledge_map = KnowledgeMap.from_pretrained(tmp_path / "out")
    table = EntityEmbeddings.from_pretrained(folder / "table")
    assert knowledge_map.config.knowledge_sha256 == table.sha256
    assert knowledge_map.config.training["objective"] == "mention_masked_lm"
    assert (folder / "bert" / "model.safetensors").read_bytes() == before
    again = run_adapter.main([flag for flag in flags if flag != "--do_train"])
    assert again["eval_loss"] == pytest.approx(results["eval_loss"], abs=1e-6)


@pytest.mark.thorough
@pytest.mark.slow
def test_two_processes_train_the_map_of_one(folder, tmp_path):
    paths = ("--entity_embeddings", folder / "table", "--backbone", folder / "bert", "--data_dir", folder / "data")
    given = [*FLAGS, *map(str, paths), "--max_grad_norm", "0"]
    run_adapter.main([*given, "--output_dir", str(tmp_path / "one")])
    halves = ["--per_device_train_batch_size", "2", "--output_dir", str(tmp_path / "two")]
    run_processes(run_adapter.main, [*given, *halves], tmp_path / "printed", number=2)
    one, two = (losses(tmp_path / run) for run in ("one", "two"))
    assert one.keys() == two.keys() and len(one) >= 6
    assert max(abs(one[step] - two[step]) for step in one) < 1e-4
    ours, theirs = (KnowledgeMap.from_pretrained(tmp_path / run).projection.weight for run in ("one", "two"))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_frozen_encoder_drops_out_only_where_it_is_asked_to(folder):
    model = model_of(folder).train()
    batch = batch_of(folder, model)
    assert torch.equal(model(**batch).loss, model(**batch).loss)
    model.base_model.backbone_dropout(0.25)
    assert {module.p for module in model.base_model.backbone.modules() if isinstance(module, torch.nn.Dropout)} == {
        0.25
    }
    assert not torch.equal(model(**batch).loss, model(**batch).loss)
    assert torch.equal(model.eval()(**batch).loss, model(**batch).loss)
    with pytest.raises(ValueError, match=r"backbone_dropout=1\.5 must lie between 0 and 1"):
        model.base_model.backbone_dropout(1.5)


def test_kept_states_are_refused_where_they_depend_on_entities(folder, tmp_path, capsys):
    model = model_of(folder)
    flags = CacheArguments(cache_features=str(tmp_path / "features"))
    features, _ = open_features(flags, model, {"train": Dataset.from_dict({"input_ids": [[1]]})}, None, True)
    assert features is None and "'wikidata' changes the input embeddings" in capsys.readouterr().out
    with pytest.raises(ValueError, match="'wikidata' changes the input embeddings, so its model shares no hidden"):
        SharedBackbone([model, KAdapterModel.from_backbone(str(folder / "bert"))])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--entity_embeddings", ""), "--entity_embeddings is missing"),
        (("--corpus", "conllu"), "this objective needs relation records"),
        (("--objective", "factual", "--backbone_dropout", "0.1"), "--backbone_dropout 0.1 is for a map before the"),
    ],
)
def test_flags_that_train_no_map_are_refused(folder, tmp_path, flags, sentence):
    paths = {"--entity_embeddings": folder / "table", "--backbone": folder / "bert", "--data_dir": folder / "data"}
    paths = {name: path for name, path in paths.items() if name not in flags}
    words = [*FLAGS, *(str(word) for pair in paths.items() for word in pair), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=sentence):
        run_adapter.main([*words, *(flags if flags[-1] else ())])


def test_a_table_of_another_knowledge_base_is_refused(folder):
    table = EntityEmbeddings(["C1", "C2"], torch.zeros(2, 16), "umls")
    table.save_pretrained(folder / "umls")
    objective = objective_of(folder, entity_embeddings=str(folder / "umls"))
    with pytest.raises(ValueError, match="none of the 6 ids"):
        objective.learn(Dataset.from_dict(rows()))
