"""Pipelines on our heads: ours for mentions and trees, those of transformers for the others, and remote code."""

import json
import re

import pytest
import torch
from helpers import make_model, run_python, save_backbone, shake, small_adapter
from safetensors.torch import load_file
from tiny_runs import tokenizer_of
from transformers import pipeline

import kadapter
from kadapter.pipelines_kadapter import draw_tree

TEXT = "Mira Voss was born in Tarnstad on the Kell."
OTHER = "Old Quarry has known Oduya for long."
SPANS, OTHER_SPANS = [(0, 9), (22, 30)], [(0, 10), (21, 26)]
LABELS = {"id2label": {0: "born", 1: "died", 2: "works"}, "label2id": {"born": 0, "died": 1, "works": 2}}
NAMES = (
    *("EntityPairClassification", "EntityClassification", "DependencyParsing", "SequenceClassification"),
    *("TokenClassification", "MaskedLM", "QuestionAnswering"),
)
BARE = """
import json, sys
from pathlib import Path
from transformers import AutoModelForSequenceClassification, pipeline
answers = {}
head = AutoModelForSequenceClassification.from_pretrained("EntityPairClassification", trust_remote_code=True)
assert not [name for name in sys.modules if name.endswith("pipelines_kadapter")]
head.save_pretrained("head")  # with the pipeline, though its file was never read
assert "custom_pipelines" in Path("head", "config.json").read_text() and Path("head", "pipelines_kadapter.py").exists()
try:
    pipeline("dependency-parsing", model="DependencyParsing")
except ValueError as error:
    assert "trust_remote_code=True" in str(error), error
else:
    raise SystemExit("a pipeline's code was run without trust")
for task, name, inputs in json.loads(sys.argv[1]):
    pipe = pipeline(model=name, trust_remote_code=True, device=-1)  # the task is in the configuration
    assert type(pipe).__module__.startswith("transformers_modules."), type(pipe)
    answers[task] = pipe(inputs)
pipe.save_pretrained("again")
assert pipeline(task, model="again", trust_remote_code=True, device=-1)(inputs) == answers[task]
print(json.dumps(answers, default=float))  # scores of tokens are numbers of NumPy
"""


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of([TEXT, OTHER] * 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """An artifact of each head, each with its tokenizer, and one without a head."""
    folder = tmp_path_factory.mktemp("pipelines")
    backbone = save_backbone(folder / "backbone", vocab_size=len(tokenizer), max_position_embeddings=48)
    tokenizer.save_pretrained(backbone)
    for name in NAMES:
        head, labels = getattr(kadapter, f"KAdapterFor{name}"), {} if name == "MaskedLM" else LABELS
        lm_head = {"lm_head": "transform"} if name == "MaskedLM" else {}
        model = make_model(backbone, "fac", model_class=head, **labels, **lm_head)
        shake(model, std=0.1).save_pretrained(folder / name)  # so that no score is 1
    official = {"dependency_head": "official", "num_positions": 40}
    make_model(backbone, "fac", model_class=kadapter.KAdapterForDependencyParsing, **official).save_pretrained(
        folder / "official"
    )
    make_model(backbone, "fac").save_pretrained(folder / "plain")
    return folder


def made(task, path, **options):
    return pipeline(task, model=str(path), device=-1, **options)


def by_hand(folder, name, encoded):
    model = getattr(kadapter, f"KAdapterFor{name}").from_pretrained(folder / name)
    with torch.no_grad():
        return model(**encoded).logits[0]


# ---- mentions -------------------------------------------------------------------------------------------------------


def test_the_relation_of_two_mentions_is_the_likeliest_label_of_the_head(folder, tokenizer):
    pipe = made("entity-pair-classification", folder / "EntityPairClassification")
    assert type(pipe) is kadapter.EntityPairClassificationPipeline
    scores = by_hand(folder, "EntityPairClassification", kadapter.encode_entities(tokenizer, [TEXT], [SPANS]))
    expected = scores.softmax(-1)
    (answer,) = pipe(TEXT, entity_spans=SPANS)
    assert answer == {
        "label": LABELS["id2label"][int(expected.argmax())],
        "score": pytest.approx(float(expected.max())),
    }
    every = pipe(TEXT, entity_spans=SPANS, top_k=3)
    assert {one["label"]: one["score"] for one in every} == pytest.approx(
        dict(zip(LABELS["label2id"], expected.tolist(), strict=True))
    )
    assert [one["score"] for one in every] == sorted((one["score"] for one in every), reverse=True)
    assert pipe({"text": TEXT, "entity_spans": SPANS}) == [answer]
    assert pipe(TEXT, entity_spans=SPANS[::-1])[0]["score"] != answer["score"]


def test_the_types_of_a_mention_are_those_with_a_score_of_a_half(folder, tokenizer):
    pipe = made("entity-classification", folder / "EntityClassification")
    model = kadapter.KAdapterForEntityClassification.from_pretrained(folder / "EntityClassification")
    with torch.no_grad():
        scores = model(**model.encode_entities(tokenizer, [TEXT], [SPANS[:1]])).logits[0].sigmoid().tolist()
    named = dict(zip(LABELS["label2id"], scores, strict=True))
    found = pipe(TEXT, entity_spans=SPANS[0])
    assert {one["label"]: one["score"] for one in found} == pytest.approx(
        {label: score for label, score in named.items() if score >= 0.5}
    )
    assert len(pipe(TEXT, entity_spans=[SPANS[0]], top_k=3)) == 3
    assert len(pipe(TEXT, entity_spans=[SPANS[0]], threshold=0.0)) == 3
    assert pipe(TEXT, entity_spans=[SPANS[0]], threshold=1.0) == []


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_of_texts_of_unequal_length_answers_as_each_alone(folder, side):
    pipe = made("entity-pair-classification", folder / "EntityPairClassification")
    pipe.tokenizer.padding_side = side
    texts, spans = [TEXT, OTHER, "Jory left Kell."], [SPANS, OTHER_SPANS, [(0, 4), (10, 14)]]
    alone = [pipe(text, entity_spans=own, top_k=3) for text, own in zip(texts, spans, strict=True)]
    for size in (1, 2, 3):
        batched = pipe(texts, entity_spans=spans, batch_size=size, top_k=3)
        assert [[one["label"] for one in own] for own in batched] == [[one["label"] for one in own] for own in alone]
        flat = [one["score"] for own in batched for one in own]
        assert flat == pytest.approx([one["score"] for own in alone for one in own], abs=1e-5)
    stream = ({"text": text, "entity_spans": own} for text, own in zip(texts, spans, strict=True))
    assert len(list(pipe(stream, batch_size=2))) == 3
    assert pipe([]) == []


@pytest.mark.parametrize(
    ("text", "spans", "sentence"),
    [
        (TEXT, [(0, 9), (22, 99)], "span (22, 99) of mention 1 is empty, reversed or outside its 43 characters"),
        (TEXT, [(9, 0), (22, 30)], "span (9, 0) of mention 0 is empty, reversed"),
        (TEXT, [(0, 9)], "1 mentions in 'Mira Voss was born in Tarnstad on the Kell.', and KAdapterForEntityPair"),
        ("", [(0, 1), (0, 1)], "outside its 0 characters"),
        (TEXT, None, "there are no mentions in 'Mira Voss was born in Tarnstad on the Kell.'"),
        ("so " * 90 + TEXT, [(270, 279), (292, 300)], "tokens cut off a mention; raise it or shorten the text"),
    ],
)
def test_mentions_that_can_not_be_read_are_refused_with_the_text(folder, text, spans, sentence):
    pipe = made("entity-pair-classification", folder / "EntityPairClassification")
    with pytest.raises(ValueError, match=re.escape(sentence)):
        pipe(text, entity_spans=spans)


def test_wrong_calls_are_refused_in_a_sentence(folder):
    pipe = made("entity-pair-classification", folder / "EntityPairClassification")
    with pytest.raises(ValueError, match="as many lists of entity_spans"):
        pipe([TEXT, OTHER], entity_spans=[SPANS])
    with pytest.raises(ValueError, match="top_k=0 must be at least 1"):
        pipe(TEXT, entity_spans=SPANS, top_k=0)
    with pytest.raises(TypeError, match="text is 3; give a string"):
        pipe({"text": 3, "entity_spans": SPANS})
    with pytest.raises(TypeError, match=r"mention 0 is 'a'; give its \(start, end\)"):
        pipe(TEXT, entity_spans=["a", "b"])
    with pytest.raises(ValueError, match="entity-classification is for a KAdapterForEntityClassification"):
        made("entity-classification", folder / "EntityPairClassification")


def test_each_text_of_a_batch_goes_through_the_adapters_that_it_names(folder, tmp_path):
    model = kadapter.KAdapterForEntityPairClassification.from_pretrained(folder / "EntityPairClassification")
    model.add_adapter("lin", small_adapter())
    shake(model, std=0.1).save_pretrained(tmp_path / "both")
    pipe = made("entity-pair-classification", tmp_path / "both", tokenizer=str(folder / "EntityPairClassification"))
    texts, spans, names = [TEXT] * 4, [SPANS] * 4, ["fac", "__base__", ["fac", "lin"], "lin"]
    scores = {}
    for size in (1, 4):
        answers = pipe(texts, entity_spans=spans, adapter_names=names, batch_size=size)
        scores[size] = [answer[0]["score"] for answer in answers]
    assert len(set(scores[4])) == 4 and scores[1] == pytest.approx(scores[4], abs=1e-5)
    assert pipe(TEXT, entity_spans=SPANS)[0]["score"] == pytest.approx(scores[4][2], abs=1e-5)  # both are active
    pipe.model.set_adapter("lin")
    assert pipe(TEXT, entity_spans=SPANS)[0]["score"] == pytest.approx(scores[4][3], abs=1e-5)
    assert pipe(TEXT, entity_spans=SPANS, adapter_names="fac")[0]["score"] == pytest.approx(scores[4][0], abs=1e-5)
    with pytest.raises(ValueError, match="adapter_names is 'fac', and there are 4 texts"):
        pipe(texts, entity_spans=spans, adapter_names="fac")
    with pytest.raises(ValueError, match="names 'gee', and there are"):
        pipe(TEXT, entity_spans=SPANS, adapter_names="gee")
    some = [{"text": TEXT, "entity_spans": SPANS}, {"text": TEXT, "entity_spans": SPANS, "adapter_names": "fac"}]
    with pytest.raises(ValueError, match="some texts of a batch name their adapters and others none"):
        pipe(some, batch_size=2)


def test_each_sentence_is_parsed_by_the_adapters_that_it_names(folder):
    pipe = made("dependency-parsing", folder / "DependencyParsing")
    parsed = pipe([OTHER, OTHER], adapter_names=["fac", "__base__"], batch_size=2)
    assert parsed[0]["scores"] == pytest.approx(pipe(OTHER)["scores"], abs=1e-5)
    assert parsed[1]["scores"] != pytest.approx(parsed[0]["scores"], abs=1e-4)
    assert pipe(OTHER, adapter_names="__base__")["scores"] == pytest.approx(parsed[1]["scores"], abs=1e-5)


# ---- trees ----------------------------------------------------------------------------------------------------------


def test_a_sentence_is_split_and_each_word_has_its_likeliest_head(folder, tokenizer):
    pipe = made("dependency-parsing", folder / "DependencyParsing")
    words = ["Mira", "Voss", "didn't", "leave", ",", "Kell", "."]
    parsed = pipe("Mira Voss didn't leave, Kell.")
    scores = by_hand(folder, "DependencyParsing", kadapter.encode_words(tokenizer, [words])).softmax(-1)
    assert parsed["words"] == words
    assert parsed["heads"] == scores.argmax(-1).tolist()
    assert parsed["scores"] == pytest.approx(scores.max(-1).values.tolist())
    assert parsed == pipe({"words": words}) and pipe([words]) == [parsed]
    assert all(any(word in line for line in parsed["tree"].splitlines()) for word in words)


def test_sentences_of_unequal_length_are_parsed_in_a_batch_as_alone(folder):
    for name in ("DependencyParsing", "official"):
        pipe = made("dependency-parsing", folder / name)
        sentences = [TEXT, "Go!", OTHER]
        batched, alone = pipe(sentences, batch_size=3), [pipe(sentence) for sentence in sentences]
        assert [one["heads"] for one in batched] == [one["heads"] for one in alone]
        for one, other in zip(batched, alone, strict=True):
            assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)


