"""Keywords and paths as people write them: misspelt, secret, with a "~", and a fusion chosen while composing."""

from pathlib import Path

import pytest
import torch
from helpers import batch, bytes_of, make_model, output, save_backbone, small_adapter
from transformers import AutoModel, AutoModelForSequenceClassification

from kadapter import KAdapterConfig, KAdapterForSequenceClassification, KAdapterModel
from kadapter.data_builders import load
from kadapter.trainers.common.arguments import parse_arguments

SECRET = "hf_invented_secret"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home directory with a backbone, two adapters of it and a trained head."""
    folder = tmp_path_factory.mktemp("home")
    backbone = save_backbone(folder / "backbone")
    for name in ("fac", "lin"):
        make_model(backbone, name).save_pretrained(folder / f"kadapter-{name}")
    head = make_model(backbone, "fac", model_class=KAdapterForSequenceClassification, fusion="concat", num_labels=3)
    head.save_pretrained(folder / "head")
    return folder


@pytest.mark.parametrize("misspelt", ["num_label", "id2labels", "fussion", "active_adapter"])
def test_a_misspelt_keyword_is_recognised_wherever_a_model_is_made(home, misspelt):
    expected = rf"no keyword '{misspelt}'; did you mean '\w+'\?"
    with pytest.raises(TypeError, match=expected):
        KAdapterForSequenceClassification.from_pretrained(home / "kadapter-fac", **{misspelt: 3})
    with pytest.raises(TypeError, match=expected):
        AutoModelForSequenceClassification.from_pretrained(home / "kadapter-fac", **{misspelt: 3})
    with pytest.raises(TypeError, match=expected):
        KAdapterForSequenceClassification.from_backbone(home / "backbone", **{misspelt: 3})
    with pytest.raises(TypeError, match=expected):
        KAdapterConfig(**{misspelt: 3})


@pytest.mark.parametrize(
    "call",
    [
        lambda home: KAdapterModel.from_pretrained(home / "kadapter-fac", use_auth_token=SECRET),
        lambda home: KAdapterModel.from_backbone(home / "backbone", use_auth_token=SECRET),
        lambda home: KAdapterModel.from_backbone(home / "backbone").load_adapter("x", auth=SECRET),
        lambda home: KAdapterModel.from_backbone(home / "backbone").push_to_hub("x", auth=SECRET),
        lambda home: KAdapterModel.from_backbone(home / "backbone").save_pretrained(home / "x", auth=SECRET),
        lambda home: KAdapterConfig(adapters={"fac": {"hidden_sizes": SECRET}}),
    ],
)
def test_the_value_of_an_unknown_keyword_is_in_no_error(home, call):
    with pytest.raises((TypeError, ValueError)) as caught:
        call(home)
    error = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__


@pytest.mark.parametrize("fusion", ["gated", "concat"])
def test_a_fusion_can_be_chosen_while_composing_since_adding_has_no_weights(home, fusion):
    names = [home / "kadapter-fac", home / "kadapter-lin"]
    added = KAdapterModel.from_pretrained(names)
    model = KAdapterForSequenceClassification.from_pretrained(names, fusion=fusion, num_labels=3)
    assert model.config.fusion == fusion and model.config.num_labels == 3
    assert any(parameter.requires_grad for parameter in model.kadapter.fusion.parameters())
    assert bytes_of(model.kadapter.adapters) == bytes_of(added.adapters)
    if fusion == "gated":  # it starts from the plain backbone
        assert torch.allclose(output(model.kadapter), model.kadapter(**batch()).backbone_hidden_state, atol=1e-3)
    model.save_pretrained(home / f"saved-{fusion}", bundle_adapters=True)
    again = KAdapterForSequenceClassification.from_pretrained(home / f"saved-{fusion}")
    assert torch.equal(again(**batch()).logits, model.eval()(**batch()).logits)


def test_a_fusion_can_be_chosen_for_one_adapter_by_the_auto_classes_too(home):
    assert AutoModel.from_pretrained(home / "kadapter-fac", fusion="gated").config.fusion == "gated"


def test_a_fusion_that_was_learned_is_not_exchanged(home):
    with pytest.raises(ValueError, match=r"fusion='add' can't be chosen .* were made for another value"):
        KAdapterForSequenceClassification.from_pretrained(home / "head", fusion="add")


def test_a_tilde_is_the_home_directory_wherever_a_path_is_named(home, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(tmp_path)
    model = KAdapterModel.from_pretrained("~/kadapter-fac", backbone="~/backbone")
    assert model.load_adapter("~/kadapter-lin") == ["lin"]
    assert list(KAdapterModel.from_pretrained("~/kadapter-fac+lin").adapters) == ["fac", "lin"]
    own = KAdapterModel.from_backbone("~/backbone", adapters={"own": small_adapter()})
    own.save_pretrained("~/all")
    own.save_adapter("~/own", "own")
    (home / "facts").mkdir()
    (home / "facts" / "train.txt").write_text("Mira Voss works in Tarnstad.\n")
    (home / "facts" / "train.tsv").write_text("Mira Voss\twork location\tTarnstad\n")
    assert len(load("texts_and_triples", "~/facts", cache_dir=tmp_path / "cache")["train"]) == 1
    argv = ["--corpus", "conllu", "--data_dir=~/facts", "--objective", "linguistic", "--backbone=~/backbone"]
    corpus, adapter, run = parse_arguments([*argv, "--adapter_name", "lin", "--output_dir=~/out"])
    assert (corpus.data_dir, adapter.backbone) == (str(home / "facts"), str(home / "backbone"))
    assert run.output_dir == str(home / "out")
    assert (home / "all").is_dir() and (home / "own").is_dir() and not Path("~").exists()
