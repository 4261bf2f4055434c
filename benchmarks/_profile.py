"""Measure where the time goes, operation by operation."""

from __future__ import annotations

from _rounds import Marks
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


class Profiled:
    """Marks between which PyTorch's profiler records the process's own thread or the GPU."""

    def __init__(self, marks: Marks, device: str) -> None:
        self._marks, self._on_device = marks, device != "cpu"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_device else [])]
        self._profiler = profile(activities=activities, acc_events=True)

    def begin(self) -> None:
        """Begin the measurement."""
        self._marks.begin()
        self._profiler.start()

    def end(self) -> None:
        """End the measurement."""
        self._profiler.stop()
        self._marks.end()

    def shares(self) -> dict[str, float]:
        """Return each operation's share of the time, without the operations that it calls."""
        times: dict[str, float] = {}
        for event in self._profiler.key_averages():
            on_device = event.device_type != DeviceType.CPU
            if on_device == self._on_device:
                spent = event.self_device_time_total if on_device else event.self_cpu_time_total
                times[event.key] = times.get(event.key, 0) + spent
        total = sum(times.values())
        return {name: spent / total for name, spent in times.items()}
