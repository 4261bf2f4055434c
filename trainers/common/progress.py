"""What a run says of itself: what it will cost, as soon as that is known, and where the result is."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

__all__ = ["Cost", "saved_line"]

WARM, MEASURED = 1, 4  # steps that are left out, since they also pay for memory and kernels, and those up to the last


class Cost(TrainerCallback):
    """Says before a training how many steps it takes and, after the first of them, how long that is.

    Args:
        examples: how many are trained on.
        name: what the lines begin with.
    """

    def __init__(self, examples: int, name: str = "training") -> None:
        self.examples, self.name, self.first, self.began = examples, name, 0, 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say how much is trained."""
        self.first = state.global_step
        if args.do_train and state.is_world_process_zero and self.first < state.max_steps:
            done = f", {self.first} of which are done" if self.first else ""
            steps = f"{state.max_steps} steps{done}"
            self._say(f"{self.examples} examples, {steps}; the first ones tell how long it takes")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the first steps, and say how long the others will take."""
        step = state.global_step - self.first
        if step == WARM:
            self.began = perf_counter()
        if step == MEASURED and args.do_train and state.is_world_process_zero:
            seconds, rest = (perf_counter() - self.began) / (MEASURED - WARM), state.max_steps - state.global_step
            self._say(f"{seconds:.2g} seconds a step, so the other {rest} steps take about {readable(seconds * rest)}")

    def _say(self, sentence: str) -> None:
        print(f"{self.name}: {sentence}", flush=True)


def readable(seconds: float) -> str:
    """Return a time as a reader wants it."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def saved_line(folder: str | Path, model_class: str, remote: bool = False) -> str:
    """Return the last line of a run: where the result is and how it is loaded."""
    path = repr(str(folder))
    without = f", or without kadapter by AutoModel.from_pretrained({path}, trust_remote_code=True)" if remote else ""
    return f"saved to {folder!s}; load it by {model_class}.from_pretrained({path}){without}"
