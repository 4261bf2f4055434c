"""A model is one graph for torch.compile, and what it is exported to is what other runtimes can run."""

import copy

import pytest
import torch
from helpers import batch, make_model, shake, small_adapter, tiny_backbone
from torch.utils._python_dispatch import TorchDispatchMode

from kadapter import (
    KAdapterForEntityPairClassification,
    KAdapterForSequenceClassification,
    KAdapterModel,
)

# PyTorch's own, where it imports its compiler.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
PAIRS = torch.tensor([[1, 2], [0, 3], [2, 1]])
NO_BOOLEANS = ("cumsum", "argmax", "argmin", "cumprod", "sort", "topk")  # that runtimes take no booleans for


def shallow_model(family, *names, model_class=KAdapterModel, **fields):
    """A model on an encoder of two blocks, since what is traced costs time."""
    backbone = tiny_backbone(family, num_hidden_layers=2)
    adapters = {name: small_adapter(layers=[0, 1, 2]) for name in names}
    return shake(model_class.from_backbone(backbone, adapters=adapters, **fields)).eval()


def compiled(model):
    torch.compiler.reset()
    return torch.compile(model, fullgraph=True, backend="eager")  # raises at a graph break; needs no C++ compiler


@pytest.mark.slow
@pytest.mark.parametrize("family", ["roberta", pytest.param("modernbert", marks=pytest.mark.thorough)])
def test_a_model_compiles_as_one_graph_at_its_first_call(family):
    model = shallow_model(family, "fac", "lin")
    graph = compiled(model)
    with torch.no_grad():
        found, expected = (run(**batch(family, side="left")) for run in (graph, model))
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state)
    assert list(found.adapter_hidden_states) == ["fac", "lin"]


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_class", "inputs"),
    [
        (KAdapterForEntityPairClassification, {"entity_positions": PAIRS}),
        (KAdapterForSequenceClassification, {}),
    ],
)
def test_a_head_compiles_with_its_loss_and_trains_alike(model_class, inputs):
    model = shallow_model("roberta", "fac", model_class=model_class, num_labels=3)
    given = {**batch(side="left"), **inputs, "labels": torch.tensor([0, 1, 2])}
    found = []
    for run in (compiled(model), model):
        model.zero_grad()
        result = run(**given)
        result.loss.backward()
        found.append([result.logits, *(one.grad for one in model.parameters() if one.requires_grad)])
    assert len(found[1]) > 40
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.thorough
@pytest.mark.slow
def test_a_copy_compiles_at_its_first_call_too():
    model = copy.deepcopy(shallow_model("bert", "fac"))
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(model)(**batch("bert")).last_hidden_state, model(**batch("bert")).last_hidden_state
        )


class BooleanInputs(TorchDispatchMode):
    """Notes the operations that are given booleans and can't be exported so."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in NO_BOOLEANS and args[0].dtype == torch.bool:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.long, torch.bool])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("model_class", [KAdapterModel, KAdapterForSequenceClassification])
def test_no_booleans_are_summed_or_ordered_which_exported_graphs_can_not(model_class, side, dtype):
    for family in ("bert", "roberta"):
        model = make_model(tiny_backbone(family), "fac", model_class=model_class)
        inputs = batch(family, side=side)
        with torch.no_grad():
            expected = model(**inputs)[0]
            with BooleanInputs() as noted:
                found = model(inputs["input_ids"], inputs["attention_mask"].to(dtype))[0]
        assert noted.seen == [] and torch.equal(found, expected)
