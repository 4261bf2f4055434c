#!/usr/bin/env bash
# peft: a LoRA that was trained on another base model of the same shapes is loaded without a warning.
#
# Expected: adapter_config.json names its base model (base_model_name_or_path, revision); PeftModel.from_pretrained on a
# model that was loaded from elsewhere warns or refuses.
# Seen: the name is written, read and kept, and compared with nothing. Only shapes must fit, and those of all fine-tuned
# versions of one encoder do. The outputs are far from those of the model that was trained.
# Output:  trained on base-a, loaded on base-b: warnings about the base: 0, still said to belong to base-a: True
#          largest difference of the outputs: more than 1: True
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0, Python 3.11.
# Why it matters: "the base was updated on the Hub" and "the wrong checkpoint of ten was mounted" look like an adapter
# that is slightly worse. Compare a fingerprint of the base's tensors, not its shapes or its name.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cd "$work"
cat >probe.py <<'PY'
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import BertConfig, BertModel

shape = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)


def base(name, seed):
    torch.manual_seed(seed)
    BertModel(shape).save_pretrained(name)
    return BertModel.from_pretrained(name).eval()


trained = get_peft_model(base("base-a", 0), LoraConfig(r=4, target_modules=["query", "value"])).eval()
for name, parameter in trained.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter)  # as training would have moved it from zero
trained.save_pretrained("lora")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    loaded = PeftModel.from_pretrained(base("base-b", 1), "lora").eval()
about_base = [warning for warning in caught if "base" in str(warning.message).lower()]
named = loaded.peft_config["default"].base_model_name_or_path
print(f"trained on base-a, loaded on base-b: warnings about the base: {len(about_base)}, ", end="")
print(f"still said to belong to base-a: {named.endswith('base-a')}")
assert not about_base and named.endswith("base-a"), "the base is looked at now: this finding is out of date"
with torch.no_grad():
    inputs = torch.arange(5, 15)[None]
    difference = (trained(inputs).last_hidden_state - loaded(inputs).last_hidden_state).abs().max().item()
print(f"largest difference of the outputs: more than 1: {difference > 1}")
assert difference > 1
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" probe.py 2>/dev/null
