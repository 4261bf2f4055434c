"""What others wrote into an artifact's configuration is shown as plain text, or refused in a sentence."""

import json
import re

import pytest
from helpers import make_model, save_backbone
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from kadapter import KAdapterModel
from kadapter.commands._composing import compose

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("encoder") / "backbone")


@pytest.fixture
def artifact(tmp_path, backbone):
    """An artifact whose weights tell nothing of it, so that config.json decides."""
    make_model(backbone, "fac").save_pretrained(tmp_path / "fac")
    path = tmp_path / "fac" / "model.safetensors"
    save_file(load_file(path), path)
    return tmp_path / "fac"


def edit(artifact, change):
    path = artifact / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


HEADINGS = [f"## {heading}" for heading in ("Use", "Compose", "Locality", "Limits", "Citation")]
HOSTILE = [
    "x\n\n# Heading\n\n---\nlicense: mit\n---\n",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "a | b | c |\n|---|---|\n| d",
    "[click](javascript:alert(1)) ![x](https://example.org/x.png) <https://example.org>",
    "`code` ``` **bold** __bold__ ~~gone~~ &lt;b&gt;",
    "\u2028# x\u2029\x85---\r\nx\x00\x1b[31m",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_fields_of_a_part_are_plain_text_in_the_composites_card(tmp_path, artifact, backbone, text):
    def change(config):
        training = {"corpus": text, "objective": text, "results": {text: text}, text: text}
        training |= dict.fromkeys(("knowledge", "examples", "licence", "epochs", "seed"), text)
        training |= {"locality": {"weight": text, "corpus": text}, "parents": [{"adapter": text, "weight": text}]}
        config["adapters"]["fac"]["training"] = training
        config["backbone_revision"] = text
        config["backbone_fingerprint"] = None

    edit(artifact, change)
    make_model(backbone, "lin").save_pretrained(tmp_path / "lin")
    compose([artifact, tmp_path / "lin"], tmp_path / "both")
    model = KAdapterModel.from_pretrained(tmp_path / "both")
    model.config.backbone_name_or_path = model.config.backbone_revision = text
    model.save_pretrained(tmp_path / "again")
    for name in ("both", "again"):
        card = (tmp_path / name / "README.md").read_text()
        metadata = ModelCard(card).data.to_dict()
        assert set(metadata) <= {"library_name", "pipeline_tag", "tags", "base_model", "base_model_relation"}
        body = card.split("\n---\n", 1)[1]
        headings = re.findall("^#+ .*", re.sub("```.*?```", "", body, flags=re.DOTALL), flags=re.MULTILINE)
        assert headings == ["# Knowledge adapter fac + lin", *HEADINGS]
        assert not re.search("^(---|\\*\\*\\*|===)", body, flags=re.MULTILINE)
        row = next(line for line in body.splitlines() if line.startswith("| fac |"))
        assert len(re.findall(r"(?<!\\)\|", row)) == 8
        assert not re.search(r"<(?!!-- Gen)|(?<!\\)[\[*~`]|javascript:(?!alert\(1\)\))|://", row.split("|", 4)[4])


def test_an_ordinary_name_of_a_corpus_is_shown_as_it_is(tmp_path, backbone):
    model = make_model(backbone, "fac")
    training = {"corpus": "data/my_corpus-1.2.jsonl (train)", "objective": "factual", "results": {"eval_f1": 0.5}}
    model.config.adapters["fac"]["training"] = training
    model.save_pretrained(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| data/my_corpus-1.2.jsonl (train) | factual | eval_f1 0.5000 |" in text


def adapter(config):
    return config["adapters"]["fac"]


NONSENSE = {
    "results that are a list": lambda config: adapter(config).update(training={"results": [1]}),
    "training that is text": lambda config: adapter(config).update(training="fewrel"),
    "a reference without a hash": lambda config: adapter(config).update(
        source={"name_or_path": "org/a", "adapter": "fac"}
    ),
    "a reference without an adapter": lambda config: adapter(config).update(
        source={"name_or_path": "org/a", "hash": "0" * 64, "revision": None}
    ),
    "a reference to a number": lambda config: adapter(config).update(
        source={"name_or_path": 7, "adapter": "fac", "hash": "0" * 64}
    ),
    "a source that is a list": lambda config: adapter(config).update(source=["org/a"]),
    "adapters that are a list": lambda config: config.update(adapters=["fac"]),
    "an adapter that is text": lambda config: config["adapters"].update(fac="big"),
    "a fusion that is a list": lambda config: config.update(fusion=["add"]),
    "architectures that are a number": lambda config: config.update(architectures=7),
    "architectures of a list": lambda config: config.update(architectures=[["KAdapterModel"]]),
    "a backbone configuration that is text": lambda config: config.update(backbone_config="roberta"),
    "a backbone's labels that are a number": lambda config: config["backbone_config"].update(id2label=7),
    "a fingerprint that is a list": lambda config: config.update(backbone_fingerprint=["a"]),
    "a backbone's name that is a number": lambda config: config.update(backbone_name_or_path=7),
    "a revision that is a mapping": lambda config: config.update(backbone_revision={}),
    "active adapters that are a number": lambda config: config.update(active_adapters=7),
    "a format that is text": lambda config: config.update(format_version="1"),
    "labels that are a list": lambda config: config.update(id2label=["a"]),
    "modified that is text": lambda config: config.update(backbone_modified="no"),
}


@pytest.mark.parametrize("change", NONSENSE.values(), ids=NONSENSE.keys())
def test_fields_of_another_kind_are_refused_in_a_sentence(artifact, change):
    edit(artifact, change)
    with pytest.raises((ValueError, TypeError, OSError), match=r"[a-z_ ]{10}.*") as caught:
        KAdapterModel.from_pretrained(artifact)
    assert re.search(f"{artifact}|fac|backbone_config", str(caught.value))


@pytest.mark.parametrize("hashes", [{"fac": 7}, {"fac": ["a"]}, {"fac": ""}, [], "text"])
def test_hashes_that_are_none_are_refused_in_a_sentence(artifact, hashes):
    path = artifact / "model.safetensors"
    for key in ("hashes", "checksums"):
        save_file(load_file(path), path, metadata={key: json.dumps(hashes)})
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged or cut short \(what its metadata holds"):
            KAdapterModel.from_pretrained(artifact)


@pytest.mark.parametrize("depth", [500, 900, 5000, 100_000])
@pytest.mark.parametrize("where", ["whole", "training"])
def test_a_configuration_nested_without_end_is_refused_in_a_sentence(artifact, depth, where):
    nested = '{"a":' * depth + "1" + "}" * depth
    config = json.loads((artifact / "config.json").read_text())
    config["adapters"]["fac"]["training"] = "HERE"
    text = json.dumps(config).replace('"HERE"', nested) if where == "training" else nested
    (artifact / "config.json").write_text(text)
    try:
        KAdapterModel.from_pretrained(artifact)
    except (ValueError, TypeError) as error:
        assert str(artifact) in str(error)
    else:
        assert depth < 5000 and where == "training"  # a depth that can be read and copied does no harm
