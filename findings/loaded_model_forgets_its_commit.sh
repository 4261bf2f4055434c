#!/usr/bin/env bash
# transformers 5: a model that was loaded from a repository does not know the commit it came from.
#
# Expected: what from_pretrained returns says which commit of the repository it is, as config._commit_hash did in
# transformers 4, so that weights trained beside it can be pinned to that commit.
# Seen: neither a configuration, nor a model's, nor one asked for by its very commit has it, or any other field with the
# commit in it; only the repository's name is left. Code that reads it with a default of None goes on without a word and
# records no revision, or compares a model of an older commit with the newest.
# Output:  4.57.1: config aaaaaaaa, model aaaaaaaa, model by revision bbbbbbbb
#          5.23.0: config None, model None, model by revision None; anywhere in their fields: False
# Versions: transformers 4.57.1 and 5.23.0, torch 2.13.0, Python 3.11.
# Why it matters: an adapter belongs to one state of its encoder. Resolve the commit before loading (the path of a cached
# file holds it), or find it again by comparing tensors with each commit in the cache.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/probe.py" <<'PY'
import os
import sys
from pathlib import Path

home = Path(sys.argv[1])
os.environ.update(HF_HOME=str(home), HF_HUB_OFFLINE="1")

import transformers
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

repository, main, other = home / "hub" / "models--org--encoder", "a" * 40, "b" * 40
sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
for commit in (main, other):
    BertModel(BertConfig(**sizes)).save_pretrained(repository / "snapshots" / commit)
(repository / "refs").mkdir()
(repository / "refs" / "main").write_text(main)
config, model = AutoConfig.from_pretrained("org/encoder"), AutoModel.from_pretrained("org/encoder")
older = AutoModel.from_pretrained("org/encoder", revision=other)
assert config.name_or_path == model.config.name_or_path == "org/encoder"
commits = [(getattr(held, "_commit_hash", None) or "None")[:8] for held in (config, model.config, older.config)]
line = "{}: config {}, model {}, model by revision {}".format(transformers.__version__, *commits)
if transformers.__version__ == "5.23.0":
    anywhere = any(other in repr(held) for held in (vars(older.config), {k: v for k, v in vars(older).items() if k[:1] != "_"}))
    line += f"; anywhere in their fields: {anywhere}"
print(line)
PY
for version in 4.57.1 5.23.0; do
	python3 -m venv "$work/$version"
	"$work/$version/bin/pip" install --quiet torch==2.13.0
	"$work/$version/bin/pip" install --quiet "transformers==$version"
	"$work/$version/bin/python" "$work/probe.py" "$work/home-$version" 2>/dev/null | tee -a "$work/seen"
done
cat >"$work/expected" <<'TXT'
4.57.1: config aaaaaaaa, model aaaaaaaa, model by revision bbbbbbbb
5.23.0: config None, model None, model by revision None; anywhere in their fields: False
TXT
diff "$work/expected" "$work/seen"
