"""Dropout, which on a CPU takes its choices from fewer random bits than PyTorch's, and attention with it."""

import pytest
import torch
from helpers import batch, shake, small_adapter, tiny_backbone

from kadapter import KAdapterModel
from kadapter.modeling_kadapter import Attention, Dropout, attention_mask_of


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_scales_the_rest_and_so_the_gradient(dtype, probability):
    torch.manual_seed(0)
    states = torch.ones(997, 101, dtype=dtype, requires_grad=True)  # no multiple of what is drawn at once
    given = Dropout(probability)(states)
    given.sum().backward()
    zeros = (given == 0).float()
    assert zeros.mean().item() == pytest.approx(
        probability, abs=4 * (probability * (1 - probability) / 997 / 101) ** 0.5
    )
    assert given.max().item() == pytest.approx(1 / (1 - probability), rel=0.01) and torch.equal(states.grad, given)
    neighbours = [
        torch.corrcoef(torch.stack([zeros[:, :-by].flatten(), zeros[:, by:].flatten()]))[0, 1] for by in (1, 4)
    ]
    assert max(map(abs, neighbours)) < 0.02


def test_the_seed_decides_what_dropout_zeroes_and_evaluation_zeroes_nothing():
    states, dropout, given = torch.ones(50, 7), Dropout(0.3), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        given.append(dropout(states))
    assert torch.equal(given[0], given[1]) and not torch.equal(given[0], given[2])
    assert torch.equal(dropout.eval()(states), states)


def test_dropout_of_nothing_and_of_all_and_of_no_values():
    states = torch.randn(3, 5)
    assert torch.equal(Dropout(0.0)(states), states) and not Dropout(1.0)(states).any()
    assert Dropout(0.1)(torch.empty(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("at", [None, torch.tensor([[0], [1]])], ids=["all", "few"])
def test_with_a_vanishing_dropout_training_gives_what_evaluation_does(at):
    rare = small_adapter(hidden_dropout_prob=1e-9, attention_probs_dropout_prob=1e-9)
    model = shake(KAdapterModel.from_backbone(tiny_backbone(), adapters={"fac": rare}))
    inputs = batch(lengths=(20, 12))
    evaluated = model.eval().encode(**inputs, at=at)[1]["fac"]
    trained = model.train().encode(**inputs, at=at)[1]["fac"]
    assert torch.allclose(trained, evaluated, atol=1e-6) and trained.requires_grad


def test_attention_weights_that_are_dropped_leave_the_mean_as_it_is():
    torch.manual_seed(0)
    attention = Attention(width=8, heads=2, dropout=0.0, attention_dropout=0.2, eps=1e-5)
    attention.layer_norm = torch.nn.Identity()  # of which the mean is not that of what it is given
    states, mask = torch.randn(1, 6, 8), attention_mask_of(torch.tensor([[1, 1, 1, 1, 0, 0]]), torch.device("cpu"))
    with torch.no_grad():
        without = attention.eval()(states, mask)
        drawn = torch.cat([attention.train()(states.expand(500, -1, -1), mask) for _ in range(20)])
    spread = drawn.std(dim=0) / len(drawn) ** 0.5
    assert spread.min() > 0 and ((drawn.mean(dim=0) - without[0]).abs() < 5 * spread).all()


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "deberta-v2"])
def test_the_dropout_of_a_backbone_that_trains_is_what_it_is_set_to(model_type):
    """ModernBERT's attention keeps its dropout in a number, without a module."""
    model = KAdapterModel.from_backbone(tiny_backbone(model_type))
    model.backbone.requires_grad_(True)
    given = batch(model_type)

    def differs():
        return not torch.equal(*(model.train()(**given).last_hidden_state for _ in range(2)))

    model.backbone_dropout(0.5)
    assert differs()
    model.backbone_dropout(1e-9)  # so small that only what was not set could drop anything
    assert not differs()
    model.backbone_dropout(0.5)
    model.backbone_dropout(0)
    assert not differs()
    expected = model(**given).last_hidden_state
    model.backbone_dropout(None)
    assert differs() and torch.equal(model.eval()(**given).last_hidden_state, expected)
