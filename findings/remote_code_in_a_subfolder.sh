#!/usr/bin/env bash
# transformers' remote code: with subfolder=..., weights come from the subfolder and code from the repository's root.
#
# Expected: AutoModel.from_pretrained(repository, subfolder="a", trust_remote_code=True) reads what `save_pretrained`
# wrote into a: config.json, model.safetensors and the Python files beside them.
# Seen: config.json and weights are read from a/; the Python files that its auto_map names are looked for at the root.
# If they are not there loading fails, naming a file that does exist in a/; if others of that name are there, those run.
# Output:  code beside the weights alone: OSError
#          other code at the root too: the root's
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# Why it matters: checkpoints of one run, or the adapters of a family, are often kept in folders of one repository.
# The weights of one version then meet the code of another. Copy the code to the root, or give each its repository.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.23.0 safetensors==0.8.0 numpy==2.4.6
cd "$work"
cat >probe.py <<'PY'
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModel

CONFIGURATION = """
from transformers import PreTrainedConfig


class ProbeConfig(PreTrainedConfig):
    model_type = "probe"
"""
MODELING = """
import torch
from transformers import PreTrainedModel

from .configuration_probe import ProbeConfig


class ProbeModel(PreTrainedModel):
    config_class = ProbeConfig

    def __init__(self, config):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.post_init()

    def version(self):
        return "VERSION"
"""
AUTO_MAP = {"AutoConfig": "configuration_probe.ProbeConfig", "AutoModel": "modeling_probe.ProbeModel"}


def write(folder, version, code=None):
    folder, code = Path(folder), Path(code or folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "probe", "auto_map": AUTO_MAP}))
    save_file({"weight": torch.ones(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    (code / "configuration_probe.py").write_text(CONFIGURATION)
    (code / "modeling_probe.py").write_text(MODELING.replace("VERSION", version))


def load():
    return AutoModel.from_pretrained("repository", subfolder="a", trust_remote_code=True).version()


write("repository/a", "the subfolder's")
try:
    load()
except OSError as error:
    print(f"code beside the weights alone: {type(error).__name__}")
    assert "configuration_probe.py" in str(error)
else:
    raise SystemExit("code is found in the subfolder now: this finding is out of date")
for name in ("configuration_probe.py", "modeling_probe.py"):
    Path("repository", name).write_text(Path("repository/a", name).read_text().replace("the subfolder's", "the root's"))
found = load()
print(f"other code at the root too: {found}")
assert found == "the root's"
PY
HF_HOME="$work/cache" HF_HUB_OFFLINE=1 "$work/venv/bin/python" probe.py 2>/dev/null
