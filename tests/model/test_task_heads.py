"""The heads of downstream tasks: what they read, how they score, what they refuse."""

import pytest
import torch
from helpers import batch, make_model, save_backbone, shake, small_adapter, tiny_backbone
from torch.nn import functional as F
from transformers import AutoModelForMultipleChoice, AutoModelForQuestionAnswering, AutoModelForTokenClassification

from kadapter import (
    KAdapterForDependencyParsing,
    KAdapterForEntityClassification,
    KAdapterForEntityPairClassification,
    KAdapterForMultipleChoice,
    KAdapterForPairMatching,
    KAdapterForQuestionAnswering,
    KAdapterForSequenceClassification,
    KAdapterForTokenClassification,
)

PAIRS = torch.tensor([[1, 4], [2, 3], [0, 2]])
SPANS = torch.tensor([[[0, 1, 1], [1, 2, 4]], [[1, 0, 2], [-1, -1, -1]], [[-1, -1, -1], [-1, -1, -1]]])
NONE = -100
SUPPORTS = torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, -1]])  # of three pairs each; the last text has two


def several(number=2):
    """Inputs of as many texts for each question, of different tokens and lengths."""
    texts = [batch(lengths=(9, 6, 5), seed=3 + one) for one in range(number)]
    return {key: torch.stack([one[key] for one in texts], dim=1) for key in texts[0]}


def masked():
    """Questions on two passages, and the tokens that may be part of an answer: all real ones but the first."""
    inputs = several()
    inputs["answer_mask"] = inputs["attention_mask"].bool()
    inputs["answer_mask"][:, 1, 1] = False
    return inputs


# Each head with what it is read from, and what its forward takes besides.
HEADS = {
    "text": (KAdapterForSequenceClassification, batch(), {"labels": torch.tensor([0, 2, 1])}),
    "typing": (
        KAdapterForEntityClassification,
        {**batch(), "entity_positions": PAIRS[:, :1]},
        {"labels": torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]])},
    ),
    "pair": (
        KAdapterForEntityPairClassification,
        {**batch(), "entity_positions": PAIRS},
        {"labels": torch.tensor([0, 2, 1])},
    ),
    "choice": (KAdapterForMultipleChoice, several(3), {"labels": torch.tensor([0, 2, 1])}),
    "match": (
        KAdapterForPairMatching,
        {**several(3), "support_labels": SUPPORTS},
        {"labels": torch.tensor([0, 1, 1])},
    ),
    "tokens": (KAdapterForTokenClassification, batch(), {"labels": torch.tensor([[0, 1, NONE] * 3] * 3)}),
    "answer": (
        KAdapterForQuestionAnswering,
        batch(),
        {"start_positions": torch.tensor([1, 2, -1]), "end_positions": torch.tensor([3, 2, -1])},
    ),
    "passages": (KAdapterForQuestionAnswering, masked(), {"answer_spans": SPANS}),
    "parse": (
        KAdapterForDependencyParsing,
        {**batch(), "word_positions": torch.tensor([[0, 1, 3], [0, 2, -1], [0, 1, 2]])},
        {"labels": torch.tensor([[0, 1], [0, NONE], [2, 0]])},
    ),
}


def made(name, fusion="add", adapters=("fac", "lin"), **kwargs):
    kind, inputs, rest = HEADS[name]
    model = make_model(tiny_backbone(), *adapters, model_class=kind, fusion=fusion, num_labels=3, arc_size=8, **kwargs)
    return model, inputs, rest


def states_of(model, inputs):
    with torch.no_grad():
        return model.read(**inputs)


# ---- states -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["add", "concat", "gated", "gated_token", "delta"])
@pytest.mark.parametrize("name", HEADS)
def test_what_was_read_before_gives_to_the_bit_what_the_inputs_give(name, fusion):
    model, inputs, rest = made(name, fusion)
    with torch.no_grad():
        expected = model(**inputs, **rest)
        states = model.read(**inputs, **rest)
        beside = {key: one for key, one in inputs.items() if key != "input_ids"}
        found = model(states=states, **beside, **rest)
    source = "contributions" if fusion == "delta" else "adapters"
    assert set(states) == {"backbone", f"{source}.fac", f"{source}.lin"}
    assert {(one.dim(), one.shape[-1]) for one in states.values()} == {(3, 32)}
    assert list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)
    assert torch.isfinite(expected.loss) and expected.to_tuple()[0] is expected.loss


