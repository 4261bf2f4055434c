"""A server's threads share one model: each gets what it would get alone."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import batch, bytes_of, make_model, output, save_backbone, small_adapter, tiny_backbone

from kadapter import KAdapterForEntityPairClassification, KAdapterModel

PAIRS = torch.tensor([[1, 2], [0, 3], [2, 1]])


@pytest.fixture
def impatient():
    """Let threads take turns as often as they can."""
    interval, threads = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(1e-6)
    torch.set_num_threads(1)
    yield
    sys.setswitchinterval(interval)
    torch.set_num_threads(threads)


def count_calls(module):
    """The list that grows by one at each call of a module."""
    calls = []
    module.register_forward_hook(lambda module, args, result: calls.append(None))
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("family", ["roberta", "deberta-v2", "modernbert", "albert"])
def test_threads_that_share_a_model_get_its_outputs_to_the_bit_by_one_run_of_the_backbone_each(family, impatient):
    model = make_model(tiny_backbone(family), "fac", "lin")
    inputs = [batch(family, lengths=(9 - n % 3, 5), seed=n, side=("right", "left")[n % 2]) for n in range(12)]
    alone = make_model(tiny_backbone(family), "fac", "lin")
    expected = [output(alone, **one) for one in inputs]
    calls = count_calls(model.backbone)
    with ThreadPoolExecutor(6) as pool:  # the model's first calls among them
        found = list(pool.map(lambda one: output(model, **one), inputs * 4))
    assert all(map(torch.equal, found, expected * 4)) and len(calls) == len(found)


def test_threads_may_ask_for_different_things_at_a_time(impatient):
    model = make_model(tiny_backbone(), "fac", model_class=KAdapterForEntityPairClassification, num_labels=3)
    core, inputs = model.kadapter, batch()
    words = torch.nn.functional.embedding(inputs["input_ids"], model.get_input_embeddings().weight)

    def everything():
        return torch.stack(core(**inputs, output_hidden_states=True).hidden_states)

    def train():
        model(**inputs, entity_positions=PAIRS, labels=torch.tensor([0, 1, 2])).loss.backward()
        return core.backbone.config.hidden_size

    asked = [
        lambda: model(**inputs, entity_positions=PAIRS).logits,
        lambda: core(inputs_embeds=words, attention_mask=inputs["attention_mask"]).last_hidden_state,
        lambda: core.tap(**inputs)[2],
        everything,
    ]

    def call(number):
        if number % 5 == 4:
            return train()
        with torch.no_grad():
            return asked[number % 5]()

    expected = [call(number) for number in range(4)]
    calls = count_calls(core.backbone)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(call, range(100)))
    assert len(calls) == 100
    assert all(torch.equal(one, expected[number % 5]) for number, one in enumerate(found) if number % 5 != 4)


@pytest.mark.thorough
@pytest.mark.slow
def test_threads_that_load_models_get_them_whole_and_leave_torch_as_it_was(tmp_path, impatient):
    make_model(save_backbone(tmp_path / "backbone"), "fac").save_pretrained(tmp_path / "fac")
    expected, initialiser = bytes_of(KAdapterModel.from_pretrained(tmp_path / "fac")), torch.nn.init.kaiming_uniform_

    def load(_):
        model = KAdapterForEntityPairClassification.from_pretrained(tmp_path / "fac", num_labels=3)
        loaded = bytes_of(model.base_model)
        model.add_adapter("new", small_adapter())
        return model, loaded

    with ThreadPoolExecutor(6) as pool:
        for model, loaded in pool.map(load, range(24)):
            assert loaded == expected
            assert 0.01 < model.head.dense.weight.std() < 1  # a new head is initialised, not what lay in memory
            assert 0.01 < model.kadapter.adapters["new"].layers[0].blocks[0].attention.query.weight.std() < 1
    assert torch.nn.init.kaiming_uniform_ is initialiser and torch.get_default_dtype() == torch.float32
