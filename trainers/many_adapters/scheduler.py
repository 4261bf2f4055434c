"""Train several adapters in one process, in turns and on a shared backbone, with results identical to separate runs.

Each training is a thread with its own trainer, and one thread runs at a time. Before its next batch it hands over to
the training that is furthest behind. State that PyTorch, Python and Accelerate hold per process, such as that of the
random number generators, is saved and restored at every switch. So no training depends on the others in what it
computes, and a batch that several of them need is encoded by the backbone only once.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from accelerate.state import GradientState
from torch import Tensor, nn
from transformers import PrinterCallback, ProgressCallback

from ...configuration_kadapter import KAdapterConfig, KnowledgeAdapterConfig
from ...modeling_kadapter import KAdapterModel
from ..common.progress import Cost
from ..feature_cache.trainer import FeatureTrainer

__all__ = ["CoscheduledTrainer", "Scheduler", "SharedBackbone", "model_on_same_backbone"]


class Stopped(Exception):
    """Another training of the run failed in a way that ends all of them."""


class Scheduler:
    """Run jobs by name, one at a time; each hands over to the others by calling `pass_on`.

    Args:
        isolated: exceptions that end only the job that raised them; any other ends all.
    """

    def __init__(self, isolated: tuple[type[Exception], ...] = ()) -> None:
        self.isolated = isolated
        self.gates: dict[str, threading.Semaphore] = {}
        self.progress: dict[str, int] = {}  # of the waiting jobs, those that have waited longest first
        self.results: dict[str, Any] = {}
        self.failures: dict[str, BaseException] = {}
        self.stopped: BaseException | None = None

    def run(self, jobs: dict[str, Callable[[], Any]]) -> dict[str, Any]:
        """Run all jobs to their end, and return their results; `failures` holds the errors that ended single jobs.

        Raises:
            BaseException: a job raised it, it is not in `isolated`, and all jobs have ended.
        """
        self.gates = {name: threading.Semaphore(0) for name in jobs}
        self.progress = dict.fromkeys(jobs, -1)
        accelerator = torch.accelerator
        state, device = process_state(), accelerator.current_device_index() if accelerator.is_available() else None
        threads = [
            threading.Thread(target=self._work, args=(name, job, state, device), daemon=True)
            for name, job in jobs.items()
        ]
        for thread in threads:
            thread.start()
        self._wake_next()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt as error:  # only the main thread receives it
            self.stopped = self.stopped or error
            for thread in threads:
                thread.join()
        restore(state)
        if self.stopped is not None:
            raise self.stopped
        return self.results

    def pass_on(self, name: str, progress: int) -> None:
        """Let the others run until this job is furthest behind, or equally far and has waited longest.

        Raises:
            Stopped: another job failed in a way that ends all.
        """
        self.progress[name] = progress
        if next(self._order()) == name and self.stopped is None:
            del self.progress[name]
            return
        state = process_state()
        self._wake_next()
        self._wait(name)
        restore(state)

    def _order(self) -> Any:
        return iter(sorted(self.progress, key=lambda name: self.progress[name]))

    def _wake_next(self) -> None:
        following = next(self._order(), None)
        if following is not None:
            del self.progress[following]
            self.gates[following].release()

    def _wait(self, name: str) -> None:
        self.gates[name].acquire()
        if self.stopped is not None:
            raise Stopped

    def _work(self, name: str, job: Callable[[], Any], state: dict[str, Any], device: int | None) -> None:
        try:
            self._wait(name)
            restore(state)
            if device is not None:
                torch.accelerator.set_device_index(device)  # each thread has its own
            self.results[name] = job()
        except Stopped:
            pass
        except self.isolated as error:
            self.failures[name] = error
        except BaseException as error:  # noqa: BLE001 (raised again by `run`)
            self.stopped = error
        finally:
            self._wake_next()


def process_state() -> dict[str, Any]:
    """Return the state that libraries hold per process and that a training assumes to be its own."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "gradients": dict(vars(GradientState())),
    }