@pytest.mark.parametrize(
    ("name", "positions"),
    [("text", 1), ("typing", 1), ("pair", 2), ("choice", 3), ("match", 3), ("parse", 3), ("passages", 18)],
)
def test_only_the_positions_that_a_head_reads_are_kept(name, positions):
    model, inputs, _ = made(name)
    assert {tuple(one.shape) for one in states_of(model, inputs).values()} == {(3, positions, 32)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fusion"),
    [
        ("pair", "gated"),
        ("text", "concat"),
        ("parse", "gated"),
        ("passages", "add"),
        ("pair", "delta"),
    ],
)
@pytest.mark.thorough
def test_adapters_fusion_head_and_loss_compile_as_one_graph_and_give_the_same_numbers(name, fusion):
    model, inputs, rest = made(name, fusion)
    rows = {key: inputs[key].flatten(0, -2) for key in ("input_ids", "attention_mask")}
    given = {**inputs, **rest, "hidden_states": model.base_model.tap(**rows)}
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        found, expected = compiled(**given), model(**given)
    assert list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


def test_head_and_fusion_train_on_states_as_on_inputs():
    model, inputs, rest = made("pair", "concat")
    model.train_adapter([])
    model.eval()
    gradients = []
    for given in (inputs, {"states": states_of(model, inputs)}):
        model.zero_grad()
        model(**given, **rest).loss.backward()
        gradients.append([one.grad.clone() for one in model.parameters() if one.requires_grad])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_states_of_another_set_of_adapters_are_refused():
    model, inputs, _ = made("pair")
    states = states_of(model, inputs)
    model.set_adapter("fac")
    with pytest.raises(
        ValueError, match=r"states hold \['adapters.fac', 'adapters.lin', 'backbone'\].*read them again"
    ):
        model(states=states)
    with pytest.raises(ValueError, match=r"states hold \['adapters.fac'\]"):
        model(states={"adapters.fac": states["adapters.fac"]})


def test_states_of_another_shape_and_states_beside_inputs_are_refused():
    model, inputs, _ = made("pair")
    states = states_of(model, inputs)
    with pytest.raises(ValueError, match=r"states\['adapters.lin'\] has shape \(2, 2, 32\) and must have"):
        model(states={**states, "adapters.lin": states["adapters.lin"][:2]})
    with pytest.raises(ValueError, match=r"states\['backbone'\] has shape \(3, 2, 5\)"):
        model(states={key: one[..., :5] for key, one in states.items()})
    with pytest.raises(ValueError, match=r"features of 1 mentions .* made for 2"):
        model(states={key: one[:, :1] for key, one in states.items()})
    with pytest.raises(ValueError, match="give states or input_ids, not both"):
        model(**inputs, states=states)


@pytest.mark.parametrize("name", HEADS)
def test_with_neither_inputs_nor_states_there_is_nothing_to_read(name):
    with pytest.raises(ValueError, match="there is nothing to read; give input_ids"):
        made(name)[0]()


# ---- typing and classes -------------------------------------------------------------------------------------------


def test_types_are_labels_on_their_own_and_their_loss_is_the_mean_over_all():
    model, inputs, rest = made("typing")
    with torch.no_grad():
        found = model(**inputs, **rest)
        half = model(**inputs, **rest, num_items_in_batch=torch.tensor(18))
    assert found.logits.shape == (3, 3) and model.config.problem_type == "multi_label_classification"
    torch.testing.assert_close(found.loss, F.binary_cross_entropy_with_logits(found.logits, rest["labels"]))
    torch.testing.assert_close(half.loss, found.loss / 2)


