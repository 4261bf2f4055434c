"""A pipeline asks several heads of one model about a text, and the encoder reads it once."""

import json

import pytest
import torch
from helpers import make_model, run_python, save_backbone, shake
from tiny_runs import tokenizer_of
from transformers import pipeline

import kadapter
from kadapter import KAdapterModelWithHeads

TEXT, OTHER = "Mira Voss was born in Tarnstad.", "Old Quarry has known Oduya for long."
SPANS, OTHER_SPANS = [(0, 9), (22, 30)], [(0, 10), (21, 26)]
LABELS = {"id2label": {0: "born", 1: "died", 2: "works"}, "label2id": {"born": 0, "died": 1, "works": 2}}
HEADS = {
    "topic": "SequenceClassification",
    "tags": "TokenClassification",
    "tree": "DependencyParsing",
    "relations": "EntityPairClassification",
    "words": "MaskedLM",
    "answers": "QuestionAnswering",
}
TASKS = {
    "topic": "text-classification",
    "tags": "token-classification",
    "tree": "dependency-parsing",
    "relations": "entity-pair-classification",
    "words": "fill-mask",
}
BARE = """
import json, sys
from transformers import pipeline
pipe = pipeline(model="several", trust_remote_code=True, device=-1)  # the task is in the configuration
assert type(pipe).__module__.startswith("transformers_modules."), type(pipe)
print(json.dumps(pipe(sys.argv[1], heads=["topic", "tree"])))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Artifacts with a head each, and one of all of them."""
    folder = tmp_path_factory.mktemp("several")
    tokenizer = tokenizer_of([TEXT, OTHER] * 3)
    backbone = save_backbone(folder / "backbone", vocab_size=len(tokenizer), max_position_embeddings=48)
    tokenizer.save_pretrained(backbone)
    for name, head in HEADS.items():
        fields = {"lm_head": "transform"} if name == "words" else LABELS
        model = make_model(backbone, "fac", "lin", model_class=getattr(kadapter, f"KAdapterFor{head}"), **fields)
        shake(model, std=0.2).eval().save_pretrained(folder / name)
    several = KAdapterModelWithHeads.from_heads({name: str(folder / name) for name in HEADS})
    several.save_pretrained(folder / "several")
    return folder


@pytest.fixture
def pipe(folder):
    return pipeline("several-heads", model=str(folder / "several"), device=-1)


def own(folder, name):
    return pipeline(TASKS[name], model=str(folder / name), device=-1)


class Runs:
    """Counts how often a backbone reads a batch."""

    def __init__(self, pipe):
        self.shapes = []
        pipe.model.backbone.register_forward_hook(self.note, with_kwargs=True)

    def note(self, module, args, kwargs, output):
        self.shapes.append(tuple(kwargs["input_ids"].shape))


def test_heads_on_the_same_tokens_share_a_run_and_answer_as_their_own_pipelines_do(folder, pipe):
    runs = Runs(pipe)
    answers = pipe([TEXT, OTHER], heads=["topic", "tags"], batch_size=2)
    assert len(runs.shapes) == 1 and runs.shapes[0][0] == 2
    assert [list(answer) for answer in answers] == [["topic", "tags"]] * 2
    assert [answer["topic"] for answer in answers] == own(folder, "topic")([TEXT, OTHER], batch_size=2)
    assert [answer["tags"] for answer in answers] == own(folder, "tags")([TEXT, OTHER], batch_size=2)


def test_marked_mentions_are_read_in_a_run_of_their_own(folder, pipe):
    runs = Runs(pipe)
    text = {"text": TEXT, "relations": {"entity_spans": SPANS}}
    answer = pipe(text, heads=["relations", "topic", "tags"], top_k=3)
    assert len(runs.shapes) == 2 and runs.shapes[0][1] > runs.shapes[1][1]  # markers are tokens
    assert answer["relations"] == own(folder, "relations")(TEXT, entity_spans=SPANS, top_k=3)
    assert answer["tags"] == own(folder, "tags")(TEXT)
    assert pipe([{"text": TEXT}], heads="tree") == [{"tree": own(folder, "tree")(TEXT)}]
    assert answer["topic"] == own(folder, "topic")(TEXT, top_k=3)
    several = [text, {"text": OTHER, "relations": {"entity_spans": OTHER_SPANS, "adapter_names": "lin"}}]
    several[0] = {"text": TEXT, "relations": {"entity_spans": SPANS, "adapter_names": "__base__"}}
    found = pipe(several, heads="relations", batch_size=2)
    spans, names = [SPANS, OTHER_SPANS], ["__base__", "lin"]
    assert [answer["relations"] for answer in found] == own(folder, "relations")(
        [TEXT, OTHER], entity_spans=spans, adapter_names=names, batch_size=2
    )


