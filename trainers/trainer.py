"""transformers' Trainer, thinly: our order of examples, checkpoints named when complete, a stop at NaN."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from .sampling import GlobalBatchSampler

__all__ = ["KAdapterTrainer", "last_complete_checkpoint", "prepare_output_directory"]

PARTIAL = ".partial"
COMPLETE = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


class KAdapterTrainer(Trainer):
    """A Trainer whose epochs are the same for any number of processes, and whose checkpoints are whole or absent.

    Checkpoints hold what trains and nothing else, since a K-Adapter model's state has no backbone in it.
    """

    finite: Tensor | bool = True

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        args, dataset = self.args, train_dataset if train_dataset is not None else self.train_dataset
        batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        grouped = args.train_sampling_strategy == "group_by_length"
        seed = args.data_seed if args.data_seed is not None else args.seed
        return GlobalBatchSampler(dataset["length"], batch_size, grouped, seed)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Run one step, and remember without waiting for the device whether every loss so far was finite."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.finite = torch.isfinite(loss) & self.finite
        if loss.device.type == "cpu":
            self._stop_unless_finite()
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, and stop first if a loss since the last time was not finite."""
        self._stop_unless_finite()
        super().log(logs, *args, **kwargs)

    def _stop_unless_finite(self) -> None:
        if not bool(self.finite):
            last = last_complete_checkpoint(self.args.output_dir)
            kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
            raise FloatingPointError(
                f"the loss was NaN or infinite by step {self.state.global_step + 1}; {kept}. Lower --learning_rate, "
                "raise --warmup_steps, or look at the data"
            )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint under another name, which becomes its own when every process is done with it."""
        trained = [one for one in self.model.parameters() if one.requires_grad]
        self.finite = torch.stack([torch.isfinite(one.detach()).all() for one in trained]).all() & self.finite
        self._stop_unless_finite()
        run, name = Path(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self.staging = run / PARTIAL
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.staging = None
        self.accelerator.wait_for_everyone()
        best = self.state.best_model_checkpoint
        if best and Path(best).parent == run / PARTIAL:
            self.state.best_model_checkpoint = str(run / name)
        if self.args.should_save:
            self.state.save_to_json(str(run / PARTIAL / name / "trainer_state.json"))
            shutil.rmtree(run / name, ignore_errors=True)
            os.rename(run / PARTIAL / name, run / name)
            shutil.rmtree(run / PARTIAL, ignore_errors=True)
            limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
            rotate_checkpoints(str(run), save_total_limit=limit, best_model_checkpoint=best, use_mtime=True)
        self.accelerator.wait_for_everyone()

    staging: Path | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.staging) if self.staging is not None else super()._get_output_dir(trial)


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """Return the checkpoint with most steps that holds all that a resumed run needs, or None."""
    found = []
    for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdigit() and all((path / name).is_file() for name in COMPLETE):
            found.append((int(step), str(path)))
    return max(found)[1] if found else None


def prepare_output_directory(output_dir: str, resume: bool, overwrite: bool, is_main_process: bool) -> None:
    """Refuse a used output directory, unless it is resumed or may be overwritten (its checkpoints are then removed).

    Raises:
        ValueError: the directory holds another run, or is a file.
    """
    folder = Path(output_dir)
    if folder.is_file():
        raise ValueError(f"--output_dir {output_dir!r} is a file; name a directory")
    used = folder.is_dir() and any(path.name != PARTIAL for path in folder.iterdir())
    if used and not resume and not overwrite:
        raise ValueError(
            f"--output_dir {output_dir!r} holds another run; resume it by --resume_from_checkpoint last, replace it "
            "by --overwrite_output_dir, or choose another directory"
        )
    if is_main_process:
        shutil.rmtree(folder / PARTIAL, ignore_errors=True)
        for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if overwrite and not resume else ():
            shutil.rmtree(path)