def test_types_of_another_number_and_positions_of_two_mentions_are_refused():
    model, inputs, _ = made("typing")
    with pytest.raises(ValueError, match=r"labels have shape \(3, 2\) and must have \(3, 3\)"):
        model(**inputs, labels=torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"must have \(batch, 1\)"):
        model(**batch(), entity_positions=PAIRS)
    with pytest.raises(ValueError, match=r"entity_positions has shape None"):
        model(**batch())


@pytest.mark.parametrize("name", ["text", "pair", "choice", "tokens"])
def test_a_label_that_is_no_class_is_told(name):
    model, inputs, rest = made(name)
    with pytest.raises(ValueError, match="label 3 is none of the 3 classes, 0 to 2"):
        model(**inputs, labels=torch.full_like(rest["labels"], 3))


def test_tokens_are_classified_whatever_pads_them():
    model, inputs, rest = made("tokens")
    with torch.no_grad():
        found, wide = model(**inputs, **rest), model(**batch(extra=4))
    torch.testing.assert_close(found.logits[1, :6], wide.logits[1, :6], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.loss, F.cross_entropy(found.logits.flatten(0, 1), rest["labels"].flatten()))


# ---- choices ------------------------------------------------------------------------------------------------------


def test_each_choice_is_scored_by_its_own_text_alone():
    model, inputs, rest = made("choice", "concat")
    with torch.no_grad():
        found = model(**inputs, **rest)
        turned = model(**{key: one.flip(1) for key, one in inputs.items()})
        rows = model(**{key: one.flatten(0, 1)[:, None] for key, one in inputs.items()})
    assert found.logits.shape == (3, 3)
    torch.testing.assert_close(turned.logits, found.logits.flip(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows.logits.view(3, 3), found.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.loss, F.cross_entropy(found.logits, rest["labels"]))


def test_choices_of_uneven_number_are_refused():
    model, inputs, _ = made("choice")
    with pytest.raises(ValueError, match=r"attention_mask has shape \(3, 2, 9\) .* as many choices in each question"):
        model(inputs["input_ids"], inputs["attention_mask"][:, :2])
    with pytest.raises(ValueError, match=r"input_ids has shape \(3, 9\) and must have \(batch, choices, sequence\)"):
        model(**batch())


# ---- answers ------------------------------------------------------------------------------------------------------


def test_the_softmax_runs_over_all_passages_and_every_occurrence_counts():
    model, inputs, rest = made("passages")
    with torch.no_grad():
        found = model(**inputs, **rest)
    assert found.start_logits.shape == found.end_logits.shape == (3, 2, 9)
    start, end = (one.flatten(1).softmax(dim=1).view(3, 2, 9) for one in (found.start_logits, found.end_logits))
    assert start[~inputs["answer_mask"]].max() == 0
    first = -((start[0, 0, 1] + start[0, 1, 2]).log() + (end[0, 0, 1] + end[0, 1, 4]).log()) / 2
    second = -(start[1, 1, 0].log() + end[1, 1, 2].log()) / 2
    torch.testing.assert_close(found.loss, (first + second) / 2)  # the third question has no answer


def test_an_occurrence_that_is_told_twice_counts_once():
    model, inputs, _ = made("passages")
    spans = torch.tensor([[[1, 2, 4], [1, 2, 4], [1, 2, 3]]] * 3)
    with torch.no_grad():
        twice, once = model(**inputs, answer_spans=spans), model(**inputs, answer_spans=spans[:, 1:])
    assert torch.equal(twice.loss, once.loss)


def test_questions_without_any_answer_give_a_loss_of_zero_and_no_gradient():
    model, inputs, _ = made("passages")
    loss = model(**inputs, answer_spans=torch.full((3, 2, 3), -1)).loss
    loss.backward()
    assert loss.item() == 0 and model.head.classifier.weight.grad.abs().max() == 0


def test_one_passages_loss_is_the_mean_of_the_cross_entropies_of_start_and_end():
    model, inputs, _ = made("answer")
    start, end = torch.tensor([1, 2, 0]), torch.tensor([3, 2, 3])
    with torch.no_grad():
        found = model(**inputs, start_positions=start, end_positions=end)
        spans = torch.stack([torch.zeros(3, dtype=torch.long), start, end], dim=1)[:, None]
        as_spans = model(**inputs, answer_spans=spans)
        as_passages = model(**{key: one[:, None] for key, one in inputs.items()}, answer_spans=spans)
        third = model(**inputs, answer_spans=spans, num_items_in_batch=9)
    expected = (F.cross_entropy(found.start_logits, start) + F.cross_entropy(found.end_logits, end)) / 2
    torch.testing.assert_close(found.loss, expected)
    assert torch.equal(as_spans.loss, found.loss) and torch.equal(as_passages.loss, found.loss)
    assert found.start_logits.shape == (3, 9) and as_passages.start_logits.shape == (3, 1, 9)
    torch.testing.assert_close(third.loss, found.loss / 3)


def test_answers_do_not_depend_on_padding_of_passages_or_tokens():
    model, inputs, rest = made("passages")
    padded = {key: F.pad(one, (0, 3, 0, 1), value=1 if key == "input_ids" else 0) for key, one in inputs.items()}
    with torch.no_grad():
        found, wide = model(**inputs, **rest), model(**padded, **rest)
    torch.testing.assert_close(found.loss, wide.loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("span", [(2, 1, 2), (0, 4, 2), (0, 2, 9), (1, 1, 2), (0, -3, 2)])
def test_a_span_outside_the_tokens_that_may_be_an_answer_is_told(span):
    model, inputs, _ = made("passages")
    spans = SPANS.clone()
    spans[1, 1] = torch.tensor(span)
    with pytest.raises(
        ValueError, match=r"answer_spans\[1, 1\] = .* is reversed, or lies outside the 2 passages of 9"
    ):
        model(**inputs, answer_spans=spans)


def test_a_position_outside_a_passage_is_told():
    model, inputs, _ = made("answer")
    with pytest.raises(ValueError, match="lies outside the 1 passages of 9 tokens"):
        model(**inputs, start_positions=torch.tensor([1, 2, 5]), end_positions=torch.tensor([3, 2, 20]))


def test_answers_given_by_half_twice_or_in_another_shape_are_refused():
    model, inputs, rest = made("answer")
    with pytest.raises(ValueError, match="start_positions and end_positions go together"):
        model(**inputs, start_positions=rest["start_positions"])
    with pytest.raises(ValueError, match="or answer_spans, not both"):
        model(**inputs, **rest, answer_spans=SPANS)
    with pytest.raises(ValueError, match=r"answer_spans has shape \(3, 6\) and must have \(batch, answers, 3\)"):
        model(**inputs, answer_spans=SPANS.flatten(1))
    with pytest.raises(ValueError, match="answer_spans are of 2 questions, and there are 3"):
        model(**inputs, answer_spans=SPANS[:2])


def test_masks_of_another_shape_than_the_tokens_are_refused():
    model, inputs, _ = made("passages")
    with pytest.raises(ValueError, match=r"'answer_mask': \(3, 9\).* do not go with"):
        model(**{**inputs, "answer_mask": inputs["answer_mask"][:, 0]})
    states = states_of(model, inputs)
    with pytest.raises(ValueError, match="do not go with states of 18 tokens for each of 3 questions"):
        model(states=states, answer_mask=torch.ones(3, 3, 9).bool())
    with torch.no_grad():
        assert model(states=states).start_logits.shape == (3, 18)


# ---- Auto classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "auto"),
    [
        ("choice", AutoModelForMultipleChoice),
        ("passages", AutoModelForQuestionAnswering),
        ("tokens", AutoModelForTokenClassification),
    ],
)
def test_the_auto_class_of_a_head_loads_its_artifact(name, auto, tmp_path):
    kind, inputs, rest = HEADS[name]
    model = make_model(save_backbone(tmp_path / "backbone"), "fac", model_class=kind, fusion="gated", num_labels=3)
    model.save_pretrained(tmp_path / "out")
    again = auto.from_pretrained(tmp_path / "out")
    assert type(again) is kind
    with torch.no_grad():
        assert torch.equal(again(**inputs, **rest).loss, model(**inputs, **rest).loss)


def test_a_new_head_trains_on_frozen_adapters_and_learns_to_tell(tmp_path):
    torch.manual_seed(0)
    model = KAdapterForMultipleChoice.from_backbone(
        tiny_backbone(), adapters={"fac": small_adapter()}, fusion="gated", classifier_dropout=0.0
    )
    model.train_adapter([])
    _, inputs, rest = HEADS["choice"]
    states = states_of(shake(model).eval(), inputs)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=0.05)
    for _ in range(60):
        loss = model(states=states, **rest).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits.argmax(dim=1), rest["labels"])


