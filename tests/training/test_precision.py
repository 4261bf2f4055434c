"""A run multiplies in what this machine is fast in, unless it is told otherwise, and says so in a line."""

import platform
import re
import sys
from time import perf_counter

import pytest
import torch
import yaml
from helpers import ROOT, run_python
from tiny_runs import flags, write_ground

from kadapter.trainers import run_adapter, run_multitask
from kadapter.trainers.common.arguments import RunArguments
from kadapter.trainers.common.precision import bfloat16_time

WITHOUT_BFLOAT16 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
X86 = platform.machine().lower() in ("x86_64", "amd64")
SHORT = ("--report_to", "none", "--save_strategy", "no", "--max_steps", "1", "--do_eval", "False")
pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


def unset(argv):
    """Flags of a run that says nothing of its precision."""
    place = argv.index("--bf16")
    return argv[:place] + argv[place + 2 :]


def seconds(dtype):
    left, right = torch.ones(512, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    taken = []
    for _ in range(4):
        begin = perf_counter()
        left @ right
        taken.append(perf_counter() - begin)
    return min(taken)


def test_a_run_that_says_nothing_computes_in_what_is_faster_here(tmp_path):
    factor = seconds(torch.bfloat16) / seconds(torch.float32)
    arguments = RunArguments(output_dir=str(tmp_path))
    assert arguments.bf16 is (arguments.mixed_precision == "bf16")
    assert not (arguments.bf16 and factor > 2), "a busy machine may hide what bfloat16 saves, not what it costs"


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(not X86, reason="the variables are of x86")
def test_a_cpu_without_bfloat16_trains_in_float32_and_is_warned_of_what_bfloat16_costs(tmp_path):
    script = """
from kadapter.trainers.common.arguments import RunArguments
for asked in (None, True, False):
    arguments = RunArguments(output_dir="out", bf16=asked)
    print(arguments.bf16, arguments.mixed_precision, arguments.precision)
"""
    unset, true, false = run_python(script, tmp_path, package=True, bare=True, **WITHOUT_BFLOAT16).stdout.splitlines()
    measured = r"a product in bfloat16 takes (\S+) times as long as in float32 here"
    assert float(re.match(rf"False no precision: float32 \({measured}, since this CPU has no units", unset)[1]) > 2
    assert float(re.match(rf"True bf16 precision: bfloat16, as asked; warning: {measured}", true)[1]) > 2
    assert false == "False no precision: float32 (as asked)"


@pytest.mark.parametrize(
    ("asked", "held"), [([], None), (["--bf16"], torch.bfloat16), (["--bf16", "false"], torch.float32)]
)
def test_every_run_says_its_precision_once_and_holds_the_backbone_in_it(ground, tmp_path, capsys, asked, held):
    argv = [*unset(flags(ground, "linguistic", tmp_path / "out", *SHORT)), *asked]
    if held is None:
        held = torch.bfloat16 if RunArguments(output_dir=str(tmp_path)).bf16 else torch.float32
    dtypes, build = [], run_adapter._new_model

    def build_and_note(*given):
        model = build(*given)
        dtypes.append(model.base_model.backbone.dtype)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_adapter, "_new_model", build_and_note)
        run_adapter.main(argv)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("precision: ")]
    assert dtypes == [held] and len(lines) == 1
    assert lines[0].startswith(f"precision: {str(held).removeprefix('torch.')}")


def test_the_multitask_baseline_says_its_precision_too(ground, tmp_path, capsys):
    argv = ["--objectives", "linguistic", "--corpora", "conllu", "--data_dirs", ground / "conllu", "--backbone"]
    argv += [ground / "backbone", "--output_dir", tmp_path / "out", "--max_length", "40", "--do_train", *SHORT]
    run_multitask.main([*map(str, argv), "--disable_tqdm", "True"])
    assert len(re.findall(r"^precision: (?:bfloat16|float32) \(", capsys.readouterr().out, re.MULTILINE)) == 1


def test_measuring_leaves_the_random_numbers_of_a_run_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    bfloat16_time.cache_clear()
    torch.manual_seed(3)
    bfloat16_time()
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_leaves_precision_to_the_machine(path):
    assert not {"bf16", "fp16"} & set(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_benchmark_of_reading_computes_in_what_is_faster_here(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
    commands = __import__("_commands")
    assert commands.in_bfloat16(None, "cpu") is RunArguments(output_dir="out").bf16
    assert [commands.in_bfloat16(asked, "cpu") for asked in (True, False)] == [True, False]


@pytest.mark.slow
def test_a_run_is_resumed_in_the_precision_that_it_began_with(ground, tmp_path):
    argv = flags(ground, "linguistic", tmp_path / "out", "--report_to", "none", "--max_steps")
    run_adapter.main([*argv, "2"])
    with pytest.raises(ValueError, match=r"--bf16"):
        run_adapter.main([*argv, "4", "--bf16", "True", "--resume_from_checkpoint", "last"])
