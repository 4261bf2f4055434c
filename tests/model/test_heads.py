"""The two pre-training heads, and raw text with marked mentions on its way to them."""

import pytest
import torch
from helpers import batch, make_model, save_backbone, shake, small_adapter, tiny_backbone, tiny_tokenizer

from kadapter import (
    KAdapterForDependencyParsing,
    KAdapterForEntityPairClassification,
    KAdapterForSequenceClassification,
    KAdapterModel,
    encode_entities,
)

TEXTS = ["ada wrote to paris.", "from lyon to paris."]
SPANS = [[(0, 3), (13, 18)], [(5, 9), (0, 4)]]


@pytest.fixture
def pair_model(tmp_path):
    path = save_backbone(tmp_path / "backbone")
    return make_model(path, "fac", model_class=KAdapterForEntityPairClassification, num_labels=3)


@pytest.fixture
def parser(tmp_path):
    return make_model(save_backbone(tmp_path / "backbone"), "lin", model_class=KAdapterForDependencyParsing)


def words():
    """Positions of the root and of the words of two sentences, four and two of them."""
    return torch.tensor([[0, 1, 3, 4, 6], [0, 2, 3, -1, -1]])


def test_raw_text_becomes_ids_with_markers_and_their_positions():
    found = encode_entities(tiny_tokenizer(), TEXTS, SPANS)
    first, second = found["input_ids"].tolist()
    assert first == [0, 5, 8, 5, 9, 10, 6, 11, 6, 7, 2]
    assert second == [0, 6, 12, 6, 5, 13, 5, 10, 11, 7, 2]
    assert found["entity_positions"].tolist() == [[1, 6], [4, 1]]


def test_the_method_encodes_like_the_function(pair_model):
    found, expected = pair_model.encode_entities(tiny_tokenizer(), TEXTS, SPANS), None
    expected = encode_entities(tiny_tokenizer(), TEXTS, SPANS)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_where_both_mentions_open_at_one_place_the_second_stands_outside():
    found = encode_entities(tiny_tokenizer(), ["ada wrote"], [[(0, 3), (0, 9)]])
    assert found["input_ids"].tolist() == [[0, 6, 5, 8, 5, 9, 6, 2]]
    assert found["entity_positions"].tolist() == [[2, 1]]


def test_one_mention_is_marked_for_typing():
    assert encode_entities(tiny_tokenizer(), ["ada wrote"], [[(0, 3)]])["entity_positions"].tolist() == [[1]]


def test_long_texts_are_cut_behind_their_mentions():
    found = encode_entities(tiny_tokenizer(), TEXTS[:1], SPANS[:1], max_length=9)
    assert found["input_ids"].tolist() == [[0, 5, 8, 5, 9, 10, 6, 11, 2]]
    with pytest.raises(ValueError, match="text 0: max_length=7 tokens cut off a mention"):
        encode_entities(tiny_tokenizer(), TEXTS[:1], SPANS[:1], max_length=7)


@pytest.mark.parametrize("span", [(3, 3), (4, 2), (-1, 3), (0, 99)])
def test_an_empty_reversed_or_outlying_span_is_told_with_its_text(span):
    with pytest.raises(ValueError, match=r"text 1: span .* of mention 1 is empty, reversed or outside its 19 charac"):
        encode_entities(tiny_tokenizer(), TEXTS, [SPANS[0], [(0, 4), span]])


def test_missing_mentions_and_spans_of_another_kind_are_told():
    with pytest.raises(ValueError, match="text 0: 0 mentions"):
        encode_entities(tiny_tokenizer(), ["ada"], [[]])
    with pytest.raises(ValueError, match="2 texts but spans for 1"):
        encode_entities(tiny_tokenizer(), TEXTS, SPANS[:1])
    with pytest.raises(TypeError, match=r"mention 0 is 'ada'; give its \(start, end\)"):
        encode_entities(tiny_tokenizer(), ["ada"], [["ada"]])


