#!/usr/bin/env bash
# datasets: answers of a JSON Lines file become times where all of them look like dates, and match no text any more.
#
# Expected: what stands in quotation marks in JSON is a string; a file of the birthdays of a knowledge graph is read as one
# of birthplaces is.
# Seen: a column of strings of which each is a date is of type timestamp[s], lists of answers too. No answer equals what a
# model says, and what is written again is a number of milliseconds. One answer more that is no date, and all of them are
# strings; so files of two relations have two types, and can't be joined.
# Output:  birthplaces: string, birthdays: timestamp[s], lists of them: timestamp[s], both in a file: string
#          '1912-06-23' is read as datetime.datetime(1912, 6, 23, 0, 0), equal: False
#          written again: -1815350400000
#          both files joined: ValueError
# Versions: datasets 5.2.0, pyarrow 26.0.1, Python 3.11.
# Why it matters: facts are often kept in a file for each relation, and dates of birth and death (P569, P570 of Wikidata)
# are relations: such a one has an exact match of 0, and a mean over relations hides it. Give features, or read the lines
# by json.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 pyarrow==26.0.1
cd "$work"
cat >probe.py <<'PY'
import json
from pathlib import Path

import datasets

datasets.disable_progress_bars()
TURING, NOETHER = {"subject": "Alan Turing"}, {"subject": "Emmy Noether"}
FILES = {
    "birthplaces": [{**TURING, "answer": "London"}, {**NOETHER, "answer": "Erlangen"}],
    "birthdays": [{**TURING, "answer": "1912-06-23"}, {**NOETHER, "answer": "1882-03-23"}],
    "lists of them": [{**TURING, "answer": ["1912-06-23"]}, {**NOETHER, "answer": ["1882-03-23"]}],
    "both in a file": [{**TURING, "answer": "1912-06-23"}, {**TURING, "answer": "London"}],
}


def read(name):
    path = Path(f"{name}.jsonl")
    path.write_text("".join(f"{json.dumps(record)}\n" for record in FILES[name]))
    return datasets.load_dataset("json", data_files=str(path), split="train", cache_dir="cache")


sets = {name: read(name) for name in FILES}
features = {name: own.features["answer"] for name, own in sets.items()}
types = {name: getattr(feature, "feature", feature).dtype for name, feature in features.items()}
print(", ".join(f"{name}: {dtype}" for name, dtype in types.items()))
first = sets["birthdays"][0]["answer"]
print(f"'1912-06-23' is read as {first!r}, equal: {first == '1912-06-23'}")
sets["birthdays"].to_json("again.jsonl")
again = Path("again.jsonl").read_text().splitlines()[0]
print("written again:", json.dumps(json.loads(again)["answer"]))
try:
    joined = datasets.concatenate_datasets([sets["birthplaces"], sets["birthdays"]])
except Exception as error:
    joined = type(error).__name__
print("both files joined:", joined)
assert list(types.values()) == ["string", "timestamp[s]", "timestamp[s]", "string"], "this finding is out of date"
assert first != "1912-06-23" and json.loads(again)["answer"] != "1912-06-23" and joined == "ValueError"
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" probe.py 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
