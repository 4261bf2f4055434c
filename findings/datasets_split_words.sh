#!/usr/bin/env bash
# datasets: a corpus whose files are called trn, devel or tst loses them without a word, and "eval" is the test split.
#
# Expected: load_dataset("json", data_dir=...) reads every .jsonl file of a folder, or says which it leaves out; a file
# called eval is a validation split, as in the Trainer's eval_dataset.
# Seen: as soon as one name carries a split word that is known, files without one are dropped in silence. CoNLL's and
# several treebanks' "devel" is not known, nor "trn" and "tst": train, devel, test gives train and test alone; trn, dev,
# tst gives a validation split alone, without any training data. "eval" is known, as a word for test.
# Output:  train devel test -> {'train': ['train'], 'test': ['test']}
#          trn dev tst -> {'validation': ['dev']}
#          train eval -> {'train': ['train'], 'test': ['eval']}
# Versions: datasets 5.2.0, Python 3.11.
# Why it matters: a script that falls back from validation to test then selects its checkpoints on the test set, and
# no log shows that a third of the corpus was never read. Name data_files explicitly, or print which file became what.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1
cd "$work"
cat >probe.py <<'PY'
import json
import tempfile
from pathlib import Path

from datasets import load_dataset


def splits_of(*names):
    folder = Path(tempfile.mkdtemp(dir="."))
    for name in names:
        (folder / f"{name}.jsonl").write_text(json.dumps({"file": name, "text": "Ada was born in London."}) + "\n")
    loaded = load_dataset("json", data_dir=str(folder))
    found = {split: sorted(set(rows["file"])) for split, rows in loaded.items()}
    print(" ".join(names), "->", found)
    return found


changed = "the split words have changed: this finding is out of date"
assert splits_of("train", "devel", "test") == {"train": ["train"], "test": ["test"]}, changed
assert splits_of("trn", "dev", "tst") == {"validation": ["dev"]}, changed
assert splits_of("train", "eval") == {"train": ["train"], "test": ["eval"]}, changed
PY
HF_HOME="$work/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$work/venv/bin/python" probe.py 2>/dev/null
