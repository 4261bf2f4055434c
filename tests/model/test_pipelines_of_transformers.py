"""Pipelines of transformers on our heads: each text goes through the adapters that it names."""

from numbers import Real

import pytest
from documented import ROOT, blocks
from helpers import make_model, save_backbone, shake
from tiny_runs import tokenizer_of
from transformers import AutoModel, FeatureExtractionPipeline, pipeline

import kadapter

TEXT = "Mira Voss was born in Tarnstad on the Kell."
OTHER = "Old Quarry has known Oduya for long."
LABELS = {"id2label": {0: "born", 1: "died", 2: "works"}, "label2id": {"born": 0, "died": 1, "works": 2}}
OF_TRANSFORMERS = {
    "text-classification": ("SequenceClassification", {"top_k": None}),
    "token-classification": ("TokenClassification", {"ignore_labels": []}),
    "fill-mask": ("MaskedLM", {"top_k": 3}),
    "feature-extraction": ("plain", {}),
}
ENTRIES = ["fac", "__base__", ["fac", "lin"], "lin"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone with its tokenizer."""
    folder = tmp_path_factory.mktemp("pipelines")
    tokenizer = tokenizer_of([TEXT, OTHER] * 3)
    backbone = save_backbone(folder / "backbone", vocab_size=len(tokenizer), max_position_embeddings=48)
    tokenizer.save_pretrained(backbone)
    return folder


def naming(folder, task, **kwargs):
    """A pipeline of transformers on a model of two adapters, and four texts for it."""
    name, options = OF_TRANSFORMERS[task]
    model_class = getattr(kadapter, "KAdapterModel" if name == "plain" else f"KAdapterFor{name}")
    fields = {"lm_head": "transform"} if name == "MaskedLM" else LABELS
    model = shake(make_model(folder / "backbone", "fac", "lin", model_class=model_class, **fields), std=0.2).eval()
    pipe = pipeline(task, model=model, tokenizer=str(folder / "backbone"), device=-1, **options, **kwargs)
    texts = [TEXT, OTHER, "Mira knows Oduya.", TEXT]
    return pipe, [f"{pipe.tokenizer.mask_token} {text}" if task == "fill-mask" else text for text in texts]


def close(answers, others):
    """Whether the answers of two pipelines have the same numbers, and the same words."""
    if isinstance(answers, Real):
        return answers == pytest.approx(others, abs=1e-4)
    if isinstance(answers, list | dict):
        keys = answers.keys() if isinstance(answers, dict) else range(min(len(answers), len(others)))  # but padding
        return all(close(answers[key], others[key]) for key in keys)
    return answers == others


@pytest.mark.parametrize("task", OF_TRANSFORMERS)
def test_a_pipeline_of_transformers_reads_each_text_through_the_adapters_that_it_names(folder, task):
    pipe, texts = naming(folder, task)
    expected = []
    for text, entry in zip(texts, ENTRIES, strict=True):
        pipe.model.set_adapter(entry if entry != "__base__" else "fac")
        if entry == "__base__":
            pipe.model.disable_adapters()
        expected.append(pipe([text, text])[0])
        pipe.model.enable_adapters()
    pipe.model.set_adapter(["fac", "lin"])
    assert not close(expected[0], expected[3])
    records = [{"text": text, "adapter_names": names} for text, names in zip(texts, ENTRIES, strict=True)]
    for size in (1, 3):
        assert close(pipe(texts, adapter_names=ENTRIES, batch_size=size), expected)
        assert close(pipe(records, batch_size=size), expected)
        assert close(list(pipe((record for record in records), batch_size=size)), expected)
    assert close(pipe(texts[3], adapter_names="lin"), pipe(records[3]))
    assert pipe(texts) == pipe(texts, adapter_names=[["fac", "lin"]] * 4)
    pipe.model.set_adapter("lin")
    assert close(pipe(texts[3]), pipe(records[3] if task != "text-classification" else texts[3]))
    assert close(pipe(texts[0], adapter_names="fac"), naming_as(pipe, task, "fac")(texts[0]))


def naming_as(pipe, task, names):
    """The same model in a pipeline whose texts all go through these adapters."""
    options = OF_TRANSFORMERS[task][1]
    return pipeline(task, model=pipe.model, tokenizer=pipe.tokenizer, device=-1, adapter_names=names, **options)


@pytest.mark.parametrize("task", OF_TRANSFORMERS)
def test_wrong_adapters_of_a_text_are_refused_with_its_row_in_pipelines_of_transformers(folder, task):
    pipe, texts = naming(folder, task)
    for given in ({"adapter_names": ["fac", "lin", "gee", "fac"]}, {}):
        inputs = texts if given else [*texts[:2], {"text": texts[2], "adapter_names": "gee"}]
        with pytest.raises(ValueError, match=r"adapter_names\[2\] names 'gee', and there are \['fac', 'lin', '__b"):
            pipe(inputs, **given)
    with pytest.raises(ValueError, match=r"adapter_names is \['fac'\], and there are 4 texts"):
        pipe(texts, adapter_names=["fac"])
    with pytest.raises(ValueError, match=r"adapter_names of '.*' names 'gee'"):
        list(pipe({"text": text, "adapter_names": "gee"} for text in texts))
    with pytest.raises(ValueError, match="adapter_names go with a text or a list of texts, and this is a generator"):
        pipe((text for text in texts), adapter_names=ENTRIES)
    with pytest.raises(ValueError, match="some texts of a batch name their adapters and others none"):
        pipe([texts[0], {"text": texts[1], "adapter_names": "fac"}], batch_size=2)
    with pytest.raises(ValueError, match="adapter_names names 'gee', and there are"):
        naming_as(pipe, task, "gee")


def test_pairs_of_texts_name_their_adapters_as_texts_do(folder):
    pipe, _ = naming(folder, "text-classification")
    pairs = [{"text": TEXT, "text_pair": OTHER, "adapter_names": names} for names in ("fac", "lin")]
    answers = pipe(pairs, batch_size=2)
    for pair, answer in zip(pairs, answers, strict=True):
        pipe.model.set_adapter(pair["adapter_names"])
        assert close(pipe({"text": TEXT, "text_pair": OTHER}), answer)


def test_models_of_others_keep_the_pipelines_of_transformers(folder):
    model = AutoModel.from_pretrained(folder / "backbone")
    pipe = pipeline("feature-extraction", model=model, tokenizer=str(folder / "backbone"), device=-1)
    assert type(pipe) is FeatureExtractionPipeline


def test_the_page_on_mixed_batches_shows_how_a_pipeline_is_asked(folder, capsys, monkeypatch):
    pipe, _ = naming(folder, "text-classification")
    pipe.model.save_pretrained(folder / "topics")
    pipe.tokenizer.save_pretrained(folder / "topics")
    monkeypatch.chdir(folder)
    page = ROOT / "docs" / "mixed_batches.md"
    (block,) = [block for block in blocks(page) if block.why == "tests/model/test_pipelines_of_transformers.py"]
    names = {}
    exec(block.text, names)
    assert capsys.readouterr().out.count("'label'") == 3
    assert names["always"]([TEXT]) == names["topics"]([TEXT], adapter_names=["lin"])
