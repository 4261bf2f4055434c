#!/usr/bin/env bash
# transformers' Trainer: dataloader_drop_last, which is set for training, also leaves examples out of every evaluation.
#
# Expected: an incomplete batch is dropped in training, where another epoch brings its examples; evaluate() measures
# the data set that it is given, and predict() returns an answer for each of its rows.
# Seen: both stop at the last full batch, without a warning. Metrics are of the first examples alone, predict() returns
# fewer rows than the data set has, and how many depends on per_device_eval_batch_size.
# Output:  kept, batches of 8: 13 of 13 predicted, accuracy 0.62
#          kept, batches of 5: 13 of 13 predicted, accuracy 0.62
#          dropped, batches of 8: 8 of 13 predicted, accuracy 1.00
#          dropped, batches of 5: 10 of 13 predicted, accuracy 0.80
# Versions: transformers 5.23.0, accelerate 1.15.0, torch 2.13.0, Python 3.11.
# Why it matters: a test score is of another set than the one that it is reported for, two batch sizes give two scores,
# and who joins predictions to rows by their position has lost the last ones. Set the flag to False before evaluate()
# and predict(), or compare the number of predictions with that of rows.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.23.0 accelerate==1.15.0
cd "$work"
cat >probe.py <<'PY'
import torch
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput


class First(torch.nn.Module):
    """A model that says of every text what its first token is."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, labels=None):
        logits = torch.nn.functional.one_hot(input_ids[:, 0], 2).float() + self.weight
        return SequenceClassifierOutput(torch.nn.functional.cross_entropy(logits, labels), logits)


rows = [{"input_ids": [1, number], "labels": int(number < 8)} for number in range(13)]  # the first 8 are said rightly


def predicted(drop, batch_size):
    own = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "per_device_eval_batch_size": batch_size}
    trainer = Trainer(First(), TrainingArguments("out", dataloader_drop_last=drop, **own))
    return trainer.predict(rows)


found = []
for drop in (False, True):
    for batch_size in (8, 5):
        got = predicted(drop, batch_size)
        right = (got.predictions.argmax(-1) == got.label_ids).mean()
        line = f"{'dropped' if drop else 'kept'}, batches of {batch_size}: "
        print(line + f"{len(got.predictions)} of {len(rows)} predicted, accuracy {right:.2f}")
        found.append(len(got.predictions))
assert found == [13, 13, 8, 10], "evaluations are whole: this finding is out of date"
PY
HF_HUB_OFFLINE=1 "$work/venv/bin/python" probe.py 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
