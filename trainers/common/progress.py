"""Print what a run will cost, as soon as that is known, and where its result is."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from transformers import TrainerCallback

__all__ = ["Cost", "reported", "saved_line"]

WARM, MEASURED = 1, 4  # the steps not timed, which also allocate memory and compile kernels, and the last timed step


class Cost(TrainerCallback):
    """Print before training how many steps it takes and, after the first steps, how much time is left.

    Args:
        examples: the number of training examples.
        name: the prefix of the printed lines.
    """

    def __init__(self, examples: int, name: str = "training") -> None:
        self.examples, self.name, self.first, self.began = examples, name, 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Print the number of examples and steps."""
        self.first = state.global_step
        if args.do_train and state.is_world_process_zero and self.first < state.max_steps:
            done = f", {self.first} of which are done" if self.first else ""
            steps = f"{state.max_steps} steps{done}"
            self._log(f"{self.examples} examples, {steps}; the first ones will show how long it takes")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the first steps, and print how long the others will take."""
        step = state.global_step - self.first
        if step == WARM:
            self.began = perf_counter()
        if step == MEASURED and args.do_train and state.is_world_process_zero:
            seconds, rest = (perf_counter() - self.began) / (MEASURED - WARM), state.max_steps - state.global_step
            self._log(f"{seconds:.2g} seconds a step, so the other {rest} steps take about {readable(seconds * rest)}")

    def _log(self, message: str) -> None:
        print(f"{self.name}: {message}", flush=True)


def readable(seconds: float) -> str:
    """Format a duration for a reader."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def saved_line(folder: str | Path, model_class: str, remote: str | None = None) -> str:
    """Return the last line of a run: where the result is, and how to load it, without kadapter by `remote`."""
    path = repr(str(folder))
    without = f", or without kadapter by {remote}.from_pretrained({path}, trust_remote_code=True)" if remote else ""
    return f"saved to {folder!s}; load it by {model_class}.from_pretrained({path}){without}"


def reported(results: dict[str, float]) -> dict[str, float]:
    """Return the scores among the results of an evaluation, without losses, times and numbers of records."""
    hidden = ("_runtime", "_per_second", "_loss", "_time", "_records")
    scores = {key: value for key, value in results.items() if key.startswith("eval_") and not key.endswith(hidden)}
    return {key.removeprefix("eval_"): value for key, value in scores.items()}