def test_masks_are_filled_beside_others_and_all_that_a_pipeline_asks_are_asked_by_default(folder, pipe):
    text = {
        "text": f"Mira Voss was born in {pipe.tokenizer.mask_token}.",
        "relations": {"entity_spans": SPANS[:1] * 2},
    }
    answer = pipe(text, top_k=2)
    assert list(answer) == ["topic", "tags", "tree", "relations", "words"]
    assert answer["words"] == own(folder, "words")(text["text"], top_k=2)
    assert pipe([]) == []


def test_no_head_reads_what_another_read_before(folder, pipe):
    first, second = pipe(TEXT, heads="topic"), pipe(OTHER, heads="topic")
    assert first != second and pipe(TEXT, heads="topic") == first
    pipe.model.heads["topic"].set_adapter("lin")
    assert pipe(TEXT, heads="topic") != first
    with torch.no_grad():
        assert pipe.model.heads["topic"](**pipe.tokenizer(TEXT, return_tensors="pt")).logits.shape == (1, 3)


def test_a_head_is_a_model_of_its_own_for_the_pipeline_of_its_task(folder, pipe):
    for name in ("topic", "relations"):
        alone = pipeline(TASKS[name], model=pipe.model.heads[name], tokenizer=pipe.tokenizer, device=-1)
        given = {"entity_spans": SPANS} if name == "relations" else {}
        assert alone(TEXT, **given) == own(folder, name)(TEXT, **given)
    with pytest.raises(ValueError, match=r"and this is a KAdapterModelWithHeads; use model=model.heads\[NAME\]"):
        pipeline("dependency-parsing", model=pipe.model, tokenizer=pipe.tokenizer)


def test_what_no_head_answers_is_refused_in_a_sentence(folder, pipe):
    for heads, text, reason in (
        ("moods", TEXT, "no head 'moods'; there are"),
        ("answers", TEXT, "head 'answers', a KAdapterForQuestionAnswering, reads more than a text"),
        ("relations", TEXT, "head 'relations': there are no mentions in"),
        ("topic", 3, "3 is no text; give a string, or a dict with 'text'"),
        ("topic", {"text": TEXT, "tree": {}}, "'tree' of .* is none of the heads that are asked"),
    ):
        with pytest.raises(ValueError, match=reason):
            pipe(text, heads=heads)
    with pytest.raises(ValueError, match="several-heads is for a KAdapterModelWithHeads, and this is a KAdapterFor"):
        pipeline("several-heads", model=pipe.model.heads["topic"], tokenizer=pipe.tokenizer)


def test_all_heads_read_a_text_through_the_adapters_that_it_names(folder, pipe):
    runs, names = Runs(pipe), ["lin", ["fac", "lin"], "__base__"]
    answers = pipe([TEXT, OTHER, TEXT], heads=["topic", "tags", "tree"], adapter_names=names, batch_size=3)
    assert len(runs.shapes) == 2  # of plain tokens, and of words
    for head in ("topic", "tags", "tree"):
        expected = own(folder, head)([TEXT, OTHER, TEXT], adapter_names=names, batch_size=3)
        assert [answer[head] for answer in answers] == expected
    records = [{"text": text, "adapter_names": entry} for text, entry in zip([TEXT, OTHER, TEXT], names, strict=True)]
    assert pipe(records, heads=["topic", "tags", "tree"], batch_size=3) == answers
    of_one = {"text": TEXT, "adapter_names": "lin", "tags": {"adapter_names": "__base__"}}
    answer = pipe(of_one, heads=["topic", "tags"])
    assert answer["topic"] == own(folder, "topic")([TEXT], adapter_names=["lin"])[0]
    assert answer["tags"] == own(folder, "tags")(TEXT, adapter_names="__base__")
    always = pipeline("several-heads", model=pipe.model, tokenizer=pipe.tokenizer, device=-1, adapter_names="lin")
    assert always(TEXT, heads=["topic", "tags"])["topic"] == answer["topic"]
    with pytest.raises(ValueError, match=r"head 'topic': adapter_names\[1\] names 'gee', and there are"):
        pipe([TEXT, OTHER], heads=["topic", "tags"], adapter_names=["fac", "gee"])


@pytest.mark.slow
def test_the_pipeline_comes_with_a_copy_of_the_artifact(folder, pipe):
    done = run_python(BARE, folder, TEXT)
    assert json.loads(done.stdout.splitlines()[-1]) == pipe(TEXT, heads=["topic", "tree"])
