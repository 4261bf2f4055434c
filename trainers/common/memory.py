"""Limit the memory that native libraries hold during training, or keep it: kernels, and freed blocks of the heap."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

__all__ = ["give_back", "keep_freed_memory", "keep_large_blocks", "limit_native_caches"]

KERNELS = 32  # kernels of matrix products that oneDNN caches: enough for a step, half a MiB each
MANY_KERNELS = 512  # enough for steps on cached states of about nineteen sentence lengths
MMAP_BYTES = 4 * 2**20  # glibc maps blocks of this size separately, and returns them as soon as they are freed
LARGEST_MMAP_BYTES = 32 * 2**20  # the highest such threshold that glibc allows
TRIM_BYTES = 256 * 2**20  # free bytes at the end of its heap that glibc keeps
MOST_TRIM_BYTES = 2**31 - 1  # the most that mallopt takes
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of <malloc.h>


def limit_native_caches(many_kernels: bool = False) -> None:
    """Limit the memory that native libraries cache; settings in the environment take precedence.

    oneDNN and PyTorch cache kernels for 1,024 shapes each, about 17 MiB for each new length. `many_kernels` is for
    training on cached states, which uses memory that the backbone frees later. oneDNN reads its limit before the first
    matrix product of the process only. Once a block has been freed, glibc takes blocks of its size, up to 32 MiB,
    from the heap, which becomes fragmented; blocks of `MMAP_BYTES` and more stay out of the heap.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(MANY_KERNELS if many_kernels else KERNELS))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(KERNELS))
    set_malloc_options({M_MMAP_THRESHOLD: MMAP_BYTES})


def keep_freed_memory() -> None:
    """Let glibc keep the memory that one step frees for the next; settings in the environment take precedence.

    This is for steps on cached states, where the backbone has left room: returning pages and taking them again costs
    such steps 8% of their time.
    """
    set_malloc_options({M_MMAP_THRESHOLD: LARGEST_MMAP_BYTES, M_TRIM_THRESHOLD: TRIM_BYTES})


def keep_large_blocks() -> None:
    """Let glibc keep blocks of any size for the next step; settings in the environment take precedence.

    This is for steps that take the same few large blocks, such as the gradient of a whole table: new pages for them
    can cost more than all else in a step.
    """
    set_malloc_options({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: MOST_TRIM_BYTES})


def set_malloc_options(options: dict[int, int]) -> None:
    """Set options of glibc's heap, unless the environment sets any of them."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    for name in ("mmap_threshold", "mmap_max", "trim_threshold"):
        if f"MALLOC_{name.upper()}_" in os.environ or name in tunables:
            return
    for option, value in options.items():
        glibc("mallopt", option, value)


def give_back() -> None:
    """Return freed memory to the system, which glibc would otherwise keep in its heap."""
    glibc("malloc_trim", 0)


def glibc(function: str, *arguments: int) -> None:
    """Call a function of glibc; do nothing where the C library is another."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            getattr(ctypes.CDLL(None), function)(*arguments)
