#!/usr/bin/env bash
# torch.onnx.export(dynamo=False): a count over a boolean mask becomes a graph that no runtime opens.
#
# Expected: `(mask != 0).cumsum(1)`, by which encoders number the tokens that are not padding, exports as in PyTorch,
# where the sum of booleans is int64; or the export fails and says why.
# Seen: the export succeeds without a word. The graph feeds a boolean into CumSum, whose types in the ONNX standard are
# numbers, and casts the result afterwards; onnx's checker and ONNX Runtime refuse the file. Casting first is right.
# Output:  cumsum of booleans: exported, then refused by onnxruntime: InvalidGraph
#          cumsum of integers: exported, runs, equal: True
# Versions: torch 2.13.0, onnx 1.20.0, onnxruntime 1.32.0, Python 3.11.
# Why it matters: position ids from masks stand in most encoders and in what is built around them; the fault shows when
# the file is deployed, not when it is written. Write `mask.to(torch.int64)` before every cumsum.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet onnx==1.20.0 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
cat >probe.py <<'PY'
import warnings

import onnxruntime
import torch

warnings.filterwarnings("ignore")


class OfBooleans(torch.nn.Module):
    def forward(self, mask):
        return (mask != 0).cumsum(1) - 1


class OfIntegers(torch.nn.Module):
    def forward(self, mask):
        return (mask != 0).to(torch.int64).cumsum(1) - 1


mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])


def exported(module):
    torch.onnx.export(module, (mask,), "graph.onnx", dynamo=False, input_names=["mask"], opset_version=17)
    session = onnxruntime.InferenceSession("graph.onnx", providers=["CPUExecutionProvider"])
    return bool((torch.from_numpy(session.run(None, {"mask": mask.numpy()})[0]) == module(mask)).all())


try:
    exported(OfBooleans())
except Exception as error:
    print(f"cumsum of booleans: exported, then refused by onnxruntime: {type(error).__name__}")
    assert "bool" in str(error) and "CumSum" in str(error)
else:
    raise SystemExit("the exported graph opens now: this finding is out of date")
print(f"cumsum of integers: exported, runs, equal: {exported(OfIntegers())}")
PY
"$work/venv/bin/python" probe.py
