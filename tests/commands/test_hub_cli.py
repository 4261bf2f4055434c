"""The `kadapter` command: composing, converting, and bad input told in one sentence."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import run_python, tiny_tokenizer
from official_cases import HEADS, SMALL, save_backbone, save_official, small_case, wrapped
from safetensors.torch import load_file
from transformers import AutoTokenizer
from typer.testing import CliRunner

from kadapter import KAdapterModel, KnowledgeAdapterConfig
from kadapter.commands import app

IDS = torch.tensor([[0, 7, 9, 11, 2]])
LAYERS = ("--layers", "0", "--layers", "2", "--layers", "4")
LOAD_AS_A_STRANGER = """
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained("org/kadapter-fac+lin", trust_remote_code=True)
torch.save(model(torch.tensor([[0, 7, 9, 11, 2]])).last_hidden_state, "states.pt")
"""


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return save_backbone(load_file(SMALL / "backbone.safetensors"), HEADS, tmp_path_factory.mktemp("hub") / "encoder")


@pytest.fixture
def org(backbone, tmp_path, monkeypatch):
    """Two adapters of one organisation, the second with a tokenizer, and the working directory beside them."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("fac", "lin")):
        torch.manual_seed(seed)
        shape = KnowledgeAdapterConfig(hidden_size=8, num_attention_heads=2, intermediate_size=16)
        KAdapterModel.from_backbone(backbone, adapters={name: shape}).save_pretrained(f"org/kadapter-{name}")
    tiny_tokenizer(tmp_path / "org" / "kadapter-lin")
    return tmp_path / "org"


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


def sentence(result) -> str:
    """What a refused command says: one line on stderr, and nothing else went wrong."""
    assert result.exit_code == 1, result.output
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("kadapter: ")
    assert "Traceback" not in result.output
    return last


def convert(backbone, file, *options: object):
    given = ("--num-attention-heads", HEADS, "-o", "out", *(() if "--layers" in options else LAYERS), *options)
    return run("convert", "--official", file, "--backbone", backbone, *given)


# ---- compose ------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_composition_loads_by_its_literal_name_without_the_package(org):
    result = run("compose", "org/kadapter-fac", "org/kadapter-lin", "-o", "org/kadapter-fac+lin")
    assert result.exit_code == 0, result.output
    run_python(LOAD_AS_A_STRANGER, org.parent)
    parts = KAdapterModel.from_pretrained(["org/kadapter-fac", "org/kadapter-lin"])
    assert torch.equal(torch.load("states.pt"), parts(IDS).last_hidden_state)


def test_composing_says_what_was_composed_and_takes_the_first_tokenizer(org):
    output = run("compose", "org/kadapter-fac", "org/kadapter-lin", "-o", "both").output
    assert "composed org/kadapter-fac + org/kadapter-lin" in output
    assert "adapter fac: layers [0, 1, 2], inner width 8, 2 blocks, 2 heads" in output
    assert "fused by 'add', with its tokenizer" in output
    assert 'AutoModel.from_pretrained("both", trust_remote_code=True)' in output
    assert AutoTokenizer.from_pretrained("both")("ada").input_ids == [0, 8, 2]


def test_a_script_reads_where_a_composition_is_and_what_it_holds(org):
    result = run("compose", "org/kadapter-fac", "org/kadapter-lin", "-o", "both", "--json")
    (line,) = result.stdout.splitlines()
    told = json.loads(line)
    assert (told["path"], told["class"], told["adapters"]) == ("both", "KAdapterModel", ["fac", "lin"])
    assert told["fusion"] == "add" and len(told["backbone_fingerprint"]) == 64
    assert told["files"] == {path.name: path.stat().st_size for path in Path("both").iterdir()}
    assert result.stderr.startswith("composing org/kadapter-fac + org/kadapter-lin\n")


