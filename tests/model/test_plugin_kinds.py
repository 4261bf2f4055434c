"""A second kind of knowledge plug-in is one new file: added, trained, saved, composed and loaded like the first."""

import json
import shutil
import subprocess

import pytest
import torch
from helpers import ROOT, make_model, output, run_python, save_backbone

from kadapter import KAdapterModel, KnowledgeAdapterConfig

pytestmark = pytest.mark.slow

SHIFT = '''"""A kind of plug-in that adds one learned vector to the last hidden state that it taps."""

from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from .configuration_kadapter import KAdapterConfig, KnowledgeAdapterConfig
from .modeling_kadapter import KAdapterModel, KnowledgePlugin, gather

__all__ = ["Config", "KAdapterConfig", "KAdapterModel", "Plugin"]


@strict
@dataclass(kw_only=True)
class Config(KnowledgeAdapterConfig):
    """A learned vector."""

    kind: str = "shift"
    scale: float | int = 1.0


class Plugin(KnowledgePlugin):
    """h = hs[l] + scale * v."""

    def __init__(self, config, backbone_hidden_size):
        super().__init__(config, backbone_hidden_size)
        self.vector = nn.Parameter(torch.ones(backbone_hidden_size))

    def forward(self, hidden_states, attention_mask, at=None):
        """Return the last tapped state, moved."""
        moved = hidden_states[-1] + self.config.scale * self.vector
        return moved if at is None else gather(moved, at)
'''
STORY = """
import torch
from kadapter import KAdapterModel
model = KAdapterModel.from_pretrained("fac", backbone="backbone")
inputs = torch.load("inputs.pt", weights_only=True)
with torch.no_grad():
    before = model(**inputs).adapter_hidden_states["fac"]
    model.add_adapter("shift", {"kind": "shift", "layers": [1, 3], "scale": 0.5})
    both = model(**inputs)
    assert torch.equal(both.adapter_hidden_states["fac"], before)
assert not torch.equal(both.adapter_hidden_states["shift"], both.backbone_hidden_state)
model.train_adapter("shift")
model(**inputs).last_hidden_state.sum().backward()
assert model.adapters["shift"].vector.grad is not None
assert all(parameter.grad is None for parameter in model.adapters["fac"].parameters())
model.save_adapter("shift-artifact", "shift")
again = KAdapterModel.from_pretrained(["fac", "shift-artifact"], backbone="backbone")
with torch.no_grad():
    assert torch.equal(again(**inputs).last_hidden_state, both.last_hidden_state)
delta = KAdapterModel.from_pretrained(["fac", "shift-artifact"], backbone="backbone", fusion="delta")
with torch.no_grad():
    found = delta(**inputs)
assert torch.equal(found.adapter_hidden_states["shift"], both.adapter_hidden_states["shift"])  # its whole output
assert not torch.equal(found.adapter_hidden_states["fac"], before)
torch.save(both.adapter_hidden_states["shift"], "shifted.pt")
"""
REMOTE = """
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained("shift-artifact", trust_remote_code=True)
with torch.no_grad():
    found = model(**torch.load("inputs.pt", weights_only=True)).adapter_hidden_states["shift"]
assert torch.equal(found, torch.load("shifted.pt", weights_only=True))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the package with one more file, and an adapter of the first kind."""
    folder = tmp_path_factory.mktemp("kinds")
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    names = tracked.split() or [path.name for path in ROOT.glob("*.py")]
    for name in names:
        if not name.startswith(("tests/", "benchmarks/", "experiments/")) and (ROOT / name).is_file():
            (folder / "kadapter" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "kadapter" / name)
    (folder / "kadapter" / "shift_kadapter.py").write_text(SHIFT)
    backbone = save_backbone(folder / "backbone")
    make_model(backbone, "fac").save_pretrained(folder / "fac")
    torch.save(_inputs(), folder / "inputs.pt")
    run_python(STORY, folder, package=True, PYTHONPATH=str(folder))
    return folder


def _inputs():
    ids = torch.randint(5, 60, (2, 7), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_it_stands_beside_adapters_of_the_first_kind_and_changes_no_bit_of_them(folder):
    assert (folder / "shifted.pt").is_file()


@pytest.mark.thorough
def test_its_kind_is_stored_and_its_file_travels_as_remote_code(folder):
    written = json.loads((folder / "shift-artifact" / "config.json").read_text(encoding="utf-8"))
    assert written["adapters"]["shift"]["kind"] == "shift" and written["adapters"]["shift"]["scale"] == 0.5
    run_python(REMOTE, folder)


def test_a_kind_that_is_not_here_is_refused_by_name(folder):
    with pytest.raises(ValueError, match="kind='shift' of a knowledge plug-in is not known here"):
        KAdapterModel.from_pretrained(folder / "shift-artifact")


def test_an_artifact_without_a_kind_holds_adapters_of_the_first(folder, tmp_path):
    shutil.copytree(folder / "fac", tmp_path / "fac")
    config = json.loads((tmp_path / "fac" / "config.json").read_text(encoding="utf-8"))
    assert config["adapters"]["fac"].pop("kind") == "k_adapter" == KnowledgeAdapterConfig().kind
    (tmp_path / "fac" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    ours, theirs = (KAdapterModel.from_pretrained(path / "fac") for path in (folder, tmp_path))
    assert torch.equal(output(ours, **_inputs()), output(theirs, **_inputs()))
