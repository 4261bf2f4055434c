"""A frozen encoder whose blocks are compiled: it reads faster or not, and nearly the same."""

import os
import sys

import pytest
import torch
from helpers import COMPILER, FAMILIES, batch, tiny_backbone
from tiny_runs import flags, write_ground
from torch._inductor import config as inductor_config

from kadapter import KAdapterModel
from kadapter.trainers import run_adapter
from kadapter.trainers.common.backbone_options import compile_blocks
from kadapter.trainers.common.entry_point import run_program

# PyTorch's own, where it imports its compiler and where this traces the run of an encoder.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
SHORT = ["--max_steps", "2", "--report_to", "none"]


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.mark.slow
@pytest.mark.skipif(
    COMPILER is None, reason="compiling for a CPU needs a C++ compiler, and PyTorch in a folder without spaces"
)
@pytest.mark.thorough
def test_an_adapter_is_trained_beside_compiled_blocks_whose_states_are_kept_apart(ground, tmp_path):
    kept = ["--cache_features", str(tmp_path / "features")]
    results = {
        given: run_adapter.main(
            flags(ground, "linguistic", tmp_path / given, *SHORT, *kept, "--compile_backbone", given)
        )
        for given in ("true", "false")
    }
    losses = [one["eval_loss"] for one in results.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert len(list((tmp_path / "features").iterdir())) == 2
    again = flags(ground, "linguistic", tmp_path / "true", *SHORT, "--compile_backbone", "true", "--do_train", "false")
    assert run_adapter.main(again)["eval_loss"] == pytest.approx(losses[0], rel=1e-6)
    artifact = KAdapterModel.from_pretrained(tmp_path / "true")
    assert not any("forward" in vars(part) for part in artifact.modules())


@pytest.mark.slow
@pytest.mark.parametrize("family", [one for one in FAMILIES if one != "albert"])
def test_hooks_see_each_compiled_block(family):
    backbone, calls = tiny_backbone(family), []
    with torch.no_grad():
        expected = backbone(**batch(family)).last_hidden_state
        compile_blocks(backbone)
        blocks = [part for part in backbone.modules() if "forward" in vars(part)]
        for block in blocks:
            block.register_forward_pre_hook(lambda module, given: calls.append(module))
        with torch.compiler.set_stance("force_eager"):  # whatever compiler there is
            found = backbone(**batch(family)).last_hidden_state
    assert torch.equal(found, expected) and calls == blocks and len(blocks) == 4


@pytest.mark.parametrize("restriction", [{}, {"ATEN_CPU_CAPABILITY": "avx2"}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}])
def test_kernels_for_other_instructions_are_kept_in_another_folder(restriction, monkeypatch, tmp_path):
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    for name, value in restriction.items():
        monkeypatch.setenv(name, value)
    compile_blocks(tiny_backbone())
    assert os.environ.get("TORCHINDUCTOR_CACHE_DIR", "").endswith("_avx2") == bool(restriction)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compile_blocks(tiny_backbone())
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)


def test_a_backbone_whose_blocks_are_one_and_the_same_is_refused():
    with pytest.raises(ValueError, match="AlbertModel has no list of its 4 blocks; leave the flag out"):
        compile_blocks(tiny_backbone("albert"))


@pytest.mark.slow
def test_without_a_compiler_the_flag_says_what_to_install_before_anything_costs_time(ground, tmp_path, monkeypatch):
    monkeypatch.setattr(inductor_config.cpp, "cxx", (None, "no-such-compiler"))  # as CXX sets it
    said = refusal(ground, tmp_path / "out", monkeypatch, tmp_path / "inductor")
    assert said.startswith(
        "run_adapter: --compile_backbone: PyTorch can't compile here (InvalidCxxCompiler: No working"
    )
    if COMPILER is not None:
        assert said.endswith("install a C++ compiler such as g++, or leave the flag out")


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="PyTorch gets as far as its folders with a C++ compiler only")
def test_a_folder_that_pytorch_cannot_hand_to_the_compiler_is_named(ground, tmp_path, monkeypatch):
    said = refusal(ground, tmp_path / "out", monkeypatch, tmp_path / "my kernels")
    assert f"there is a space in {str(tmp_path / 'my kernels')!r}" in said and said.endswith("or leave the flag out")


def refusal(ground, out, monkeypatch, kernels):
    """Return what the program of training beside compiled blocks ends with before it makes a folder."""
    torch._dynamo.reset()  # what was compiled in this process before
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(kernels))
    given = flags(ground, "linguistic", out, *SHORT, "--compile_backbone", "true")
    monkeypatch.setattr(sys, "argv", ["run_adapter.py", *given])
    with pytest.raises(SystemExit) as ended:
        run_program(run_adapter.main)
    assert not out.exists()
    return ended.value.code