def test_a_composition_can_be_fused_by_what_its_adapters_change(org):
    output = run("compose", "org/kadapter-fac+lin", "-o", "both", "--fusion", "delta").output
    assert "fused by 'delta', with its tokenizer" in output
    assert "Outputs are fused by `delta`" in Path("both", "README.md").read_text(encoding="utf-8")
    parts = KAdapterModel.from_pretrained(["org/kadapter-fac", "org/kadapter-lin"], fusion="delta")
    assert torch.equal(KAdapterModel.from_pretrained("both")(IDS).last_hidden_state, parts(IDS).last_hidden_state)
    assert run("compose", "both", "-o", "again", "--fusion", "concat").exit_code == 2


def test_the_shorthand_names_both_parts(org):
    assert run("compose", "org/kadapter-fac+lin", "-o", "both").exit_code == 0
    assert list(KAdapterModel.from_pretrained("both").config.adapters) == ["fac", "lin"]


def test_a_moved_backbone_can_be_named(org, backbone):
    moved = backbone.rename(backbone.with_name("moved"))
    try:
        assert "say where it is" in sentence(run("compose", "org/kadapter-fac+lin", "-o", "both"))
        assert run("compose", "org/kadapter-fac+lin", "-o", "both", "--backbone", moved).exit_code == 0
    finally:
        moved.rename(backbone)


def test_a_used_directory_is_left_alone_unless_it_may_be_overwritten(org):
    (org / "notes").mkdir()
    (org / "notes" / "mine.txt").write_text("mine")
    words = ("compose", "org/kadapter-fac", "org/kadapter-lin", "-o", "org/notes")
    assert "'org/notes' is in use already; name another directory or pass --overwrite" in sentence(run(*words))
    assert [path.name for path in (org / "notes").iterdir()] == ["mine.txt"]
    assert run(*words, "--overwrite").exit_code == 0
    assert (org / "notes" / "mine.txt").read_text() == "mine"
    assert len(KAdapterModel.from_pretrained("org/notes").config.adapters) == 2


def test_a_file_in_the_place_of_the_directory_is_an_error(org):
    (org / "file").write_text("mine")
    assert "it is a file; name a directory" in sentence(run("compose", "org/kadapter-fac+lin", "-o", "org/file"))


def test_parts_that_do_not_compose_are_refused(org, tmp_path):
    assert "has only one adapter" in sentence(run("compose", "org/kadapter-fac", "-o", "both"))
    twice = run("compose", "org/kadapter-fac", "org/kadapter-fac", "-o", "both")
    assert "adapter 'fac' of org/kadapter-fac is in another part already" in sentence(twice)
    assert "org/kadapter-med" in sentence(run("compose", "org/kadapter-fac+med", "-o", "both"))
    other = {key: one + 1 for key, one in load_file(SMALL / "backbone.safetensors").items()}
    other_backbone = save_backbone(other, HEADS, tmp_path / "other")
    KAdapterModel.from_backbone(other_backbone, adapters={"far": {}}).save_pretrained("org/kadapter-far")
    assert "org/kadapter-far was made for another backbone" in sentence(
        run("compose", "org/kadapter-fac+far", "-o", "both")
    )
    assert not (tmp_path / "both").exists()


def test_a_script_reads_where_a_converted_adapter_is(org, backbone):
    result = convert(backbone, SMALL / "fac.safetensors", "--name", "fac", "--json")
    (line,) = result.stdout.splitlines()
    told = json.loads(line)
    assert (told["path"], told["class"], told["adapters"]) == ("out", "KAdapterModel", ["fac"])
    assert told["files"]["model.safetensors"] == Path("out", "model.safetensors").stat().st_size