def test_pairs_are_classified_from_raw_text_whatever_stands_beside_them(pair_model):
    tokenizer = tiny_tokenizer()
    with torch.no_grad():
        together = pair_model(**encode_entities(tokenizer, TEXTS, SPANS)).logits
        alone = torch.cat([pair_model(**encode_entities(tokenizer, [TEXTS[i]], [SPANS[i]])).logits for i in (0, 1)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_gathering_before_fusing_equals_fusing_everything(pair_model):
    inputs = {**batch(), "entity_positions": torch.tensor([[1, 4], [2, 3], [0, 2]])}
    with torch.no_grad():
        found = pair_model(**inputs).logits
        states = pair_model.base_model(**batch()).last_hidden_state
        features = torch.stack([states[row, at] for row, at in enumerate(inputs["entity_positions"])])
        torch.testing.assert_close(found, pair_model.head(features), rtol=1e-5, atol=1e-5)


def rows_of_last_blocks(model):
    """How many positions the last block of each adapter computes, by name, filled as the model runs."""
    rows = {}
    for name, adapter in model.base_model.adapters.items():
        adapter.layers[-1].blocks[-1].intermediate.register_forward_pre_hook(
            lambda _, given, name=name: rows.update({name: given[0].shape[1]})
        )
    return rows


@pytest.mark.parametrize("skip", [0, 2])
def test_the_last_block_computes_only_what_the_head_reads_where_that_is_little(tmp_path, skip):
    shape = small_adapter(skip_layers=skip, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    model = KAdapterForEntityPairClassification.from_backbone(
        save_backbone(tmp_path), adapters={"fac": shape, "lin": small_adapter()}, num_labels=3, classifier_dropout=0
    )
    shake(model, std=0.1).train_adapter("fac")
    inputs, positions, labels = batch(lengths=(30, 17, 9)), torch.tensor([[1, 28], [2, 3], [0, 2]]), torch.arange(3)
    rows, found = rows_of_last_blocks(model), []
    for _ in range(2):
        model.zero_grad()
        states = model.base_model(**inputs)  # all of them, as whoever asks for them gets them
        assert rows == {"fac": 30, "lin": 30} and states.last_hidden_state.shape == (3, 30, 32)
        if not found:
            logits = model(**inputs, entity_positions=positions).logits
            assert rows == {"fac": 30 if skip else 2, "lin": 2}
        else:
            rows_of_mentions = torch.arange(3)[:, None]
            logits = model.head(states.last_hidden_state[rows_of_mentions, positions])
        torch.nn.functional.cross_entropy(logits, labels).backward()
        found.append([logits, *(one.grad for one in model.parameters() if one.requires_grad)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_where_a_head_reads_much_or_the_text_is_short_the_last_block_computes_all(pair_model, parser):
    rows = rows_of_last_blocks(pair_model)
    pair_model(**batch(lengths=(16, 9)), entity_positions=torch.tensor([[1, 4], [2, 3]]))
    assert rows == {"fac": 16}
    rows = rows_of_last_blocks(parser)
    parser(**batch(lengths=(30, 20)), word_positions=torch.arange(25).expand(2, -1))
    assert rows == {"lin": 30}


def test_an_adapter_without_blocks_gives_a_head_the_sum_of_what_it_taps(tmp_path):
    model = KAdapterForEntityPairClassification.from_backbone(
        save_backbone(tmp_path), adapters={"sum": small_adapter(num_hidden_layers=0)}, num_labels=3
    ).eval()
    inputs, positions = batch(lengths=(30, 20)), torch.tensor([[1, 4], [2, 3]])
    with torch.no_grad():
        every = model.base_model(**inputs).adapter_hidden_states["sum"]
        found = model.read(**inputs, entity_positions=positions)["adapters.sum"]
    assert torch.equal(found, every[torch.arange(2)[:, None], positions])


@pytest.mark.parametrize("positions", [None, torch.tensor([1, 2]), torch.tensor([[1], [2], [3]])])
def test_entity_positions_of_another_shape_are_refused(pair_model, positions):
    with pytest.raises(ValueError, match=r"must have \(batch, 2\).*encode_entities"):
        pair_model(**batch(), entity_positions=positions)


def test_a_position_outside_the_batch_is_told(pair_model):
    with pytest.raises(ValueError, match="position 9 lies outside the 9 tokens of the batch"):
        pair_model(**batch(), entity_positions=torch.tensor([[1, 9], [1, 2], [1, 2]]))


def test_positions_of_fewer_texts_than_the_batch_has_are_told(pair_model):
    with pytest.raises(ValueError, match="there are positions for 2 texts, and the batch has 3; give all"):
        pair_model(**batch(), entity_positions=torch.tensor([[1, 4], [1, 2]]))


def test_the_loss_of_a_global_batch_is_the_sum_over_its_number_of_items(pair_model):
    inputs = {**batch(), "entity_positions": torch.tensor([[1, 4], [2, 3], [0, 2]]), "labels": torch.tensor([0, 2, 1])}
    with torch.no_grad():
        mean, third = pair_model(**inputs).loss, pair_model(**inputs, num_items_in_batch=torch.tensor(9)).loss
    torch.testing.assert_close(mean / 3, third)


def test_each_word_is_scored_over_the_words_of_its_own_sentence(parser):
    with torch.no_grad():
        logits = parser(**batch(lengths=(9, 6)), word_positions=words()).logits
    assert logits.shape == (2, 4, 5)
    chosen = logits[1, :2].softmax(dim=-1)
    assert torch.equal(chosen[:, 3:], torch.zeros(2, 2)) and torch.isfinite(logits[0]).all()


def test_arcs_do_not_depend_on_the_longest_sentence_of_the_batch(parser):
    both = batch(lengths=(9, 6))
    alone = {key: one[1:, :6] for key, one in both.items()}
    with torch.no_grad():
        found = parser(**both, word_positions=words()).logits[1, :2, :3]
        expected = parser(**alone, word_positions=words()[1:, :3]).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_labels_of_words_that_are_not_there_do_not_count(parser):
    labels = torch.tensor([[0, 1, 2, 3], [0, 1, -100, -100]])
    with torch.no_grad():
        found = parser(**batch(lengths=(9, 6)), word_positions=words(), labels=labels)
    expected = torch.nn.functional.cross_entropy(found.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(found.loss, expected)


def test_the_parser_asks_for_the_positions_of_words(parser):
    with pytest.raises(ValueError, match=r"word_positions .* are missing"):
        parser(**batch())


def test_the_official_head_classifies_positions_and_counts_real_tokens_only():
    model = KAdapterForDependencyParsing.from_backbone(
        tiny_backbone(), adapters={"lin": small_adapter()}, dependency_head="official", num_positions=16
    ).eval()
    inputs, labels = batch(), torch.zeros(3, 9, dtype=torch.long)
    with torch.no_grad():
        found = model(**inputs, labels=labels)
    real = inputs["attention_mask"].bool()
    expected = torch.nn.functional.cross_entropy(found.logits[real], labels[real])
    assert found.logits.shape == (3, 9, 16)
    torch.testing.assert_close(found.loss, expected)


def test_a_head_has_the_adapter_verbs_of_its_model(pair_model):
    pair_model.add_adapter("lin", small_adapter())
    assert pair_model.active_adapters() == ["fac", "lin"] == list(pair_model.base_model.adapters)
    pair_model.set_adapter("lin")
    assert pair_model.base_model.active_adapters() == ["lin"]
    pair_model.train_adapter("lin")
    assert all(one.requires_grad for one in pair_model.head.parameters())
    assert isinstance(pair_model.base_model, KAdapterModel)


def test_a_text_is_classified_by_its_first_real_token(tmp_path):
    path = save_backbone(tmp_path / "backbone")
    model = make_model(path, "fac", model_class=KAdapterForSequenceClassification, num_labels=3)
    with torch.no_grad():
        right, left = model(**batch(extra=1)).logits, model(**batch(side="left", extra=3)).logits
        whole = model(input_ids=batch()["input_ids"][:1], labels=torch.tensor([2]))
    torch.testing.assert_close(right, left, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole.logits[0], right[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole.loss, torch.nn.functional.cross_entropy(whole.logits, torch.tensor([2])))
