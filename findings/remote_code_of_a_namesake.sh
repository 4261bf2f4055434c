#!/usr/bin/env bash
# transformers' remote code: of two local models with the same folder name, the second runs the first one's code.
#
# Expected: one/adapter and two/adapter each bring a modeling file; each is loaded by its own.
# Seen: where the configuration files are equal and only the modeling files differ (version 1 and version 2 of one
# method), the second loads in silence as the first one's class. The configuration class is cached by the folder's last
# name and its text, and the model class that was registered for it first answers for both. In a fresh process, or
# under another folder name, the second runs its own code.
# Output:  one/adapter: first
#          two/adapter: first
#          three/other: third
# Versions: transformers 5.23.0, torch 2.13.0, Python 3.11.
# Why it matters: comparing two releases of an adapter in one process compares one release with itself. Whoever
# publishes remote code should change the configuration file's text with every release, by a digest of all files.
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


def version_of(folder, version):
    write(folder, version)
    found = AutoModel.from_pretrained(folder, trust_remote_code=True).version()
    print(f"{folder}: {found}")
    return found


assert version_of("one/adapter", "first") == "first"
assert version_of("two/adapter", "second") == "first", "each folder runs its own code now: this finding is out of date"
assert version_of("three/other", "third") == "third"
PY
HF_HOME="$work/cache" HF_HUB_OFFLINE=1 "$work/venv/bin/python" probe.py 2>/dev/null
