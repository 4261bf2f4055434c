#!/usr/bin/env bash
# transformers' pipelines on a PEFT model: adapter_names of a mixed batch is dropped, and every text gets one adapter.
#
# Expected: PEFT models take adapter_names, an adapter for each row, so pipe(texts, adapter_names=[...]) gives each text
# the adapter that it names, or says that the pipeline knows no such keyword.
# Seen: text-classification hands the keyword to the tokenizer, feature-extraction leaves it out. All texts go through the
# active adapter, those for "__base__" too; nothing is raised. Token-classification and fill-mask raise TypeError.
# Output:  three texts alike, through fac, lin and no adapter: the model gives 3 answers
#          text-classification: 1, feature-extraction: 1
#          token-classification: TypeError, fill-mask: TypeError
# Versions: transformers 5.23.0, peft 0.21.2, torch 2.13.0, Python 3.11.
# Why it matters: a service with an adapter for each customer, or an evaluation with and without one, has the answers of
# another adapter, and scores that look right. Call the model itself, or a pipeline whose class knows the keyword.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cd "$work"
cat >probe.py <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedTokenizerFast,
    pipeline,
)

words = "[PAD] [UNK] [CLS] [SEP] [MASK] marie curie was born in warsaw".split()
raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **special)
shape = BertConfig(
    vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
)
texts, names = ["marie curie was born in [MASK]"] * 3, ["fac", "lin", "__base__"]


def taught(model_class, task_type):
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["query", "value"], task_type=task_type)
    model = get_peft_model(model_class(shape), lora, "fac")
    model.add_adapter("lin", lora)
    model.set_adapter("fac")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)  # as training would have moved it from zero
    return model.eval()


def different(rows):
    kept = []
    for row in rows:
        if not any(torch.allclose(row, other, atol=1e-4) for other in kept):
            kept.append(row)
    return len(kept)


classifier = taught(BertForSequenceClassification, "SEQ_CLS")
with torch.no_grad():
    inputs = tokenizer(texts, return_tensors="pt", return_token_type_ids=False)
    answered = different(classifier(**inputs, adapter_names=names).logits.softmax(-1))
pipe = pipeline("text-classification", model=classifier, tokenizer=tokenizer, top_k=None)
scores = [
    torch.tensor([own["score"] for own in sorted(each, key=lambda own: own["label"])])
    for each in pipe(texts, adapter_names=names, batch_size=3)
]
print(f"three texts alike, through fac, lin and no adapter: the model gives {answered} answers")
pipe = pipeline("feature-extraction", model=taught(BertModel, "FEATURE_EXTRACTION"), tokenizer=tokenizer)
features = [torch.tensor(each) for each in pipe(texts, adapter_names=names)]
print(f"text-classification: {different(scores)}, feature-extraction: {different(features)}")
raised = {}
for task, model in (
    ("token-classification", taught(BertForTokenClassification, "TOKEN_CLS")),
    ("fill-mask", taught(BertForMaskedLM, None)),
):
    try:
        pipeline(task, model=model, tokenizer=tokenizer)(texts, adapter_names=names)
    except TypeError as error:
        raised[task] = type(error).__name__
print(", ".join(f"{task}: {error}" for task, error in raised.items()))
assert answered == 3
assert different(scores) == different(features) == 1, "the pipelines know adapter_names: this finding is out of date"
assert len(raised) == 2
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" probe.py 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