# ---- pairs that match ---------------------------------------------------------------------------------------------


def scores_of_pairs(model, inputs):
    """The score of each pair by hand: pooler and Linear on the first token of a pair that is read alone."""
    scores = torch.empty(inputs["input_ids"].shape[:2])
    with torch.no_grad():
        for row, pair in torch.cartesian_prod(torch.arange(scores.shape[0]), torch.arange(scores.shape[1])).tolist():
            alone = {key: inputs[key][row, pair][None] for key in ("input_ids", "attention_mask")}
            state = model.base_model(**alone).last_hidden_state[:, 0]
            scores[row, pair] = model.head.out_proj(torch.tanh(model.head.dense(state)))[0, 0]
    return scores


def test_a_class_has_the_mean_score_of_its_pairs_and_the_loss_is_summed_over_the_texts():
    model, inputs, rest = made("match")
    output, scores = model(**inputs, **rest), scores_of_pairs(model, inputs)
    one, other = scores[0, [0, 2]].mean(), scores[0, 1]
    assert torch.allclose(output.logits[0], torch.stack([one, other]), atol=1e-5)
    assert torch.allclose(output.logits[2], scores[2, [1, 0]], atol=1e-5)  # its third pair is none
    losses = F.cross_entropy(output.logits, rest["labels"], reduction="none")
    assert torch.allclose(output.loss, losses.sum())
    assert torch.equal(model(**inputs, **rest, num_items_in_batch=7).loss, output.loss)


