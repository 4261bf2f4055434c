#!/usr/bin/env bash
# transformers: an encoder that is unpickled in a new process returns no hidden states, and after it once returned
# them it can't be pickled at all.
#
# Expected: a model sent to worker processes answers there as here: output_hidden_states=True gives one tensor for each
# block and one for the embeddings; and asking for them changes nothing about the model.
# Seen: in a process that only unpickled it the output's hidden_states is None, without a warning; once any model of
# its class is constructed there, they come. What a class captures is noted when an instance is constructed, which
# unpickling does not do. In the first process a call with output_hidden_states=True leaves hooks on the model that are
# local functions, so pickle.dumps(model) and torch.save(model) fail from then on.
# Output:  hidden states here: 3
#          pickled after that call: AttributeError
#          hidden states in a process that unpickled it: None
#          there, after another of its class was constructed: 3
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# Why it matters: probing and adapters read hidden states, and multi-process encoding sends models by pickle. A worker
# that falls back to last_hidden_state where hidden_states is None computes something else and says nothing. Send the
# state dict and construct the model in the worker.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.23.0 numpy==2.4.6
cd "$work"
cat >here.py <<'PY'
import pickle

import torch
from transformers import BertConfig, BertModel

shape = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
model = BertModel(shape).eval()
with open("model.pkl", "wb") as file:
    pickle.dump(model, file)
states = model(torch.arange(5, 10)[None], output_hidden_states=True).hidden_states
print(f"hidden states here: {len(states)}")
try:
    pickle.dumps(model)
except AttributeError as error:
    print(f"pickled after that call: {type(error).__name__}")
else:
    raise SystemExit("it pickles after the call: this finding is out of date")
PY
cat >there.py <<'PY'
import pickle

import torch
from transformers import BertModel

with open("model.pkl", "rb") as file:
    model = pickle.load(file)
inputs = torch.arange(5, 10)[None]
states = model(inputs, output_hidden_states=True).hidden_states
print(f"hidden states in a process that unpickled it: {states}")
assert states is None, "an unpickled encoder returns them: this finding is out of date"
BertModel(model.config)
with open("model.pkl", "rb") as file:
    model = pickle.load(file)
print(f"there, after another of its class was constructed: {len(model(inputs, output_hidden_states=True).hidden_states)}")
PY
"$work/venv/bin/python" here.py 2>/dev/null
"$work/venv/bin/python" there.py 2>/dev/null
