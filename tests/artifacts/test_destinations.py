"""A save never destroys a model that is not ours, and several saves to one directory leave one of them whole."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import bytes_of, make_model, save_backbone, tiny_backbone
from safetensors.torch import save_file
from transformers import AutoModel

from kadapter import KAdapterModel
from kadapter.artifacts_kadapter import check_destination
from kadapter.commands._composing import compose

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("encoder") / "backbone")


@pytest.fixture(scope="module")
def parts(tmp_path_factory, backbone):
    folder = tmp_path_factory.mktemp("parts")
    for name in ("fac", "lin"):
        make_model(backbone, name).save_pretrained(folder / name)
    return [folder / "fac", folder / "lin"]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_no_save_goes_into_the_backbones_own_directory(tmp_path, backbone, parts):
    model = make_model(backbone, "fac")
    (tmp_path / "link").symlink_to(backbone)
    before = bytes_of(AutoModel.from_pretrained(backbone))
    for place in (backbone, tmp_path / "link"):
        for save in (
            model.save_pretrained,
            lambda place: model.save_adapter(place, "fac"),
            lambda place: compose(parts, place, overwrite=True),
        ):
            with pytest.raises(OSError, match=r"can't save to .* name another"):
                save(place)
    assert bytes_of(AutoModel.from_pretrained(backbone)) == before


def only_a_configuration(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))


def damaged_configuration(folder):
    (folder / "config.json").write_text("{")


def nested_configuration(folder):
    (folder / "config.json").write_text("[" * 5000)


def only_weights(folder):
    save_file(dict(tiny_backbone().state_dict()), folder / "model.safetensors", metadata={"format": "pt"})


def pickled_weights(folder):
    torch.save({"weight": torch.ones(2)}, folder / "pytorch_model.bin")


def sharded_weights(folder):
    tiny_backbone().save_pretrained(folder, max_shard_size="20KB")
    (folder / "config.json").unlink()


def adapter_of_peft(folder):
    save_file({"base_model.x.lora_A.weight": torch.ones(2)}, folder / "adapter_model.safetensors")


FOREIGN = [
    *(only_a_configuration, damaged_configuration, nested_configuration, only_weights, pickled_weights),
    *(sharded_weights, adapter_of_peft),
]


@pytest.mark.parametrize("make", FOREIGN)
def test_no_save_goes_where_a_model_of_others_stands(tmp_path, parts, make):
    (tmp_path / "used").mkdir()
    make(tmp_path / "used")
    before = contents(tmp_path / "used")
    for save in (
        KAdapterModel.from_pretrained(parts[0]).save_pretrained,
        lambda place: compose(parts, place, overwrite=True),
    ):
        with pytest.raises(OSError, match=r"can't save to .*used.* name another directory"):
            save(tmp_path / "used")
    assert contents(tmp_path / "used") == before


def test_empty_directories_other_files_and_older_artifacts_are_no_hindrance(tmp_path, parts):
    model = KAdapterModel.from_pretrained(parts[0])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for name in ("notes", "empty", "new", "notes", "new"):
        model.save_pretrained(tmp_path / name)
    (tmp_path / "new" / "model.safetensors").write_bytes(b"cut")
    model.save_pretrained(tmp_path / "new")
    assert bytes_of(KAdapterModel.from_pretrained(tmp_path / "new")) == bytes_of(model)
    assert (tmp_path / "notes" / "notes.txt").read_text() == "mine"


def test_a_caller_may_know_a_model_of_another_type_for_its_own(tmp_path):
    only_a_configuration(tmp_path)
    (tmp_path / "mine.json").write_text("{}")
    check_destination(tmp_path, marks=["mine.json"])
    with pytest.raises(OSError, match="of type 'bert'"):
        check_destination(tmp_path, marks=["others.json"])


def test_links_that_lead_nowhere_and_places_without_permission_are_told(tmp_path, parts):
    model = KAdapterModel.from_pretrained(parts[0])
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"it is a link to .*nowhere', which is not there"):
        model.save_pretrained(tmp_path / "link")
    assert not (tmp_path / "nowhere").exists()
    for place in ("/proc/artifact", "/dev/null/artifact"):  # nobody can write there, not even root
        with pytest.raises(OSError, match=r"could not save to|it is a file"):
            model.save_pretrained(place)


@pytest.mark.parametrize("exists", [False, True])
def test_of_several_saves_at_once_one_is_there_whole(tmp_path, backbone, exists, caplog):
    models = [make_model(backbone, f"adapter{number}") for number in range(4)]
    if exists:
        models[0].save_pretrained(tmp_path / "out")
    started = threading.Barrier(len(models))

    def save(model):
        started.wait()
        for _ in range(3):
            model.save_pretrained(tmp_path / "out")

    with ThreadPoolExecutor(len(models)) as pool:
        assert list(pool.map(save, models)) == [None] * len(models)
    assert [name for name in os.listdir(tmp_path) if "partial" in name] == []
    again = KAdapterModel.from_pretrained(tmp_path / "out")
    assert bytes_of(again) in [bytes_of(model) for model in models]
    assert "is of another save" not in caplog.text
    assert f"adapter {next(iter(again.adapters))}" in (tmp_path / "out" / "README.md").read_text()
