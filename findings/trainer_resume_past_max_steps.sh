#!/usr/bin/env bash
# transformers' Trainer: resuming a run that has reached max_steps trains one more step, each time.
#
# Expected: `trainer.train(resume_from_checkpoint=True)` on a run whose checkpoint stands at max_steps trains nothing.
# Seen: so it is only where max_steps is a multiple of an epoch's steps. With 5 steps an epoch and max_steps=7 the
# first resume ends at step 8 and writes checkpoint-8, the second at 9; without a warning, and with a constant learning
# rate the weights move each time. With max_steps=10 both resumes end at 10.
# Output:  max_steps=7: ended at steps [7, 8, 9], weights moved by the resumes: True
#          max_steps=10: ended at steps [10, 10, 10], weights moved by the resumes: False
# Versions: transformers 5.23.0, accelerate 1.15.0, torch 2.13.0, Python 3.11.
# Why it matters: schedulers restart finished jobs by the same command. The model is then no longer the one that was
# evaluated, and rotation by save_total_limit may delete the checkpoint that was. Guard: leave train() alone when the
# checkpoint's global_step has reached max_steps.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/pip" install --quiet transformers==5.23.0 accelerate==1.15.0 numpy==2.4.6
cd "$work"
cat >probe.py <<'PY'
import tempfile

import torch
from transformers import Trainer, TrainingArguments


class Regression(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)

    def forward(self, x, labels):
        return {"loss": (self.linear(x).squeeze(-1) - labels).pow(2).mean()}


torch.manual_seed(0)
examples = [{"x": torch.randn(4), "labels": torch.tensor(1.0)} for _ in range(10)]  # 5 steps an epoch


def run(folder, max_steps, resume):
    arguments = TrainingArguments(
        folder, max_steps=max_steps, per_device_train_batch_size=2, save_steps=max_steps, logging_strategy="no",
        lr_scheduler_type="constant", learning_rate=1e-3, use_cpu=True, disable_tqdm=True,
    )
    trainer = Trainer(model=Regression(), args=arguments, train_dataset=examples)
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_state()
    return trainer.state.global_step, trainer.model.linear.weight.detach().clone()


def three_runs(max_steps):
    folder = tempfile.mkdtemp(dir=".")
    steps, weights = zip(*(run(folder, max_steps, resume) for resume in (None, True, True)))
    moved = (weights[2] - weights[0]).abs().max().item()
    print(f"max_steps={max_steps}: ended at steps {list(steps)}, weights moved by the resumes: {moved > 1e-4}")
    return steps, moved > 1e-4


assert three_runs(7) == ((7, 8, 9), True), "the resumed run no longer passes max_steps: this finding is out of date"
assert three_runs(10) == ((10, 10, 10), False)
PY
"$work/venv/bin/python" probe.py 2>/dev/null | grep max_steps
