"""A keyword of forward that nobody knows is refused; transformers' own forwards swallow it."""

import pytest
import torch
from helpers import FAMILIES, batch, make_model, save_backbone, small_adapter, tiny_backbone

from kadapter import (
    KAdapterForDependencyParsing,
    KAdapterForEntityClassification,
    KAdapterForEntityPairClassification,
    KAdapterForMultipleChoice,
    KAdapterForQuestionAnswering,
    KAdapterForSequenceClassification,
    KAdapterForTokenClassification,
    KAdapterModel,
)

POSITIONS = torch.tensor([[1, 4], [2, 3], [0, 2]])
INPUTS = {
    KAdapterModel: {},
    KAdapterForSequenceClassification: {},
    KAdapterForTokenClassification: {},
    KAdapterForQuestionAnswering: {},
    KAdapterForMultipleChoice: {},
    KAdapterForEntityClassification: {"entity_positions": POSITIONS[:, :1]},
    KAdapterForEntityPairClassification: {"entity_positions": POSITIONS},
    KAdapterForDependencyParsing: {"word_positions": POSITIONS},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of each class with its inputs, on one backbone."""
    backbone = save_backbone(tmp_path_factory.mktemp("keywords") / "backbone")
    found = {}
    for model_class, own in INPUTS.items():
        inputs = {**batch(), **own}
        if model_class is KAdapterForMultipleChoice:
            inputs = {key: tensor[:, None] for key, tensor in inputs.items()}
        found[model_class] = make_model(backbone, "fac", model_class=model_class, arc_size=8), inputs
    return found


WRONG = {
    "adapter_name": ("a secret", "did you mean 'adapter_names'"),
    "atention_mask": (torch.ones(3, 9), "did you mean 'attention_mask'"),
    "output_hidden_state": (True, "did you mean 'output_hidden_states'"),
    "past_key_values": ("a secret", "leave it out"),
    "use_auth_token": ("a secret", "leave it out"),
}


@pytest.mark.parametrize("keyword", WRONG)
@pytest.mark.parametrize("model_class", INPUTS)
def test_an_unknown_keyword_is_named_without_its_value_by_every_class(models, model_class, keyword):
    model, inputs = models[model_class]
    value, hint = WRONG[keyword]
    if model_class is KAdapterForMultipleChoice and isinstance(value, torch.Tensor):
        value = value[:, None]
    reading = model.tap if model_class is KAdapterModel else model.read
    for function in (model, reading):
        with pytest.raises(TypeError, match=f"no keyword '{keyword}'.*{hint}") as error:
            function(**inputs, **{keyword: value})
        assert "secret" not in str(error.value)


def test_states_that_were_read_before_excuse_no_unknown_keyword(models):
    model, inputs = models[KAdapterForEntityPairClassification]
    states = model.read(**inputs)
    assert model(states=states, labels=torch.tensor([0, 1, 0])).loss.isfinite()
    with pytest.raises(TypeError, match="no keyword 'adapter_name'"):
        model(states=states, adapter_name="fac")


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_tokenizer_or_trainer_gives_passes_on_every_family(family):
    model = make_model(tiny_backbone(family), "fac", model_class=KAdapterForSequenceClassification)
    inputs = {**batch(family), "labels": torch.tensor([0, 1, 0]), "num_items_in_batch": 3, "return_dict": True}
    kinds = torch.zeros_like(inputs["input_ids"])
    assert torch.equal(model(**inputs, token_type_ids=kinds).logits, model(**inputs).logits)


def test_token_types_that_a_backbone_does_not_know_are_refused():
    model = make_model(tiny_backbone("distilbert"), "fac")
    with pytest.raises(TypeError, match="no keyword 'token_type_ids'"):
        model(**batch("distilbert"), token_type_ids=torch.ones(3, 9, dtype=torch.long))


def test_hidden_states_and_attentions_are_given_by_the_model_and_refused_by_its_heads(tmp_path):
    model = KAdapterForTokenClassification.from_backbone(
        save_backbone(tmp_path), adapters={"fac": small_adapter()}, attn_implementation="eager"
    ).eval()
    found = model.base_model(**batch(), output_hidden_states=True, output_attentions=True)
    assert len(found.hidden_states) == 5 and [one.shape for one in found.attentions] == [(3, 4, 9, 9)] * 4
    for keyword in ("output_hidden_states", "output_attentions"):
        assert model(**batch(), **{keyword: False}).logits.shape == (3, 9, 2)
        with pytest.raises(TypeError, match=f"a head has no {keyword}.*base_model"):
            model(**batch(), **{keyword: True})
    tapped = model.base_model.tap(**batch())
    with pytest.raises(ValueError, match="hidden_states stand for a run of the backbone"):
        model.base_model(**batch(), hidden_states=tapped, output_hidden_states=True)