# ---- bad input to convert -----------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--layers", 0, "--layers", 2), "has 3 layers in adapter, and 2 were given, [0, 2]; pass --layers 3 times"),
        (("--layers", 0, "--layers", 2, "--layers", 9), "layers=[0, 2, 9] must lie in 0..4"),
        (("--layers", 2, "--layers", 0, "--layers", 4), "strictly increasing"),
        (("--num-attention-heads", 5), "the inner width 48 does not divide into 5 attention heads"),
        (("--num-attention-heads", 0), "num_attention_heads=0 of a knowledge adapter must be at least 1"),
        (("--skip-layers", 1), "skip_layers=1 must be 0 (off) or at least 2"),
        (("--name", "a.b"), "adapter name 'a.b' may hold only letters"),
        (("--fusion", "concat"), "is a pre-training file, so fusion='concat' is not possible"),
        (("--backbone", "nowhere/at-all"), "backbone 'nowhere/at-all' can't be read"),
    ],
)
def test_options_that_do_not_fit_the_file_are_refused(options, reason, backbone, here):
    assert reason in sentence(convert(backbone, SMALL / "fac.safetensors", "--name", "fac", *options))
    assert list(here.iterdir()) == []


def test_a_pretraining_file_needs_a_name(backbone, here):
    assert "does not name its adapter; pass a name, for example --name fac" in sentence(
        convert(backbone, SMALL / "fac.safetensors")
    )


def test_a_backbone_of_another_width_is_refused(backbone, here):
    tensors = load_file(SMALL / "backbone.safetensors")
    wide = {key: torch.cat([one] * 2, dim=0) if one.dim() == 1 else one.repeat(2, 2) for key, one in tensors.items()}
    wider = save_backbone({**wide, **embeddings(tensors)}, HEADS, here / "wider")
    said = sentence(convert(wider, SMALL / "fac.safetensors", "--name", "fac"))
    assert "was made for a backbone of width 32" in said
    assert "has 64" in said


def embeddings(tensors):
    """Twice as wide, with as many tokens and positions as before."""
    return {key: one.repeat(1, 2) for key, one in tensors.items() if key.endswith("embeddings.weight")}


@pytest.mark.parametrize("kind", ["bin", "safetensors", "old.bin"])
def test_a_truncated_file_is_refused(kind, backbone, here):
    file = here / f"fac.{kind}"
    if kind == "old.bin":
        torch.save(load_file(SMALL / "fac.safetensors"), file, _use_new_zipfile_serialization=False)
    else:
        save_official(load_file(SMALL / "fac.safetensors"), file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert f"{file} is damaged, cut short or" in sentence(convert(backbone, file, "--name", "fac"))


class Harm:
    """What runs a program when it is unpickled without care."""

    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_a_file_that_would_run_code_is_refused_unrun(write, backbone, here):
    with (here / "harm.bin").open("wb") as file:
        write({"adapter.0.down_project.weight": Harm()}, file)
    assert "code in a file is never run" in sentence(convert(backbone, "harm.bin", "--name", "fac"))
    assert not (here / "harmed").exists()


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"layer.weight": torch.ones(2)}, "is not a file of the official K-Adapter code"),
        ({"model.embeddings.LayerNorm.bias": torch.ones(2)}, "holds a backbone (model.*) and no adapter"),
        ({"state_dict": {"adapter.0": torch.ones(2)}}, "'state_dict' is a dict, not a tensor"),
        ([torch.ones(2)], "holds a list, not named tensors"),
        ({}, "holds a dict, not named tensors"),
        ({"adapter.0.down_project.weight": torch.tensor([float("nan")])}, "holds NaN or infinite values"),
    ],
)
def test_a_foreign_file_is_refused(tensors, reason, backbone, here):
    torch.save(tensors, here / "foreign.bin")
    assert reason in sentence(convert(backbone, "foreign.bin", "--name", "fac"))


def test_text_in_the_place_of_a_checkpoint_is_refused(backbone, here):
    for name in ("text.bin", "text.safetensors"):
        (here / name).write_text("version https://git-lfs.github.com/spec/v1\n")
        assert "is damaged, cut short or" in sentence(convert(backbone, name, "--name", "fac"))
    assert "no file 'missing.bin'" in sentence(convert(backbone, "missing.bin", "--name", "fac"))