def test_the_official_head_names_positions_which_become_words(folder, tokenizer):
    words = OTHER.replace(".", " .").split()
    inputs = kadapter.encode_words(tokenizer, [words])
    starts = inputs.pop("word_positions")[0].tolist()
    model = kadapter.KAdapterForDependencyParsing.from_pretrained(folder / "official")
    with torch.no_grad():
        heads = (model(**inputs).logits.argmax(-1)[0] - 1).tolist()
    expected = [starts.index(heads[start]) if heads[start] in starts else None for start in starts[1:]]
    assert made("dependency-parsing", folder / "official")({"words": words})["heads"] == expected


def test_a_tree_is_drawn_with_each_word_below_its_head_and_circles_last():
    assert draw_tree(["Birds", "sing", "at", "dawn", "."], [2, 0, 2, 3, 2]).splitlines() == [
        *("sing", "├── Birds", "├── at", "│   └── dawn", "└── ."),
    ]
    assert draw_tree(["a", "b", "c"], [2, 1, None]).splitlines() == ["a <- b", "b <- a", "c <- ?"]
    deep = draw_tree([str(number) for number in range(3000)], list(range(3000)))
    assert deep.count("\n") == 2999


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("", "the sentence '' has no words"),
        ({"words": []}, "has no words"),
        ({"words": [1]}, "has no words"),
        ("Kell " * 90, "tokens are more than max_length="),
    ],
)
def test_sentences_that_can_not_be_parsed_are_refused(folder, sentence, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        made("dependency-parsing", folder / "DependencyParsing")(sentence)


# ---- the pipelines of transformers ----------------------------------------------------------------------------------


def test_transformers_own_pipelines_run_on_our_heads(folder, tokenizer):
    tokens = tokenizer([TEXT], return_tensors="pt", return_token_type_ids=False)
    scores = by_hand(folder, "SequenceClassification", tokens).softmax(-1)
    classified = made("text-classification", folder / "SequenceClassification", top_k=None)([TEXT])
    assert {one["label"]: one["score"] for one in classified[0]} == pytest.approx(
        dict(zip(LABELS["label2id"], scores.tolist(), strict=True))
    )
    tagged = made("token-classification", folder / "TokenClassification", ignore_labels=[])(TEXT)
    of_tokens = by_hand(folder, "TokenClassification", tokens).softmax(-1)[1:-1]
    assert [one["score"] for one in tagged] == pytest.approx(of_tokens.max(-1).values.tolist())
    features = torch.tensor(made("feature-extraction", folder / "plain")(TEXT))
    with torch.no_grad():
        expected = kadapter.KAdapterModel.from_pretrained(folder / "plain")(**tokens).last_hidden_state
    torch.testing.assert_close(features, expected)


def test_fill_mask_answers_with_the_tokens_of_the_lm_head(folder, tokenizer):
    text = f"Mira was born in {tokenizer.mask_token}."
    answers = made("fill-mask", folder / "MaskedLM")(text, top_k=3)
    tokens = tokenizer([text], return_tensors="pt", return_token_type_ids=False)
    scores = by_hand(folder, "MaskedLM", tokens)[tokens["input_ids"][0] == tokenizer.mask_token_id].softmax(-1)
    values, ids = scores[0].topk(3)
    assert [one["token"] for one in answers] == ids.tolist()
    assert [one["score"] for one in answers] == pytest.approx(values.tolist())


# ---- from a copy of the Hub -----------------------------------------------------------------------------------------


def test_an_artifact_names_the_pipeline_of_its_head_and_no_other(folder):
    for name in (*NAMES, "plain"):
        config = json.loads((folder / name / "config.json").read_text())
        own = (folder / name / "pipelines_kadapter.py").exists()
        assert own == ("custom_pipelines" in config) == (name in NAMES[:6])
    config = json.loads((folder / "DependencyParsing" / "config.json").read_text())
    assert config["custom_pipelines"]["dependency-parsing"]["impl"] == "pipelines_kadapter.DependencyParsingPipeline"
    model = kadapter.KAdapterForDependencyParsing.from_pretrained(folder / "DependencyParsing")
    model.save_adapter(folder / "alone", "fac")
    assert "custom_pipelines" not in json.loads((folder / "alone" / "config.json").read_text())


@pytest.mark.thorough
@pytest.mark.slow
def test_a_process_without_the_package_has_the_pipelines_by_remote_code_and_only_with_trust(folder):
    texts = {"text": TEXT, "entity_spans": SPANS}
    asked = [
        ("entity-pair-classification", "EntityPairClassification", texts),
        ("entity-classification", "EntityClassification", {**texts, "entity_spans": SPANS[:1]}),
        ("dependency-parsing", "DependencyParsing", TEXT),
        ("text-classification", "SequenceClassification", {"text": TEXT, "adapter_names": "__base__"}),
        ("token-classification", "TokenClassification", {"text": TEXT, "adapter_names": "__base__"}),
        ("fill-mask", "MaskedLM", {"text": "Mira Voss <mask> Tarnstad.", "adapter_names": "__base__"}),
    ]
    done = run_python(BARE, folder, json.dumps(asked), check=True)
    answers = json.loads(done.stdout[done.stdout.index("{") :])
    for task, name, inputs in asked:
        pipe = made(task, folder / name)
        assert answers[task] == pipe(inputs)
        assert "adapter_names" not in inputs or answers[task] != pipe(inputs["text"])
    again, first = (load_file(folder / place / "model.safetensors") for place in ("again", asked[-1][1]))
    assert again.keys() == first.keys() and all(torch.equal(again[key], first[key]) for key in first)


# ---- sentences that say what is wrong -------------------------------------------------------------------------------


def test_our_pipelines_name_the_row_of_a_wrong_adapter_among_several_texts(folder):
    pairs = made("entity-pair-classification", folder / "EntityPairClassification")
    with pytest.raises(ValueError, match=r"adapter_names\[1\] names 'gee', and there are"):
        pairs([TEXT] * 3, entity_spans=[SPANS] * 3, adapter_names=["fac", "gee", "fac"])
    parser = made("dependency-parsing", folder / "DependencyParsing")
    with pytest.raises(ValueError, match=r"adapter_names\[2\] names 'gee', and there are"):
        parser([OTHER, OTHER, {"words": ["Kell"], "adapter_names": "gee"}])


def test_spans_that_are_no_list_are_refused_in_a_sentence(folder):
    pipe = made("entity-pair-classification", folder / "EntityPairClassification")
    with pytest.raises(TypeError, match=r"entity_spans is 5; give \[\(start, end\)\] in characters"):
        pipe(TEXT, entity_spans=5)
    with pytest.raises(ValueError, match="give a list of texts and as many lists of entity_spans"):
        pipe([TEXT], entity_spans=5)


def test_a_sentence_that_is_too_long_is_quoted_by_its_beginning(folder):
    with pytest.raises(ValueError, match="tokens are more than max_length") as caught:
        made("dependency-parsing", folder / "DependencyParsing")("Kell " * 9000)
    assert len(str(caught.value)) < 300 and "'Kell Kell" in str(caught.value) and str(caught.value).endswith("...")
