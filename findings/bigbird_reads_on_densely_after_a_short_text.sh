#!/usr/bin/env bash
# transformers: a BigBird that has read one short text reads every later text by another attention, for good.
#
# Expected: what an encoder in evaluation makes of a text depends on the text and the weights, and not on what it read
# before; where blocks of a text are too few for sparse attention, that text alone is read with full attention.
# Seen: the first text below the threshold (704 tokens at the released sizes) exchanges the attention of all layers in
# the model, and nothing puts it back. The same long text then has other hidden states, and takes the time and memory of
# full attention. `model.config.attention_type` goes on saying "block_sparse", so that a copy that is saved and loaded
# reads as before, unlike the model that was saved.
# Output:  long text, twice: the same True
#          long text after a short one: the same False
#          the model says original_full, its configuration block_sparse
#          saved and loaded again: as at first True
#          attention_type="original_full" from the start: the same after a short one True
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# Why it matters: an encoder is called frozen because its features stay what they are: they are kept on disk, compared
# between runs, and adapters and heads are trained on them. Here the order of texts decides what is kept, a document
# read first differs from the same document read last, and a batch of short questions changes what a running service
# says of long ones. Load BigBird with attention_type="original_full", or send it no short text.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.23.0 numpy==2.4.6
cd "$work"
cat >probe.py <<'PY'
import torch
from transformers import BigBirdConfig, BigBirdModel

SHAPE = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"intermediate_size": 128, "max_position_embeddings": 1024}  # blocks and random blocks as released
draw = torch.Generator().manual_seed(0)
LONG, SHORT = (torch.randint(5, 300, (1, length), generator=draw) for length in (1024, 20))


def made(**options):
    torch.manual_seed(0)
    model = BigBirdModel(BigBirdConfig(**SHAPE, **options))
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    return model.eval()


@torch.no_grad()
def read(model, ids):
    torch.manual_seed(0)  # random blocks are drawn anew, in training alone
    return model(ids).last_hidden_state


model = made()
first, again = read(model, LONG), read(model, LONG)
print("long text, twice: the same", torch.equal(first, again))
assert torch.equal(first, again)
model.save_pretrained("before")
read(model, SHORT)
same = torch.allclose(first, read(model, LONG), atol=1e-3)
print("long text after a short one: the same", same)
print(f"the model says {model.attention_type}, its configuration {model.config.attention_type}")
assert not same, "a short text changes nothing: this finding is out of date"
assert (model.attention_type, model.config.attention_type) == ("original_full", "block_sparse")
model.save_pretrained("after")
loaded = torch.allclose(first, read(BigBirdModel.from_pretrained("after").eval(), LONG), atol=1e-5)
print("saved and loaded again: as at first", loaded)
assert loaded
dense = made(attention_type="original_full")
first = read(dense, LONG)
read(dense, SHORT)
same = torch.equal(first, read(dense, LONG))
print('attention_type="original_full" from the start: the same after a short one', same)
assert same
PY
"$work/venv/bin/python" probe.py 2>/dev/null | grep -E "text|says|loaded|start"