def test_a_new_head_begins_with_the_pooler_of_its_encoder_where_there_is_one(tmp_path):
    torch.manual_seed(0)
    pooled = tiny_backbone("bert")
    expected = pooled.pooler.dense.weight.detach().clone()
    pooled.save_pretrained(tmp_path / "bert")
    of_path, of_module = (KAdapterForPairMatching.from_backbone(one) for one in (str(tmp_path / "bert"), pooled))
    assert torch.equal(of_path.head.dense.weight, expected) and torch.equal(of_module.head.dense.weight, expected)
    scores = of_path.head.out_proj.weight.detach().clone()
    of_path.renew_head()
    assert torch.equal(of_path.head.dense.weight, expected) and not torch.equal(of_path.head.out_proj.weight, scores)
    assert not torch.equal(
        KAdapterForPairMatching.from_backbone(tiny_backbone("distilbert")).head.dense.weight, expected
    )
    of_path.save_pretrained(tmp_path / "saved")
    again = KAdapterForPairMatching.from_pretrained(tmp_path / "saved")
    assert all(
        torch.equal(one, other) for one, other in zip(again.head.parameters(), of_path.head.parameters(), strict=True)
    )


def test_a_class_that_a_text_has_no_pair_of_is_never_chosen():
    model, inputs, _ = made("match")
    logits = model(**{**inputs, "support_labels": torch.tensor([[0, 0, 0], [1, 1, 1], [2, 1, 0]])}).logits
    assert logits.softmax(-1)[:2].tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (None, r"support_labels have shape None and must have \(3, 3\): for each pair the class"),
        (torch.zeros(3, 2, dtype=torch.long), r"support_labels have shape \(3, 2\) and must have \(3, 3\)"),
        (torch.full((3, 3), -1), "all support_labels are -1, so there is no class to choose"),
    ],
)
def test_pairs_without_classes_are_refused(labels, reason):
    model, inputs, _ = made("match")
    with pytest.raises(ValueError, match=reason):
        model(**{**inputs, "support_labels": labels})
