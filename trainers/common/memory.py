"""What the libraries below a training keep of memory to themselves: kernels, and freed pieces of the heap."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

__all__ = ["give_back", "keep_memory", "spare_memory"]

KERNELS = 32  # matrix products whose kernels a CPU keeps, by kind and shape: a step's worth, half a MiB each
MANY_KERNELS = 512  # those of steps on kept states for some nineteen sentence lengths
LARGE = 4 * 2**20  # bytes of a piece of memory that glibc maps by itself, and gives back as soon as it is freed
LARGEST = 32 * 2**20  # the most that such a piece may have to have
ROOM = 256 * 2**20  # bytes at its heap's end that glibc keeps
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>


def spare_memory(many_kernels: bool = False) -> None:
    """Let the libraries below keep less memory to themselves; what the environment says goes before it.

    oneDNN and PyTorch keep the kernels of 1,024 shapes each, some 17 MiB for each new length. `many_kernels` is for
    training on kept states, in the room that the backbone will leave. How many oneDNN may keep is heard before the
    first matrix product of the process. glibc takes ever larger pieces, up to 32 MiB, from a heap full of holes once
    it has freed one of their size; those of `LARGE` bytes stay out of it.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(MANY_KERNELS if many_kernels else KERNELS))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(KERNELS))
    tell_glibc({M_MMAP_THRESHOLD: LARGE})


def keep_memory() -> None:
    """Let glibc keep what one step frees for the next; what the environment says goes before it.

    It is for steps on kept states, for which the backbone has left room: pages that are given back and taken again
    cost them 8% of their time.
    """
    tell_glibc({M_MMAP_THRESHOLD: LARGEST, M_TRIM_THRESHOLD: ROOM})


def tell_glibc(options: dict[int, int]) -> None:
    """Set options of glibc's heap, unless the environment sets one of them."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    for name in ("mmap_threshold", "trim_threshold"):
        if f"MALLOC_{name.upper()}_" in os.environ or name in tunables:
            return
    for option, value in options.items():
        glibc("mallopt", option, value)


def give_back() -> None:
    """Give the memory that was freed back to the system, which glibc else keeps in its heap for itself."""
    glibc("malloc_trim", 0)


def glibc(function: str, *arguments: int) -> None:
    """Call a function of glibc, and nothing where the C library is another, which has its own ways."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            getattr(ctypes.CDLL(None), function)(*arguments)
