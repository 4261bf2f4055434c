"""The ground every test stands on: no network, caches that nobody else writes, one thread a process, no bars.

The libraries read these settings when they are imported, so they are made here, before any test imports one.
"""

import gc
import os
import shutil
import tempfile

# One folder for each process, since pytest-xdist runs this file in every worker.
HF_HOME = tempfile.mkdtemp(prefix="kadapter-tests-")

# A cache named on its own in the environment would win over HF_HOME.
for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "HF_ASSETS_CACHE", "HF_TOKEN"):
    os.environ.pop(name, None)

# Kernels that were compiled for other instructions give NaN or break the process (common/backbone_options.py).
INSTRUCTIONS = "-".join(os.environ.get(name, "all") for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"))
KERNELS = os.path.join(tempfile.gettempdir(), f"kadapter-tests-kernels-{INSTRUCTIONS}")

os.environ.update(
    TORCHINDUCTOR_CACHE_DIR=KERNELS,
    HF_HOME=HF_HOME,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    MPLBACKEND="agg",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)


def pytest_collection_finish() -> None:
    """Let the collector leave alone what was imported: a pass over it takes a quarter of a second, a run some."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    shutil.rmtree(HF_HOME, ignore_errors=True)
