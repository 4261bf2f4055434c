"""Maps compute what the official map-tuning code computed: tokens, embeddings, states, logits, losses and a step."""

import pytest
import torch
from tiny_knowledge import (
    INFO,
    TENSORS,
    bert_tokenizer,
    difference,
    entity_table,
    official_map,
    official_tokens,
    relation_texts,
    save_bert,
    tensors_of,
    typing_texts,
    with_zeros,
)
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel
from typer.testing import CliRunner

from kadapter import (
    KAdapterForMaskedLM,
    KAdapterForPairMatching,
    KAdapterModel,
    KnowledgeMap,
    encode_knowledge,
    insert_entities,
    plug,
    unplug,
)
from kadapter.commands import app

MARKERS = ("#", "$")
# What is encoded in each case: texts, entities, table and markers.
CASES = {
    "wiki80_map": (relation_texts, with_zeros, MARKERS),
    "wikiet": (typing_texts, with_zeros, ("$",)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("bert"))


def encoded(case):
    texts, source, markers = CASES[case]
    inputs = encode_knowledge(bert_tokenizer(), *texts(), source(), markers=markers)
    del inputs["entity_positions"]
    assert torch.equal(inputs["attention_mask"], tensors_of(case)["mask"])
    return inputs


def without_entities():
    """The relation texts with marked mentions that have no entities."""
    texts, entities = relation_texts()
    unlinked = [[(start, end, None) for start, end, _ in mentions] for mentions in entities]
    inputs = encode_knowledge(bert_tokenizer(), texts, unlinked, entity_table(), markers=MARKERS)
    return {key: inputs[key] for key in ("input_ids", "attention_mask")}


def relation_model(folder):
    model = BertForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    model.load_state_dict(tensors_of("wiki80_head"), strict=False)
    return model


def masked_examples():
    """The nine examples of general map-tuning: of each sentence both mentions, the head or the tail masked."""
    tokenizer, texts = bert_tokenizer(), insert_entities(bert_tokenizer(), *relation_texts(), entity_table())
    examples = []
    for text in texts:
        for masked in (text.mentions, text.mentions[:1], text.mentions[1:]):
            positions = {position for first, end in masked for position in range(first, end)}
            ids = [tokenizer.mask_token_id if at in positions else id for at, id in enumerate(text.input_ids)]
            labels = [id if at in positions else -100 for at, id in enumerate(text.input_ids)]
            examples.append((text, ids, labels))
    return examples


def masked_inputs():
    width = max(len(ids) for _, ids, _ in masked_examples())
    columns = [
        (
            ids + [0] * (width - len(ids)),
            [1] * len(ids) + [0] * (width - len(ids)),
            labels + [-100] * (width - len(ids)),
        )
        for _, ids, labels in masked_examples()
    ]
    ids, mask, labels = (torch.tensor(column) for column in zip(*columns, strict=True))
    slots = torch.full((len(columns), 2), -1)
    rows = torch.zeros(len(columns), 2, 16)
    for number, (text, _, _) in enumerate(masked_examples()):
        for slot, (position, link) in enumerate(text.slots):
            slots[number, slot] = position
            rows[number, slot] = TENSORS["entities"][INFO["entity2id"][link.id]]
    return {"input_ids": ids, "attention_mask": mask, "knowledge_slots": slots, "knowledge_embeds": rows}, labels


def test_the_map_is_the_official_one_and_zeros_become_its_bias():
    mapped = official_map()(TENSORS["affine/x"])
    assert difference(mapped, TENSORS["affine/y"]) <= 1e-6
    assert torch.equal(mapped[0], tensors_of("mapper")["model.bias"])


@pytest.mark.parametrize("case", ["wiki80_map", "wiki80_nomap"])
def test_relation_texts_have_the_official_tokens(case):
    texts, entities = relation_texts()
    if case == "wiki80_nomap":
        entities = [[(start, end, None) for start, end, _ in mentions] for mentions in entities]
    tokenizer, width = bert_tokenizer(), tensors_of(case)["mask"].shape[1]
    for ours, official in zip(
        insert_entities(tokenizer, texts, entities, with_zeros(), markers=MARKERS), INFO[case]["tokens"], strict=True
    ):
        assert official_tokens(tokenizer, ours) + ["[PAD]"] * (width - len(ours.input_ids)) == official


def test_typing_texts_have_the_official_tokens():
    tokenizer = bert_tokenizer()
    rows = {name.lower(): str(row) for name, row in INFO["entity2id"].items()}
    for ours, official in zip(
        insert_entities(tokenizer, *typing_texts(), with_zeros(), markers=["$"]),
        INFO["wikiet"]["tokens"],
        strict=True,
    ):
        named = [rows.get(token.replace("hashdonothackme", ""), "") for token in official_tokens(tokenizer, ours)]
        tokens = [
            f"hashdonothackme{row}hashdonothackme" if row else token
            for row, token in zip(named, official_tokens(tokenizer, ours), strict=True)
        ]
        assert tokens == [token for token in official if token != "[PAD]"]


def test_masked_texts_have_the_official_tokens_and_labels_and_skip_an_entity_that_the_table_lacks():
    tokenizer, width = bert_tokenizer(), len(INFO["mmlm"]["tokens"][0])
    for (text, ids, labels), tokens, official in zip(
        masked_examples(), INFO["mmlm"]["tokens"], INFO["mmlm"]["labels"], strict=True
    ):
        ours = official_tokens(tokenizer, text._replace(input_ids=ids))
        assert ours + ["[PAD]"] * (width - len(ours)) == tokens
        assert labels + [-100] * (width - len(labels)) == official


@pytest.mark.parametrize("case", CASES)
def test_a_model_with_a_map_has_the_official_embeddings_and_states(folder, case):
    inputs, official = encoded(case), tensors_of(case)
    model = KAdapterModel.from_backbone(folder)
    model.add_adapter("wikidata", official_map().config)
    model.adapters["wikidata"].load_state_dict(official_map().state_dict())
    knowledge = inputs["knowledge_slots"], inputs["knowledge_embeds"]
    with torch.no_grad():
        embeds = model.adapters["wikidata"].embed(model.get_input_embeddings()(inputs["input_ids"]), *knowledge)
        output = model(**inputs, output_hidden_states=True)
    assert difference(embeds, official["inputs_embeds"], official["mask"]) <= 1e-6
    assert difference(output.hidden_states[0], official["embedding_output"], official["mask"]) <= 1e-6
    assert difference(output.last_hidden_state, official["last_hidden_state"], official["mask"]) <= 1e-6
    assert output.adapter_hidden_states == {}


def test_a_plugged_relation_model_has_the_official_logits_and_loss(folder):
    model, official = relation_model(folder), tensors_of("wiki80_map")
    plug(model, official_map(), entity_table())
    with torch.no_grad():
        output = model(**encoded("wiki80_map"), labels=torch.tensor(INFO["wiki80_map"]["labels"]))
    assert difference(output.logits, official["logits"]) <= 1e-6
    assert difference(output.loss, official["loss"]) <= 1e-6


def test_without_entities_and_after_unplugging_the_logits_are_the_official_ones_without_a_map(folder):
    model, official = relation_model(folder), tensors_of("wiki80_nomap")
    with torch.no_grad():
        before = model(**without_entities()).logits
        plug(model, official_map(), entity_table())
        plugged = model(**without_entities()).logits
        unplug(model)
        after = model(**without_entities()).logits
    assert torch.equal(before, plugged) and torch.equal(before, after)
    assert difference(before, official["logits"]) <= 1e-6


def test_a_plugged_typing_model_has_the_official_pooled_states_and_logits(folder):
    model, official = BertModel.from_pretrained(folder).eval(), tensors_of("wikiet")
    plug(model, official_map(), entity_table())
    with torch.no_grad():
        pooled = model(**encoded("wikiet")).pooler_output
    assert difference(pooled, official["pooler_output"]) <= 1e-6
    logits = torch.nn.functional.linear(pooled, official["fc.weight"], official["fc.bias"])
    assert difference(logits, official["logits"]) <= 1e-6
    labels = torch.tensor(INFO["wikiet"]["labels"], dtype=torch.float)
    assert difference(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels), official["loss"]) <= 1e-6


