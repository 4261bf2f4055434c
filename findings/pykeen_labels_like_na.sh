#!/usr/bin/env bash
# PyKEEN: a graph that was saved and is read back has lost the entities named "NA", "null", "nan" or "None".
#
# Expected: TriplesFactory.from_path_binary(folder) gives the labels that to_path_binary(folder) wrote; "NA" is Namibia's
# code in ISO 3166, "null" and "None" are words, and from_path reads all of them from the file of triples as strings.
# Seen: the ids are written as text and read by pandas with its usual missing values, so that all these labels become one
# float NaN: entity_to_id is shorter than num_entities, and the labels are gone, without a word. `pipeline(...)
# .save_to_directory` saves the training triples in the same way, so the ids of a trained model are lost with them.
# Output:  before: 7 entities, 7 labels, NA has id 0
#          after:  7 entities, 4 labels, missing: NA None nan null; {nan: 6}
# Versions: pykeen 1.11.1, pandas 3.1.1, torch 2.13.0, Python 3.11.
# Why it matters: whoever looks up an entity's row by its name finds none for Namibia, or, by NaN, that of another. Read
# entity_to_id.tsv.gz oneself, as strings (csv, delimiter tab), and compare the number of labels with that of rows.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet pykeen==1.11.1 pandas==3.1.1 numpy==2.4.6
cd "$work"
cat >probe.py <<'PY'
import logging
import math
import warnings

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
from pykeen.triples import TriplesFactory

with open("graph.tsv", "w", encoding="utf-8") as file:
    file.write("Windhoek\tcapital of\tNA\nNA\tborders\tZA\nnull\tmeans\tnan\nNone\tmeans\tnothing\n")
before = TriplesFactory.from_path("graph.tsv")
print(f"before: {before.num_entities} entities, {len(before.entity_to_id)} labels, NA has id {before.entity_to_id['NA']}")
before.to_path_binary("saved")
after = TriplesFactory.from_path_binary("saved")
missing = sorted(set(before.entity_to_id) - set(after.entity_to_id))
others = {label: row for label, row in after.entity_to_id.items() if not isinstance(label, str)}
print(f"after:  {after.num_entities} entities, {len(after.entity_to_id)} labels, missing: {' '.join(missing)}; {others}")
assert before.num_entities == len(before.entity_to_id) == 7
if not missing:
    raise SystemExit("the labels are read back now: this finding is out of date")
assert missing == ["NA", "None", "nan", "null"] and all(math.isnan(label) for label in others)
PY
"$work/venv/bin/python" probe.py