def restore(state: dict[str, Any]) -> None:
    """Restore a state that `process_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    shared = vars(GradientState())
    shared.clear()
    shared.update(state["gradients"])


class SharedBackbone:
    """A backbone shared by several models: it encodes each batch once, for all layers that they tap.

    Args:
        models: the models, all on the same backbone.

    Raises:
        ValueError: a plug-in before the backbone of a model would change what the others read.
    """

    def __init__(self, models: list[Any]) -> None:
        if in_front := [name for model in models for name in model.base_model.adapters.in_front]:
            raise ValueError(
                f"{', '.join(map(repr, in_front))} changes the input embeddings, so its model shares no hidden states "
                "with others; train it in a run of its own"
            )
        layers = sorted({layer for model in models for layer in model.tapped()})
        config = config_for_same_backbone(models[0], {"fusion": "add"})
        self.model = KAdapterModel(config, models[0].base_model.backbone)
        if layers:  # an adapter without blocks only taps and has no weights
            self.model.add_adapter("taps", KnowledgeAdapterConfig(layers=layers, num_hidden_layers=0))
        self.batch: bytes | None = None
        self.states: dict[int, Tensor] = {}

    def tap(self, input_ids: Tensor, attention_mask: Tensor | None, name: bytes) -> dict[int, Tensor]:
        """Return the hidden states (batch, length, width) of all tapped layers, and the last as -1.

        Batches with the same `name` are the same; the tensors, which may be on different devices, are not compared.
        """
        if self.batch != name:
            self.states, self.batch = self.model.tap(input_ids, attention_mask), name
        return dict(self.states)


def config_for_same_backbone(model: Any, fields: dict[str, Any]) -> KAdapterConfig:
    """Return a configuration with these fields and without adapters, for another model on the same pinned backbone."""
    pinned = ("backbone_name_or_path", "backbone_revision", "backbone_config", "backbone_fingerprint", "pad_token_id")
    return KAdapterConfig(**{name: getattr(model.config, name) for name in pinned}, **fields)


def model_on_same_backbone(model: Any, model_class: type, fields: dict[str, Any]) -> Any:
    """Return another model without adapters on a model's backbone, with the same head where that is frozen."""
    frozen = not any(parameter.requires_grad for parameter in model.head.parameters())
    if frozen:
        fields = {**fields, "lm_head": model.config.lm_head, "lm_head_source": model.config.lm_head_source}
    config, backbone = config_for_same_backbone(model, fields), model.base_model.backbone
    return model_class(config, backbone, model.head) if frozen else model_class(config, backbone)


class CoscheduledTrainer(FeatureTrainer):
    """A `FeatureTrainer` that hands over to the others before each batch, and prints its name with all its output.

    Args:
        name: name of the adapter.
        scheduler: the scheduler that switches between the trainings.
        arguments: keywords of `FeatureTrainer`.
    """

    def __init__(self, *, name: str, scheduler: Scheduler, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.name, self.scheduler = name, scheduler
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        if self.pop_callback(Cost) is not None:
            self.add_callback(Cost(len(self.train_dataset), name))
        self.add_callback(NamedPrinter(name))
        if not self.args.disable_tqdm:
            self.add_callback(NamedBar(name))

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """Wait for this training's turn, then run a step."""
        self.scheduler.pass_on(self.name, self.state.global_step)
        return super().training_step(model, inputs, *args, **kwargs)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Wait for this training's turn, then predict."""
        self.scheduler.pass_on(self.name, self.state.global_step)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def log_metrics(self, split: str, metrics: dict[str, float]) -> None:
        """Print results under the adapter's name."""
        if self.is_world_process_zero():
            print(f"== {self.name}")
        super().log_metrics(split, metrics)


class NamedPrinter(PrinterCallback):
    """Print logged values after the adapter's name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print the adapter's name, then the values."""
        if state.is_local_process_zero:
            print(f"{self.name}: ", end="")
        super().on_log(args, state, control, dict(logs or {}), **kwargs)  # it removes an item


class NamedBar(ProgressCallback):
    """Show a progress bar with the adapter's name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Create the bar and label it with the adapter's name."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.name)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write nothing: `NamedPrinter` prints what is logged."""
