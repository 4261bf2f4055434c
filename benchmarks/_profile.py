"""Where the time of what is measured goes, operation by operation."""

from __future__ import annotations

from _rounds import Marks
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile


class Profiled:
    """Marks between which PyTorch's profiler looks, at the process's own thread or at the GPU."""

    def __init__(self, marks: Marks, device: str) -> None:
        self._marks, self._on_device = marks, device != "cpu"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_device else [])]
        self._profiler = profile(activities=activities, acc_events=True)

    def begin(self) -> None:
        """What is measured begins now."""
        self._marks.begin()
        self._profiler.start()

    def end(self) -> None:
        """What is measured is over."""
        self._profiler.stop()
        self._marks.end()

    def shares(self) -> dict[str, float]:
        """Return the share of the time of each operation itself, without those that it calls."""
        times: dict[str, float] = {}
        for one in self._profiler.key_averages():
            on_device = one.device_type != DeviceType.CPU
            if on_device == self._on_device:
                spent = one.self_device_time_total if on_device else one.self_cpu_time_total
                times[one.key] = times.get(one.key, 0) + spent
        everything = sum(times.values())
        return {name: spent / everything for name, spent in times.items()}