def test_one_step_of_general_map_tuning_is_the_official_step_and_leaves_no_gradient_elsewhere(folder):
    model, knowledge_map, official = BertForMaskedLM.from_pretrained(folder).eval(), official_map(), tensors_of("mmlm")
    plug(model, knowledge_map.requires_grad_(True), entity_table())
    inputs, labels = masked_inputs()
    output = model(**inputs, labels=labels)
    assert difference(output.logits, official["logits"], inputs["attention_mask"]) <= 1e-6
    assert difference(output.loss, official["loss"]) <= 1e-6
    optimizer = torch.optim.Adam(knowledge_map.parameters(), lr=3e-5)
    output.loss.backward()
    assert difference(knowledge_map.projection.weight.grad, official["grad.model.weight"]) <= 2e-6
    assert difference(knowledge_map.projection.bias.grad, official["grad.model.bias"]) <= 2e-6
    optimizer.step()
    assert difference(knowledge_map.projection.weight, official["after_adam_step.model.weight"]) <= 1e-6
    assert difference(knowledge_map.projection.bias, official["after_adam_step.model.bias"]) <= 1e-6
    assert all(parameter.grad is None for parameter in model.parameters())


# ---- questions and pairs: derived from the official recipe, token by token ------------------------------------------

QUESTIONS = {  # a question as it is asked, its linked subject, the answer that is one token, and the official tokens
    "What is the capital of France? [MASK]": ("France", "Q142", "paris", "what is the capital of $ Q142 / france $ ?"),
    "Where was Alice born? [MASK]": ("Alice", "Q42", "country", "where was $ Q42 / alice $ born ?"),
    "Who wrote Zyx? [MASK]": ("Zyx", "Q99999", "bob", "who wrote $ Q99999 / z ##y ##x $ ?"),
}
SENTENCES = [  # two texts of each of two classes: head, tail and tokens as the official code marks them
    ("Paris is the capital of France .", "Q90", "Q142", "# Q90 / paris # is the capital of $ Q142 / france $ ."),
    ("Hamsters love peanut butter .", "Q7", "Q1", "$ Q1 / hamsters $ love # Q7 / peanut butter # ."),
    ("Alice wrote the book Zyx .", "Q42", "Q99999", "# Q42 / alice # wrote the book $ Q99999 / z ##y ##x $ ."),
    ("Bob was born in Paris .", "Q1000", "Q90", "# Q1000 / bob # was born in $ Q90 / paris $ ."),
]
SPANS = [("Paris", "France"), ("peanut butter", "Hamsters"), ("Alice", "Zyx"), ("Bob", "Paris")]


