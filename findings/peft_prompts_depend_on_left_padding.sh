#!/usr/bin/env bash
# peft: before a text that is padded on the left, prefixes, cartridges and soft prompts give another answer.
#
# Expected: a decoder with relative positions, such as Llama, says of a text in a batch what it says of it alone, on
# whichever side the batch is padded. It does by itself; with a trained prefix in front it should too.
# Seen: the padding stands between the prefix and the text, and positions are counted through it, so the text is further
# away from what was learned: forward finds another token likeliest. position_ids that leave the padding out mend that for
# prefixes and cartridges, for which generate is right too; prompt tuning ignores them, and generates other text.
# Output:  model alone: forward as alone True, generate as alone True
#          PrefixTuningConfig: forward as alone False, with position_ids True, generate as alone True
#          CartridgeConfig: forward as alone False, with position_ids True, generate as alone True
#          PromptTuningConfig: forward as alone False, with position_ids False, generate as alone False
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0, Python 3.11.
# Why it matters: facts that were distilled into a prefix are scored in batches, and decoders are mostly padded on the
# left; so what a prefix knows depends on the longest prompt beside it, and a score and what is generated disagree. Pad
# on the right for scores, or give position_ids; give prompts of one length to prompt tuning.
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
from peft import CartridgeConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
shape = LlamaConfig(vocab_size=60, initializer_range=0.1, **sizes, **special)
text, pads = torch.tensor([[11, 12, 13]]), 8
batch = torch.cat([torch.zeros(1, pads, dtype=torch.long), text], dim=1)
batch = torch.cat([batch, torch.arange(20, 20 + batch.shape[1])[None]])
mask = torch.ones_like(batch)
mask[0, :pads] = 0
positions = (mask.cumsum(dim=1) - 1).clamp(min=0)


def base():
    torch.manual_seed(0)
    return LlamaForCausalLM(shape).eval()


def prompted(config_class):
    model = get_peft_model(base(), config_class(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    torch.manual_seed(1)
    for parameter in model.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter)  # as training would have moved it
    return model


@torch.no_grad()
def compare(model):
    alone = model(input_ids=text, attention_mask=torch.ones_like(text)).logits[0, -1]
    padded = model(input_ids=batch, attention_mask=mask).logits[0, -1]
    placed = model(input_ids=batch, attention_mask=mask, position_ids=positions).logits[0, -1]
    options = {"max_new_tokens": 24, "do_sample": False}
    one = model.generate(input_ids=text, attention_mask=torch.ones_like(text), **options)[0]
    several = model.generate(input_ids=batch, attention_mask=mask, **options)[0, pads:]
    same = [torch.allclose(alone.softmax(-1), other.softmax(-1), atol=1e-3) for other in (padded, placed)]
    return [*same, torch.equal(one, several)]


forward, _, generated = compare(base())
print(f"model alone: forward as alone {forward}, generate as alone {generated}")
assert forward and generated
seen = {}
for config_class in (PrefixTuningConfig, CartridgeConfig, PromptTuningConfig):
    forward, placed, generated = seen[config_class.__name__] = tuple(compare(prompted(config_class)))
    print(f"{config_class.__name__}: forward as alone {forward}, with position_ids {placed}, ", end="")
    print(f"generate as alone {generated}")
expected = {"PrefixTuningConfig": True, "CartridgeConfig": True, "PromptTuningConfig": False}
assert seen == {name: (False, mended, mended) for name, mended in expected.items()}, "this finding is out of date"
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" probe.py 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
