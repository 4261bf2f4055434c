"""The encoder's graph equals PyTorch on every family of encoders: last hidden state and taps, any batch and length."""

import numpy as np
import onnxruntime
import pytest
import torch
from helpers import FAMILIES, OTHER_SIZES, batch, tiny_backbone

pytest.importorskip("onnxscript", reason="exporting needs onnxscript: pip install 'kadapter[onnx]'")
from kadapter import KAdapterModel
from kadapter.exports import plans
from kadapter.exports.tracing import trace

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
SHAPES = [
    ((9, 6, 4), "right", 1),
    ((9, 6, 4), "left", 3),
    ((1,), "right", 0),
    ((20, 3, 5, 8, 1), "left", 0),
    ((30,), "right", 0),
]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_of_an_encoder_equals_pytorch(family, tmp_path):
    shallow = {"n_layers": 2} if "n_layers" in OTHER_SIZES.get(family, {}) else {"num_hidden_layers": 2}
    traced = plans.encoder(KAdapterModel.from_backbone(tiny_backbone(family, **shallow)), [0, 1, 2])
    trace(traced, tmp_path / "encoder.onnx", "onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "encoder.onnx"))
    for lengths, side, extra in SHAPES:
        inputs = batch(family, lengths=lengths, side=side, extra=extra)
        with torch.no_grad():
            expected = traced.module(**inputs)
        fed = {"token_type_ids": torch.zeros_like(inputs["input_ids"]), **inputs}
        found = session.run(None, {name: fed[name].numpy() for name in traced.inputs})
        real = inputs["attention_mask"].bool().numpy()
        for each, array in zip(expected, found, strict=True):
            largest = np.abs(each.numpy()[real]).max()
            assert np.abs(each.numpy() - array)[real].max() < 1e-5 * largest, (family, lengths, side)