def question_inputs():
    texts = list(QUESTIONS)
    entities = [
        [(text.index(subject), text.index(subject) + len(subject), id)]
        for text, (subject, id, _, _) in QUESTIONS.items()
    ]
    return texts, entities


def linked(number):
    """A sentence and its linked head and tail."""
    text, *ids, _ = SENTENCES[number]
    spans = [(text.index(name), text.index(name) + len(name)) for name in SPANS[number]]
    return text, [(*span, id) for span, id in zip(spans, ids, strict=True)]


def pair_inputs(pairs, **options):
    """The inputs of pairs of sentences, by their numbers."""
    first, second = ([linked(pair[side]) for pair in pairs] for side in (0, 1))
    texts, entities = zip(*first, strict=True)
    seconds = tuple(map(list, zip(*second, strict=True)))
    return (bert_tokenizer(), list(texts), list(entities), with_zeros()), {
        "markers": MARKERS,
        "pairs": seconds,
        **options,
    }


def by_hand(words, tokens, official):
    """The input embeddings of tokens, one after the other, as the official loop makes them; ids are entities."""
    vectors = []
    for token in tokens:
        if token.startswith("Q"):
            row = INFO["entity2id"].get(token)
            vectors.append(official(torch.zeros(16) if row is None else TENSORS["entities"][row]))
        else:
            vectors.append(words.weight[INFO["vocab"].index(token)])
    return torch.stack(vectors)[None]


def names(tokenizer, text):
    """The tokens of an encoded text, entities by their ids."""
    tokens = tokenizer.convert_ids_to_tokens(text.input_ids)
    for position, link in text.slots:
        tokens[position] = link.id
    return tokens


def test_questions_have_the_official_tokens():
    texts, entities = question_inputs()
    encoded = insert_entities(bert_tokenizer(), texts, entities, with_zeros(), markers=["$"])
    for ours, (*_, official) in zip(encoded, QUESTIONS.values(), strict=True):
        assert names(bert_tokenizer(), ours) == ["[CLS]", *official.split(), "[MASK]", "[SEP]"]


