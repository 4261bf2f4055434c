#!/usr/bin/env bash
# peft: orthogonal subspace fine-tuning (OSF) changes the directions that it protects, under the usual optimizer.
#
# Expected: OSF keeps the upper half of each weight's singular directions, and updates are orthogonal to these; so what
# training changed, W - W0, has nothing in them, whatever the optimizer: U_high^T (W - W0) is zero but for rounding.
# Seen: gradients are projected before the optimizer sees them. SGD only scales them, and keeps to it. AdamW divides each
# element by a number of its own, after which the step is orthogonal to nothing: of what it changes a tenth, by norm,
# lies in the protected directions after 20 steps, and more after 200.
# Output:  SGD, 20 steps: of the change in the protected directions, at most: 0.0000
#          AdamW, 20 steps: of the change in the protected directions, at least 0.05: True
#          AdamW, 200 steps: of the change in the protected directions, at least 0.05: True
# Versions: peft 0.21.2, transformers 5.23.0, torch 2.13.0, Python 3.11.
# Why it matters: OSF is what PEFT offers against forgetting, and AdamW is what Trainer takes unasked. A comparison of
# what methods keep has to say which optimizer ran, and a guarantee that lies in gradients holds for SGD alone: project
# the step, or W - W0, or leave the weights that have to stay out of reach.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet peft==0.21.2 transformers==5.23.0 accelerate==1.15.0
cd "$work"
cat >probe.py <<'PY'
import torch
from peft import OSFConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

shape = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
)


def shares(optimizer, rate, steps):
    """Train on a few sentences; of what each Linear changed, the share that lies in its protected directions."""
    torch.manual_seed(0)
    base, texts = LlamaForCausalLM(shape), torch.randint(0, 64, (8, 12))
    linears = {name: module for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)}
    before = {name: module.weight.detach().clone() for name, module in linears.items() if name != "lm_head"}
    model = get_peft_model(base, OSFConfig(target_modules="all-linear", effective_rank=0.5))
    learner = optimizer([parameter for parameter in model.parameters() if parameter.requires_grad], lr=rate)
    for _ in range(steps):
        learner.zero_grad()
        model(input_ids=texts, labels=texts).loss.backward()
        learner.step()
    after = dict(model.merge_and_unload().named_modules())
    found = []
    for name, weight in before.items():
        left, values, _ = torch.linalg.svd(weight, full_matrices=False)
        changed = after[name].weight.detach() - weight
        found.append(((left[:, : len(values) // 2].T @ changed).norm() / changed.norm()).item())
    return found


what = "of the change in the protected directions"
kept = max(shares(torch.optim.SGD, 0.5, 20))
print(f"SGD, 20 steps: {what}, at most: {kept:.4f}")
assert kept < 1e-3
for steps in (20, 200):
    left = min(shares(torch.optim.AdamW, 1e-3, steps))
    print(f"AdamW, {steps} steps: {what}, at least 0.05: {left > 0.05}")
    assert left > 0.05, "steps are projected now: this finding is out of date"
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" probe.py 2>/dev/null
