"""A thin layer over transformers' Trainer: our order of examples, atomic checkpoints, a stop at NaN."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import EvalPrediction, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, rotate_checkpoints

from ...artifacts_kadapter import WEIGHTS, in_one_line
from .atomic_files import PARTIAL, remove, replace_file
from .checkpoints import check_same_run, damage, last_complete_checkpoint, write_manifest
from .encoding import column
from .measured import measured, predictions_and_losses
from .memory import give_back, limit_native_caches
from .optimizers import step_as_gradients_come, unwrapped
from .output_directory import HEAD
from .progress import Cost
from .pushing import push, push_progress
from .sampler import GlobalBatchSampler, InOrder

__all__ = ["KAdapterTrainer"]

WHOLE_GRADIENTS = (DistributedType.NO, DistributedType.MULTI_CPU)  # each process has the complete gradients
DISK_IS_FULL = ("PytorchStreamWriter", "iostream error", "inline_container")  # in RuntimeErrors of torch.save


class KAdapterTrainer(Trainer):
    """A Trainer whose epochs are the same for any number of processes, and whose checkpoints are complete or absent.

    Checkpoints hold only what trains, since the state of a K-Adapter model does not contain its backbone. Evaluation
    counts each example once, and its loss is the mean over all labels, whatever the batches.

    Args:
        objective: computes the results from predictions.
        description: the run in plain values by name; it is stored in every checkpoint, and checkpoints of other runs
            are not resumed.
        arguments: keywords of transformers' Trainer.
    """

    model: Any
    args: Any
    train_dataset: Any
    eval_dataset: Any
    evaluated: Any
    processing_class: Any
    objective: Any
    description: Any
    order: Any
    finite: Tensor | bool = True
    hooks: Sequence[Any] = ()
    staging: Path | None = None
    hub_model_id: Any = None
    share: Callable[[Path], None] | None = None  # saves what is pushed during training; by default the whole model

    def __init__(self, *, objective: Any, description: dict[str, Any] | None = None, **arguments: Any) -> None:
        limit_native_caches()
        super().__init__(
            **arguments,
            compute_metrics=self.measure,
            preprocess_logits_for_metrics=predictions_and_losses,  # type: ignore[arg-type]  # tuples are gathered too
        )
        self.objective = objective
        self.description = description
        if self.train_dataset is not None:
            self.add_callback(Cost(len(self.train_dataset)))

    def train_and_evaluate(self, checkpoint: str | None = None, evaluated: Any = None) -> dict[str, float]:
        """Train and evaluate as the flags request, and return and write the results.

        Args:
            checkpoint: the checkpoint to resume from.
            evaluated: the examples to evaluate on after training; by default `eval_dataset`.

        Raises:
            FloatingPointError: the loss or a weight became NaN or infinite.
        """
        run, results = self.args, {}
        if run.do_train:
            if run.world_size > 1:
                torch.manual_seed(run.seed + run.process_index)  # so that each process drops out different units
            outcome = self.train(resume_from_checkpoint=checkpoint)
            self.check_weights()
            self.log_metrics("train", outcome.metrics)
            self.save_metrics("train", outcome.metrics)
            self.save_state()
        if run.do_eval:
            self.eval_dataset = self.eval_dataset if evaluated is None else evaluated
            results = self.evaluate()
            self.log_metrics("eval", results)
            self.save_metrics("eval", results)
        return results

    # ---- resuming -------------------------------------------------------------------------------------------------

    def train(  # type: ignore[override]  # everything else is passed on by keyword
        self, resume_from_checkpoint: str | None = None, **keywords: Any
    ) -> Any:
        """Train, or continue from a checkpoint.

        Raises:
            ValueError: the checkpoint belongs to another run.
        """
        if resume_from_checkpoint is not None:
            check_same_run(resume_from_checkpoint, self.description)
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **keywords)

    def _init_training_state(
        self, max_steps: int, steps_in_epoch: int, epochs: int, resume_from_checkpoint: str | None, trial: Any
    ) -> tuple[int, int]:
        """Begin at a checkpoint or from scratch; look for the best checkpoint in the folder of the resumed one."""
        position = super()._init_training_state(max_steps, steps_in_epoch, epochs, resume_from_checkpoint, trial)
        if resume_from_checkpoint is not None and self.state.best_global_step:
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
            best = Path(resume_from_checkpoint).parent / name
            reason = damage(best)
            self.state.best_model_checkpoint = str(best) if reason is None else None
            if reason is not None and self.args.load_best_model_at_end and self.is_world_process_zero():
                print(f"{best}, the best so far, can't be used ({reason}); the best of the coming steps will be used")
                self.state.best_metric = None
        return position

    # ---- examples -------------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        args, dataset = self.args, train_dataset if train_dataset is not None else self.train_dataset
        batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        if len(dataset) < batch_size and args.world_size > 1:
            raise ValueError(
                f"{len(dataset)} training examples are fewer than the {batch_size} of one step of {args.world_size} "
                "processes; lower --per_device_train_batch_size or use one process"
            )
        grouped, in_order = (args.train_sampling_strategy == name for name in ("group_by_length", "sequential"))
        seed = args.data_seed if args.data_seed is not None else args.seed
        self.order = GlobalBatchSampler(column(dataset, "length"), batch_size, grouped, seed, in_order)
        return self.order

    def _run_epoch(  # type: ignore[override]  # transformers calls it by keyword
        self, *, epoch: int, **arguments: Any
    ) -> None:
        """Run one epoch in its order, which accelerate does not set when several processes resume within an epoch.

        A run that has completed all its steps stops here; transformers would go on where they end within an epoch.
        """
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        self.order.set_epoch(epoch)
        if hasattr(self.train_dataset, "set_epoch"):  # accelerate sets that of the order alone
            self.train_dataset.set_epoch(epoch)
        give_back()  # left in the heap by loading the model, encoding the corpus and evaluating
        super()._run_epoch(epoch=epoch, **arguments)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int]:
        lengths = column(eval_dataset, "length")
        return InOrder(np.argsort(-lengths, kind="stable").tolist())  # longest first, for little padding

    def _wrap_model(self, model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        """Wrap the model for several processes, without exchanging the frozen backbone or keeping it in memory."""
        ignored = frozen_in_backbone(self.model)
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.model, ignored)
        return super()._wrap_model(model, *args, **kwargs)

    # ---- measuring ------------------------------------------------------------------------------------------------

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, Any, Tensor | None]:
        """Predict; the batch's own loss is dropped, since a mean over batches would depend on their sizes."""
        _, logits, labels = super().prediction_step(model, inputs, False, ignore_keys)
        return None, logits, labels

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """Evaluate or predict, and keep which examples are, since `evaluate` and `predict` take any."""
        self.evaluated = dataloader.dataset
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the objective's results and the mean loss over all labels."""
        return measured(self.objective, prediction, self.evaluated)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Return whether these results are the best so far; ValueError if they lack the one that decides."""
        try:
            return super()._determine_best_metric(metrics, trial)
        except KeyError as error:
            there = ", ".join(sorted(name.removeprefix("eval_") for name in metrics if name.startswith("eval_")))
            raise ValueError(
                f"--metric_for_best_model {self.args.metric_for_best_model!r} is no result of this evaluation, which "
                f"has {there}"
            ) from error

    # ---- a step ---------------------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the optimizer, which with --free_gradients updates each weight within the backward pass."""
        new, optimizer = self.optimizer is None, super().create_optimizer(model)
        if new and self.args.free_gradients:
            for hook in self.hooks:  # of an earlier training of the same model
                hook.remove()
            self.hooks = step_as_gradients_come(optimizer)
        return optimizer

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Return the norm of all gradients to log, None where they are freed one by one."""
        return None if self.args.free_gradients else super()._get_grad_norm(model, grad_norm)

    def _clip_grad_norm(self, model: nn.Module) -> Tensor | None:
        """Return the norm of all gradients; on a CPU the fused optimizer scales them, since it reads them anyway."""
        optimizer, whole = unwrapped(self.optimizer), self.accelerator.distributed_type in WHOLE_GRADIENTS
        if self.args.device.type != "cpu" or not optimizer.defaults.get("fused") or not whole:
            return super()._clip_grad_norm(model)
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        # norms of rows are computed by all threads, the norm of a whole tensor by one
        norms = [torch.linalg.vector_norm(weight.grad, dim=-1) for weight in weights]
        norm = nn.utils.get_total_norm(norms)
        # PyTorch's GradScaler sets it too: a fused optimizer divides by it
        optimizer.grad_scale = (norm / self.args.max_grad_norm).clamp(min=1).float()
        return norm

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: transformers would walk over all weights, and count the frozen backbone as trainable."""
        return 0

    # ---- a stop at NaN --------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Run one step, and record, without waiting for the device, whether every loss so far was finite."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.finite = torch.isfinite(loss) & self.finite
        if loss.device.type == "cpu":
            self._stop_unless_finite()
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, but stop first if a loss since the last time was not finite."""
        self._stop_unless_finite()
        super().log(logs, *args, **kwargs)

    def check_weights(self) -> None:
        """Stop if a trainable weight is NaN or infinite, so that no such weight is ever saved.

        Raises:
            FloatingPointError: a weight or a loss was not finite; the message names the last good checkpoint.
        """
        weights = [weight.detach() for weight in self.model.parameters() if weight.requires_grad]
        self.finite = torch.stack([torch.isfinite(weight).all() for weight in weights]).all() & self.finite
        self._stop_unless_finite()

    def _stop_unless_finite(self) -> None:
        if not bool(self.finite):
            last = last_complete_checkpoint(self.args.output_dir)
            kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
            raise FloatingPointError(
                f"the loss was NaN or infinite by step {self.state.global_step + 1}; {kept}. Lower --learning_rate, "
                "raise --warmup_steps, or look at the data"
            )

    # ---- saving ---------------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint to a temporary folder, and rename it when every process has written its files.

        Raises:
            OSError: it can't be written; earlier checkpoints are untouched.
        """
        self.check_weights()
        run, name = Path(self.args.output_dir), f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self.staging = run / PARTIAL
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            shutil.rmtree(self.staging, ignore_errors=True)
            if isinstance(error, RuntimeError) and not any(text in str(error) for text in DISK_IS_FULL):
                raise
            raise OSError(
                f"could not write {name} of {str(run)!r} ({error}); earlier checkpoints are untouched: free some "
                "space and continue with --resume_from_checkpoint last"
            ) from error
        finally:
            self.staging = None
        self.accelerator.wait_for_everyone()
        self._name_checkpoint(run, name)
        self._push_checkpoint(run / name)
        self.accelerator.wait_for_everyone()

    def _name_checkpoint(self, run: Path, name: str) -> None:
        best = self.state.best_model_checkpoint
        if best and Path(best).parent == run / PARTIAL:
            self.state.best_model_checkpoint = best = str(run / name)
        if self.args.should_save:
            self._write_state(run / PARTIAL / name)
            write_manifest(run / PARTIAL / name, self.description)
            remove(run / name)
            os.rename(run / PARTIAL / name, run / name)
            shutil.rmtree(run / PARTIAL, ignore_errors=True)
            # By step, not by time: the clock may be set back.
            rotate_checkpoints(str(run), self.args.save_total_limit, best_model_checkpoint=best, use_mtime=False)

    # ---- sharing --------------------------------------------------------------------------------------------------

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository of --push_to_hub, before anything costs time.

        Raises:
            OSError: the Hub refuses it or can't be reached.
        """
        try:
            super().init_hf_repo(token, private)
        except (HTTPError, OSError) as error:
            name = self.args.hub_model_id or Path(self.args.output_dir).name
            raise OSError(
                f"--push_to_hub can't make or find {name!r} on the Hub ({in_one_line(error)}); log in with `hf auth "
                "login`, name another by --hub_model_id, or train without it and use `kadapter push` later"
            ) from error

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push nothing yet: the checkpoint is pushed when it is complete and has its name."""

    def _push_checkpoint(self, checkpoint: Path) -> None:
        """Push what is reached at a checkpoint, as --hub_strategy says; a Hub that fails never ends a training."""
        run = self.args
        if not (run.push_to_hub and self.is_world_process_zero()) or run.hub_strategy == HubStrategy.END:
            return
        options = {"token": run.hub_token, "revision": run.hub_revision}
        chosen = {key: value for key, value in options.items() if value is not None}
        save = self.share or self.model.save_pretrained
        try:
            push_progress(self.hub_model_id, save, checkpoint, run.hub_strategy, **chosen)
        except OSError as error:
            print(f"{error}. The training goes on, and pushes again at its next checkpoint and at its end")

    def push_to_hub(  # type: ignore[override]  # what else it takes would be for a card of transformers
        self, commit_message: str | None = "End of training", **options: Any
    ) -> str:
        """Push the artifact in the output directory as one commit, and return the commit's address.

        Raises:
            OSError: the Hub refuses it or can't be reached; the artifact is complete on disk.
        """
        run = self.args
        folder = Path(run.output_dir)
        folder = folder if (folder / WEIGHTS).is_file() else folder / HEAD
        known = {"token": run.hub_token, "revision": run.hub_revision, **options}
        try:
            address, _ = push(folder, self.hub_model_id, commit_message=commit_message, **known)
        except OSError as error:
            again = f"kadapter push {folder} {self.hub_model_id}"
            raise OSError(f"{error}. The run itself is complete; push it by `{again}`") from error
        print(f"pushed to {address}")
        return address

    def _write_state(self, folder: Path) -> None:
        """Write the state without the best checkpoint's path, which follows from its step: folders move."""
        state = copy.copy(self.state)
        state.best_model_checkpoint = None
        state.save_to_json(str(folder / "trainer_state.json"))

    def save_state(self) -> None:
        """Write the state of the run next to its results."""
        if self.is_world_process_zero():
            self._write_state(Path(self.args.output_dir))

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.staging) if self.staging is not None else super()._get_output_dir(trial)

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Write results as the Trainer does, but each file atomically, since a run may be killed here too."""
        if not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        replace_file(folder / f"{split}_results.json", json.dumps(metrics, indent=4, sort_keys=True))
        if combined:
            path = folder / "all_results.json"
            everything = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            replace_file(path, json.dumps({**everything, **metrics}, indent=4, sort_keys=True))


def frozen_in_backbone(model: nn.Module) -> list[str]:
    """Return the names of all parameters and buffers of frozen backbones in a model."""
    frozen = []
    for path, module in model.named_modules():
        if path.rpartition(".")[2] == "backbone" and not any(weight.requires_grad for weight in module.parameters()):
            tensors = (*module.named_parameters(), *module.named_buffers())
            frozen += [f"{path}.{name}" for name, _ in tensors]
    return frozen
