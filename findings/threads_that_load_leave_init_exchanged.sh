#!/usr/bin/env bash
# transformers: after several threads have loaded models, torch.nn.init is no longer torch's, for the whole process.
#
# Expected: from_pretrained in a thread pool, as a server warms up, leaves the libraries as it found them.
# Seen: while it loads, from_pretrained exchanges the functions of torch.nn.init for guarded ones of its own and puts
# back what it saw when it began. Of two threads that overlap, the second saw the guarded ones and puts those back
# last. One load, or many after one another, restore them; of loads in four threads most runs do not.
# Output:  after loads one after another torch.nn.init is as before: True
#          after loads in four threads torch.nn.init is as before: False
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# Why it matters: while the guards are in place, a module that another thread constructs is initialised by them or not
# at all, and later code that takes an initialiser gets a function of transformers that passes over tensors which are
# marked as loaded. Load models one at a time, behind a lock of your own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.23.0 numpy==2.4.6
cd "$work"
cat >probe.py <<'PY'
import sys
import threading

import torch
from transformers import BertConfig, BertModel

shape = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
BertModel(shape).save_pretrained("encoder")
before = torch.nn.init.kaiming_uniform_


def load(times):
    for _ in range(times):
        BertModel.from_pretrained("encoder")


def as_before():
    return torch.nn.init.kaiming_uniform_ is before


load(24)
print(f"after loads one after another torch.nn.init is as before: {as_before()}")
assert as_before()
sys.setswitchinterval(1e-6)  # so that threads overlap on a machine of any size
for _ in range(20):  # threads meet by chance
    threads = [threading.Thread(target=load, args=(6,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not as_before():
        break
print(f"after loads in four threads torch.nn.init is as before: {as_before()}")
assert not as_before(), "threads put back what they found: this finding is out of date"
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" probe.py 2>/dev/null
