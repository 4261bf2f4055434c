#!/usr/bin/env bash
# torch.onnx.export: an encoder in bfloat16 becomes a graph that ONNX Runtime's CPU provider does not open.
#
# Expected: an encoder that PyTorch runs in bfloat16 on a CPU exports to a graph that ONNX Runtime runs there too, or the
# exporter, which compares what it writes with the model if asked, says that bfloat16 will not do.
# Seen: the export succeeds without a word about it, and onnx's checker passes the file; ONNX Runtime refuses to open it,
# since its CPU provider has no addition of bfloat16. The same encoder in float32 exports and runs.
# Output:  bfloat16: exported and checked, then refused by onnxruntime: NotImplemented
#          float32: exported, runs
# Versions: torch 2.13.0, transformers 5.23.0, onnx 1.20.0, onnxscript 0.7.2, onnxruntime 1.32.0, Python 3.11.
# Why it matters: checkpoints come in bfloat16 more and more, and `dtype="auto"` keeps them so; who exports one learns
# that it does not open only where it is deployed. Call `model.float()` before the export.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.23.0 onnx==1.20.0 onnxscript==0.7.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
cat >probe.py <<'PY'
import logging
import warnings

import onnx
import onnxruntime
import torch
from transformers import RobertaConfig, RobertaModel

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
config = RobertaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
ids = torch.tensor([[0, 7, 8, 2]])
mask = torch.ones_like(ids)


class States(torch.nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.encoder = RobertaModel(config, add_pooling_layer=False).eval().to(dtype)

    def forward(self, input_ids, attention_mask):
        return self.encoder(input_ids, attention_mask).last_hidden_state


def run(dtype):
    module = States(dtype)
    with torch.no_grad():
        assert torch.isfinite(module(ids, mask)).all()  # PyTorch runs it
    torch.onnx.export(module, (ids, mask), "graph.onnx", dynamo=True, verbose=False)
    onnx.checker.check_model("graph.onnx")
    session = onnxruntime.InferenceSession("graph.onnx", providers=["CPUExecutionProvider"])
    session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})


try:
    run(torch.bfloat16)
except Exception as error:
    print(f"bfloat16: exported and checked, then refused by onnxruntime: {type(error).__name__}")
    assert type(error).__module__.startswith("onnxruntime") and "NOT_IMPLEMENTED" in str(error), error
else:
    raise SystemExit("the graph in bfloat16 opens now: this finding is out of date")
run(torch.float32)
print("float32: exported, runs")
PY
"$work/venv/bin/python" probe.py
