"""transformers' Trainer evaluates our models: rows that name their adapters, and no input is lost on the way."""

import inspect

import pytest
import torch
from datasets import Dataset
from documented import ROOT, blocks
from helpers import make_model, save_backbone, shake
from tiny_runs import tokenizer_of
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

import kadapter
from kadapter import KAdapterForSequenceClassification, KnowledgeMapConfig

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")  # on a CPU

LABELS = {"id2label": {0: "born", 1: "birds", 2: "why"}, "label2id": {"born": 0, "birds": 1, "why": 2}}
PAGE = ROOT / "docs" / "mixed_batches.md"
NAME = "tests/training/test_evaluation_by_rows.py"


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The names that the block of the page leaves."""
    folder = tmp_path_factory.mktemp("rows")
    texts = ["Mira Voss was born in Tarnstad.", "Birds sing at dawn.", "Why did she stay in?"]
    tokenizer = tokenizer_of([f" {text}" for text in texts] * 3)
    backbone = save_backbone(folder / "backbone", vocab_size=len(tokenizer), max_position_embeddings=48)
    tokenizer.save_pretrained(backbone)
    model = make_model(backbone, "fac", "lin", model_class=KAdapterForSequenceClassification, **LABELS)
    shake(model, std=0.2).save_pretrained(folder / "topics")
    (block,) = [block for block in blocks(PAGE) if block.why == NAME]
    names = {"__name__": "shown"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(block.text, names)
        yield names  # the block's output directory is a relative one


def test_each_row_is_evaluated_through_its_own_adapters(shown):
    trainer, rows, tokenizer = (shown[name] for name in ("trainer", "rows", "tokenizer"))
    predictions = torch.tensor(trainer.predict(rows).predictions)
    alone = []
    for text, names in zip(rows["text"], rows["adapter_names"], strict=True):
        inputs = tokenizer([text], return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            alone.append(shown["model"].eval()(**inputs, adapter_names=[names]).logits)
    torch.testing.assert_close(predictions, torch.cat(alone), rtol=1e-4, atol=1e-5)
    loss = torch.nn.functional.cross_entropy(torch.cat(alone), torch.tensor(rows["labels"])).item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-4)


def test_a_column_of_names_is_not_dropped_in_silence_where_the_collator_can_not_carry_it(shown):
    collator = DataCollatorWithPadding(shown["tokenizer"])
    trainer = Trainer(shown["model"], shown["arguments"], data_collator=collator, eval_dataset=shown["rows"])
    with pytest.raises(ValueError, match="adapter_names"):
        trainer.evaluate()


HEADS = [
    kadapter.KAdapterForSequenceClassification,
    kadapter.KAdapterForEntityClassification,
    kadapter.KAdapterForMultipleChoice,
    kadapter.KAdapterForTokenClassification,
    kadapter.KAdapterForQuestionAnswering,
    kadapter.KAdapterForDependencyParsing,
    kadapter.KAdapterForMaskedLM,
    kadapter.KAdapterForCausalLM,
    kadapter.KAdapterModelWithHeads,
]


@pytest.mark.parametrize("model_class", HEADS)
def test_forward_names_the_columns_of_a_data_set_that_trainer_must_not_drop(model_class):
    named = set(inspect.signature(model_class.forward).parameters)
    assert {"token_type_ids", "position_ids", "inputs_embeds", "knowledge_slots", "knowledge_embeds"} <= named
    assert "adapter_names" in named


def test_trainer_keeps_the_segments_of_pairs_and_the_entities_of_a_map(tmp_path):
    backbone = save_backbone(tmp_path / "backbone", "bert")
    model = make_model(backbone, "fac", model_class=KAdapterForSequenceClassification, num_labels=3)
    model.add_adapter("wikidata", KnowledgeMapConfig(knowledge_size=6))
    shake(model, std=0.2).eval()
    drawn = torch.Generator().manual_seed(0)
    rows = {
        "input_ids": torch.randint(5, 60, (3, 8), generator=drawn),
        "attention_mask": torch.ones(3, 8, dtype=torch.long),
        "token_type_ids": torch.tensor([[0] * 4 + [1] * 4] * 3),
        "knowledge_slots": torch.tensor([[2], [4], [6]]),
        "knowledge_embeds": torch.randn(3, 1, 6, generator=drawn),
    }
    with torch.no_grad():
        expected = model(**rows).logits
        for lost in (["token_type_ids"], ["knowledge_slots", "knowledge_embeds"]):
            left = {name: value for name, value in rows.items() if name not in lost}
            assert (model(**left).logits - expected).abs().max() > 1e-3
    arguments = TrainingArguments(str(tmp_path / "out"), report_to="none", use_cpu=True)
    data = Dataset.from_dict({name: value.tolist() for name, value in rows.items()})
    predicted = Trainer(model, arguments).predict(data).predictions
    torch.testing.assert_close(torch.tensor(predicted), expected, rtol=1e-4, atol=1e-5)