def test_the_loss_of_questions_is_that_of_a_loop_over_their_tokens(folder):
    plain, losses = BertForMaskedLM.from_pretrained(folder).eval(), []
    words = plain.bert.embeddings.word_embeddings
    for *_, answer, official in QUESTIONS.values():
        tokens = ["[CLS]", *official.split(), "[MASK]", "[SEP]"]
        with torch.no_grad():
            logits = plain(inputs_embeds=by_hand(words, tokens, official_map())).logits[0, -2]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(INFO["vocab"].index(answer))))
    texts, entities = question_inputs()
    inputs = encode_knowledge(bert_tokenizer(), texts, entities, with_zeros(), markers=["$"])
    del inputs["entity_positions"]
    masks = inputs["input_ids"] == bert_tokenizer().mask_token_id
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[masks] = torch.tensor([INFO["vocab"].index(answer) for _, _, answer, _ in QUESTIONS.values()])
    with torch.no_grad():
        assert (
            difference(with_map(KAdapterForMaskedLM, folder)(**inputs, labels=labels).loss, torch.stack(losses).mean())
            <= 1e-6
        )


def with_map(model_class, folder):
    model = model_class.from_backbone(folder)
    model.add_adapter("wikidata", official_map().config)
    model.base_model.adapters["wikidata"].load_state_dict(official_map().state_dict())
    return model.eval()


def test_pairs_have_the_official_tokens_and_token_types():
    arguments, options = pair_inputs([(0, 1), (2, 3)])
    for ours, pair in zip(insert_entities(*arguments, **options), [(0, 1), (2, 3)], strict=True):
        first, second = (SENTENCES[number][-1].split() for number in pair)
        assert names(arguments[0], ours) == ["[CLS]", *first, "[SEP]", *second, "[SEP]"]
        assert ours.token_type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)


def test_long_pairs_are_cut_as_published_around_the_mentions_and_first_in_the_second_text():
    arguments, options = pair_inputs([(3, 1)], official_truncation=True)
    first, second = "# Q1000 / bob # was born in $ Q90 / paris $", "$ Q1 / hamsters $ love # Q7 / peanut butter #"
    kept = {29: (f"{first} .", second), 28: (first, second)}
    for length, texts in kept.items():
        (ours,) = insert_entities(*arguments, **options, max_length=length)
        assert ours.truncated and names(arguments[0], ours) == f"[CLS] {texts[0]} [SEP] {texts[1]} [SEP]".split()
        assert [at for at, _ in ours.slots] == [2, 10, len(texts[0].split()) + 3, len(texts[0].split()) + 9]
    with pytest.raises(ValueError, match="max_length=27 tokens cut off a marked mention"):
        encode_knowledge(*arguments, **options, max_length=27)


def test_what_stands_before_the_mentions_of_a_pair_is_cut_before_what_stands_after_them():
    text, mention = "the book of Bob was the food of the city .", [(12, 15, "Q1000")]
    given = (bert_tokenizer(), [text], [mention], with_zeros())
    (ours,) = insert_entities(
        *given, markers=["#"], pairs=([text], [mention]), official_truncation=True, max_length=28
    )
    assert " ".join(names(given[0], ours)) == (
        "[CLS] the book of # Q1000 / bob # was the food of the city . [SEP] # Q1000 / bob # was the food of the [SEP]"
    )


def scores_by_hand(folder, episode, official, out_proj):
    """The score of each pair, read alone by a plain BERT, and its pooled state by a Linear."""
    plain, scores = BertModel.from_pretrained(folder).eval(), []
    for pair in episode:
        first, second = (SENTENCES[number][-1].split() for number in pair)
        tokens = ["[CLS]", *first, "[SEP]", *second, "[SEP]"]
        types = torch.tensor([[0] * (len(first) + 2) + [1] * (len(second) + 1)])
        embeds = by_hand(plain.embeddings.word_embeddings, tokens, official)
        scores.append(out_proj(plain(inputs_embeds=embeds, token_type_ids=types).pooler_output)[0, 0])
    return torch.stack(scores)