def test_unknown_missing_and_misshapen_tensors_are_named(backbone, here):
    good = load_file(SMALL / "fac.safetensors")
    key = "adapter.1.encoder.layer.0.output.dense.weight"
    cases = {
        "has unknown tensor 'et_adapter.bias' and 1 more": {**good, "et_adapter.bias": good[key], "z": good[key]},
        f"lacks tensor '{key}'": {name: one for name, one in good.items() if name != key},
        f"tensor '{key}' has shape (4, 4), and a model like its other tensors needs (48, 96)": {
            **good,
            key: torch.ones(4, 4),
        },
        "lacks tensor 'adapter.0.down_project.weight'": {
            name: one for name, one in good.items() if name != "adapter.0.down_project.weight"
        },
    }
    for number, (reason, tensors) in enumerate(cases.items()):
        file = save_official(tensors, here / f"{number}.bin")
        assert reason in sentence(convert(backbone, file, "--name", "fac"))


def test_heads_that_can_not_be_kept_are_refused(backbone, here):
    without = small_case("RobertaModelwithAdapter.fac_lin_add").tensors
    file = save_official(without, here / "without.bin")
    assert "holds no head (no tensor 'out_proj.weight'); use --drop-head" in sentence(
        convert(backbone, file, "--keep-head")
    )
    three = {**wrapped("fac", "lin"), "dense.weight": torch.ones(32, 96), "out_proj.weight": torch.ones(9, 32)}
    file = save_official(three, here / "three.bin")
    said = sentence(convert(backbone, file, "--keep-head"))
    assert "'dense.weight' has shape (32, 96), and a head for one or two mentions has (32, 32) or (32, 64)" in said
    added = {**wrapped("fac"), "classifier.weight": torch.ones(1, 32), "classifier.bias": torch.ones(1)}
    file = save_official(added, here / "added.bin")
    assert "was fine-tuned on CosmosQA with fusion 'add'" in sentence(convert(backbone, file, "--keep-head"))


def test_a_projection_that_the_file_lacks_is_named(backbone, here):
    file = save_official(wrapped("fac", "lin"), here / "add.bin")
    assert "lacks tensor 'task_dense.bias' and 5 more" in sentence(convert(backbone, file, "--fusion", "concat"))


def test_converting_into_a_used_directory_is_refused_before_any_work(backbone, here):
    (here / "out").mkdir()
    (here / "out" / "mine.txt").write_text("mine")
    assert "'out' is in use already" in sentence(convert(backbone, "missing.bin", "--name", "fac"))
    result = convert(backbone, SMALL / "fac.safetensors", "--name", "fac", "--overwrite")
    assert result.exit_code == 0
    assert (here / "out" / "mine.txt").read_text() == "mine"


# ---- the command itself -------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_the_command_runs_as_a_process_of_its_own(backbone, here):
    command = [sys.executable, "-m", "kadapter.commands"]
    assert subprocess.check_output([*command, "--version"], text=True).startswith("kadapter 0.")
    words = ["convert", "--official", SMALL / "lin.safetensors", "--backbone", backbone, *LAYERS, "--name", "lin"]
    words += ["--num-attention-heads", str(HEADS), "-o", "kadapter-lin"]
    output = subprocess.check_output([*command, *words], text=True)
    assert "left out of" in output
    assert "saved KAdapterModel to kadapter-lin" in output
    assert list(KAdapterModel.from_pretrained("kadapter-lin").config.adapters) == ["lin"]
    again = subprocess.run([*command, *words], check=False, capture_output=True, text=True)
    assert again.returncode == 1
    said = again.stderr.strip().splitlines()[-1]  # torchao, where it is installed, has its own to say before
    assert said == "kadapter: 'kadapter-lin' is in use already; name another directory or pass --overwrite"
    assert "Traceback" not in again.stderr


def test_help_names_the_commands_and_imports_no_torch():
    assert {"convert", "compose"} <= set(run("--help").output.split())
    code = "import sys, kadapter.commands; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
