"""Several trainings in one process, each as if it were alone: they take turns batch by batch and share the backbone.

Each is a thread with a trainer of its own, and one runs at a time. When it comes to its next batch it hands over to
the one that is furthest behind. What PyTorch, Python and Accelerate keep once a process, such as the state of the
random numbers, is each training's own: it is put away and brought back at every change. So nothing that a training
computes depends on the others, and what they have in common, a batch that the backbone reads, is read once.
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

__all__ = ["CoscheduledTrainer", "Scheduler", "SharedBackbone"]


class Stopped(Exception):
    """Another training of the run ended in a way that ends all."""


class Scheduler:
    """Runs jobs by name, one at a time; each hands over to the others by `pass_on`.

    Args:
        apart: exceptions that end only the job that raised them; any other ends all.
    """

    def __init__(self, apart: tuple[type[Exception], ...] = ()) -> None:
        self.apart = apart
        self.gates: dict[str, threading.Semaphore] = {}
        self.progress: dict[str, int] = {}  # of those that wait, who has waited longest first
        self.results: dict[str, Any] = {}
        self.failures: dict[str, BaseException] = {}
        self.stopped: BaseException | None = None

    def run(self, jobs: dict[str, Callable[[], Any]]) -> dict[str, Any]:
        """Run all jobs to their end, and return what each returned; `failures` holds what ended the others.

        Raises:
            BaseException: what one job raised that is not `apart`, when all have ended.
        """
        self.gates = {name: threading.Semaphore(0) for name in jobs}
        self.progress = dict.fromkeys(jobs, -1)
        state, device = process_state(), current_device()
        threads = [
            threading.Thread(target=self._work, args=(name, job, state, device), daemon=True)
            for name, job in jobs.items()
        ]
        for one in threads:
            one.start()
        self._wake_next()
        try:
            for one in threads:
                one.join()
        except KeyboardInterrupt as error:  # only the main thread hears it
            self.stopped = self.stopped or error
            for one in threads:
                one.join()
        restore(state)
        if self.stopped is not None:
            raise self.stopped
        return self.results

    def pass_on(self, name: str, progress: int) -> None:
        """Let the others run until this job is the one that is furthest behind, or as far and has waited longest.

        Raises:
            Stopped: another job ended in a way that ends all.
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
                torch.accelerator.set_device_index(device)  # it is each thread's own
            self.results[name] = job()
        except Stopped:
            pass
        except self.apart as error:
            self.failures[name] = error
        except BaseException as error:  # noqa: BLE001 (raised again where the run waits)
            self.stopped = error
        finally:
            self._wake_next()


def process_state() -> dict[str, Any]:
    """Return what the libraries keep once a process, and what a training takes to be its own."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "gradients": dict(vars(GradientState())),
    }


def restore(state: dict[str, Any]) -> None:
    """Bring back what `process_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    shared = vars(GradientState())
    shared.clear()
    shared.update(state["gradients"])


def current_device() -> int | None:
    """Return the number of the accelerator in use, None where there is none."""
    return torch.accelerator.current_device_index() if torch.accelerator.is_available() else None


class SharedBackbone:
    """One backbone under several models: it reads each batch once, for all that they tap.

    Args:
        models: the models, all on the same backbone.
    """

    def __init__(self, models: list[Any]) -> None:
        layers = sorted({layer for model in models for layer in model.tapped()})
        self.model = KAdapterModel(
            config_for_same_backbone(models[0], {"fusion": "add"}), models[0].base_model.backbone
        )
        if layers:  # an adapter without blocks taps and holds no weights
            self.model.add_adapter("taps", KnowledgeAdapterConfig(layers=layers, num_hidden_layers=0))
        self.batch: bytes | None = None
        self.states: dict[int, Tensor] = {}

    def tap(self, input_ids: Tensor, attention_mask: Tensor | None, name: bytes) -> dict[int, Tensor]:
        """Return the hidden states (batch, length, width) of all layers that are tapped, and the last as -1.

        A batch of the same `name` as the last one is the same; the tensors, maybe on another device, aren't looked at.
        """
        if self.batch != name:
            self.states, self.batch = self.model.tap(input_ids, attention_mask), name
        return dict(self.states)


def config_for_same_backbone(model: Any, own: dict[str, Any]) -> KAdapterConfig:
    """Return a configuration for another model on the same pinned backbone, with no adapters and fields of its own."""
    pinned = ("backbone_name_or_path", "backbone_revision", "backbone_config", "backbone_fingerprint", "pad_token_id")
    return KAdapterConfig(**{name: getattr(model.config, name) for name in pinned}, **own)


class CoscheduledTrainer(FeatureTrainer):
    """A `FeatureTrainer` that hands over to the others before each batch, and tells its name with all that it tells.

    Args:
        name: name of the adapter.
        scheduler: whom it hands over to.
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
        """Run one step when it is this training's turn."""
        self.scheduler.pass_on(self.name, self.state.global_step)
        return super().training_step(model, inputs, *args, **kwargs)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Predict when it is this training's turn."""
        self.scheduler.pass_on(self.name, self.state.global_step)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def log_metrics(self, split: str, metrics: dict[str, float]) -> None:
        """Print results under the adapter's name."""
        if self.is_world_process_zero():
            print(f"== {self.name}")
        super().log_metrics(split, metrics)


class NamedPrinter(PrinterCallback):
    """Prints what is logged after the adapter's name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print."""
        if state.is_local_process_zero:
            print(f"{self.name}: ", end="")
        super().on_log(args, state, control, dict(logs or {}), **kwargs)  # which takes something out


class NamedBar(ProgressCallback):
    """A bar with the adapter's name."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw it."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.set_description(self.name)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Leave it to the printer."""