def test_scores_summed_loss_and_gradients_of_an_episode_are_those_of_a_loop_over_its_pairs(folder):
    torch.manual_seed(0)  # of the head, whose scores may also be near 0, where rounding weighs more
    episode = [(query, support) for query in (0, 1) for support in (2, 3)]  # two queries, each with two classes
    arguments, options = pair_inputs(episode)
    inputs = encode_knowledge(*arguments, **options)
    del inputs["entity_positions"]
    model, official = with_map(KAdapterForPairMatching, folder), official_map().requires_grad_(True)
    scores = scores_by_hand(folder, episode, official, model.head.out_proj).view(2, 2)
    loss = sum(torch.nn.functional.cross_entropy(row, torch.tensor(gold)) for gold, row in enumerate(scores))
    queries = {name: tensor.view(2, 2, *tensor.shape[1:]) for name, tensor in inputs.items()}
    output = model(**queries, support_labels=torch.tensor([[0, 1], [0, 1]]), labels=torch.tensor([0, 1]))
    assert difference(output.logits.detach(), scores.detach()) <= 1e-6
    assert difference(output.loss.detach(), loss.detach()) <= 1e-6
    for part in (output.loss, loss):
        part.backward()
    own = model.base_model.adapters["wikidata"].projection
    assert difference(own.weight.grad, official.projection.weight.grad) <= 5e-6  # sums in another order
    assert difference(own.bias.grad, official.projection.bias.grad) <= 5e-6


@pytest.mark.parametrize("layout", ["Affine.bin", "ckpt.bin"])
def test_official_files_are_converted_and_written_back(folder, tmp_path, layout):
    state = tensors_of("mapper")
    optimizer = torch.optim.Adam([torch.zeros(3, requires_grad=True)]).state_dict()
    trained = {"model": state, "optimizer_name": "adam", "optimizer": optimizer, "trained_epoch": 2, "global_step": 7}
    torch.save(state if layout == "Affine.bin" else trained, tmp_path / layout)
    options = ["--backbone", folder, "--name", "wikidata", "-o", str(tmp_path / "map")]
    result = CliRunner().invoke(app, ["convert", "--official", str(tmp_path / layout), *options])
    assert result.exit_code == 0, result.output
    knowledge_map = KnowledgeMap.from_pretrained(tmp_path / "map")
    assert difference(knowledge_map(TENSORS["affine/x"]), TENSORS["affine/y"]) <= 1e-6
    arguments = ["convert", "--artifact", str(tmp_path / "map"), "-o", str(tmp_path / "official")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    written = torch.load(tmp_path / "official" / "Affine.bin", weights_only=True)
    assert written.keys() == state.keys() and all(torch.equal(written[key], state[key]) for key in state)


def test_a_converted_map_says_what_it_does_with_entities_that_its_table_lacks(folder, tmp_path):
    torch.save(tensors_of("mapper"), tmp_path / "Affine.bin")
    arguments = ["convert", "--official", str(tmp_path / "Affine.bin"), "--backbone", folder, "--name", "wikidata"]
    out = [*arguments, "--missing-entity", "bias", "-o"]
    assert CliRunner().invoke(app, [*out, str(tmp_path / "map")]).exit_code == 0
    knowledge_map = KnowledgeMap.from_pretrained(tmp_path / "map")
    inputs = knowledge_map.encode(bert_tokenizer(), ["Paris"], [[(0, 5, "Q0")]], entity_table())
    assert inputs["knowledge_slots"].tolist() == [[1]] and not inputs["knowledge_embeds"].any()
    result = CliRunner().invoke(app, [*out, str(tmp_path / "ckpt.bin")])
    assert result.exit_code == 1 and "ckpt.bin is the name of a file" in " ".join(result.output.split())
    assert not (tmp_path / "ckpt.bin").exists()


def test_other_files_are_refused_by_what_they_hold(folder, tmp_path):
    torch.save({"model": {"bert.weight": torch.zeros(2)}, "optimizer": {}}, tmp_path / "ckpt.bin")
    options = ["--backbone", folder, "--name", "wikidata", "-o", str(tmp_path / "map")]
    result = CliRunner().invoke(app, ["convert", "--official", str(tmp_path / "ckpt.bin"), *options])
    assert result.exit_code == 1 and "'model' is a dict, not a tensor" in result.output
    result = CliRunner().invoke(app, ["convert", "-o", str(tmp_path / "map")])
    assert result.exit_code == 1 and "give --official FILE to convert it, or --artifact" in result.output
