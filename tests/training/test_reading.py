"""How the frozen backbone reads is asked for by flags, and what can't be is told in a sentence."""

from types import SimpleNamespace

import pytest
import torch
from tiny_runs import flags, losses, write_ground

from kadapter.trainers import run_adapter
from kadapter.trainers.common.arguments import AdapterArguments
from kadapter.trainers.common.backbone_options import backbone_options

SHORT = ("--report_to", "none", "--save_strategy", "no", "--max_steps", "2")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.mark.slow
def test_an_attention_is_chosen_for_the_backbone(ground, tmp_path, monkeypatch):
    chosen, build = [], run_adapter._new_model

    def build_and_note(*given):
        model = build(*given)
        chosen.append(model.base_model.backbone.config._attn_implementation)
        return model

    monkeypatch.setattr(run_adapter, "_new_model", build_and_note)
    found = {}
    for name in ("sdpa", "eager", None):
        more = [] if name is None else ["--attn_implementation", name]
        run_adapter.main(flags(ground, "linguistic", tmp_path / str(name), *SHORT, *more))
        found[name] = losses(tmp_path / str(name))
    assert chosen == ["sdpa", "eager", "eager"] and found["eager"] == found[None]
    assert found["sdpa"] == pytest.approx(found["eager"], rel=1e-3)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--attn_implementation", "quick"], r"--attn_implementation 'quick' can't be used with '.*backbone' here \("),
        (["--attn_implementation", "flash_attention_2"], r"'flash_attention_2' reads in 16 bits only; give --bf16 or"),
        (["--max_grad_norm", "nan"], r"--max_grad_norm nan is no number; give one, or leave the flag out"),
        (["--fp16"], r"--fp16 needs a GPU, and this run is on a CPU; give --bf16, or neither of the two"),
    ],
)
@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_what_can_not_be_read_in_is_refused_before_anything_is_written(ground, tmp_path, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_adapter.main(flags(ground, "linguistic", tmp_path / "out", *SHORT, *given))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_an_attention_that_is_not_installed_is_refused(ground, tmp_path):
    given = flags(ground, "linguistic", tmp_path / "out", *SHORT, "--bf16", "--attn_implementation")
    with pytest.raises(ValueError, match=r"'flash_attention_2' can't be used with .*; give another, such as sdpa"):
        run_adapter.main([*given, "flash_attention_2"])


def test_a_frozen_backbone_is_held_in_the_precision_of_the_run():
    adapter = AdapterArguments(objective="factual", backbone="any", adapter_name="fac")
    told = {}
    for name in ("bf16", "fp16", None):
        run = SimpleNamespace(bf16=name == "bf16", fp16=name == "fp16", device=torch.device("cuda"))
        told[name] = backbone_options(adapter, run)
    expected = {"bf16": torch.bfloat16, "fp16": torch.float16, None: torch.float32}
    assert told == {name: {"dtype": dtype} for name, dtype in expected.items()}
