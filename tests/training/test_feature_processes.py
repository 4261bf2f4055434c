"""Several processes keep one cache: they hold on to nothing of the backbone, and all of them use the cache or none."""

import pytest
from tiny_runs import NO_DROPOUT, flags, losses, run_command, sentences_read, tool, write_ground

from kadapter.trainers import run_adapter

GIVEN = ("--report_to", "none", "--save_strategy", "no", "--num_train_epochs", "3", *NO_DROPOUT)
HALVES = ("--per_device_train_batch_size", "4", "--ddp_timeout", "150")
# Says what the wrapper for several processes exchanges, and what is left of the backbone when it was let go.
WATCHED = """
import gc, os, weakref
from torch.nn.parallel import DistributedDataParallel
from kadapter import KAdapterForDependencyParsing as Model
from kadapter.trainers import run_adapter
from kadapter.trainers.common.entry_point import run_program

wrappers, wrap, release = [], DistributedDataParallel.__init__, Model.release_backbone

def wrap_and_say(self, *given, **keywords):
    wrap(self, *given, **keywords)
    wrappers.append(self)
    frozen = [one for one in self._module_parameters if not one.requires_grad]
    print(f"exchanged: {len(frozen)} frozen parameters, {len(self.modules_buffers)} buffers", flush=True)

def release_and_say(self):
    held = [weakref.ref(one) for one in self.base_model.backbone.parameters()]
    release(self)
    gc.collect()
    left = sum(one() is not None for one in held)
    print(f"{left} of {len(held)} parameters are left beside {len(wrappers)} wrapper", flush=True)

DistributedDataParallel.__init__, Model.release_backbone = wrap_and_say, release_and_say
run_program(run_adapter.main)
"""
# The second process can't open the directory that the first can.
APART = """
import os, sys
from kadapter.trainers import run_adapter
from kadapter.trainers.common.entry_point import run_program

if os.environ["RANK"] == "1":
    sys.argv[sys.argv.index("--cache_features") + 1] = os.devnull
run_program(run_adapter.main)
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def plain(ground, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain") / "out"
    run_adapter.main(flags(ground, "linguistic", output, *GIVEN))
    return losses(output)


def run_two(script, ground, folder):
    """Run a script in two processes with a cache, and return what they printed and their losses."""
    (folder / "script.py").write_text(script, encoding="utf-8")
    given = flags(ground, "linguistic", folder / "two", *GIVEN, *HALVES, "--cache_features", folder / "features")
    printed = run_command([tool("torchrun"), "--nproc_per_node", "2", folder / "script.py", *given])
    return printed, losses(folder / "two")


def alike(one, two):
    return one.keys() == two.keys() and max(abs(one[step] - two[step]) for step in one) < 1e-4


def test_two_processes_write_one_cache_and_hold_on_to_nothing_of_the_backbone(ground, plain, tmp_path):
    printed, found = run_two(WATCHED, ground, tmp_path)
    assert printed.count("the backbone leaves memory") == 1
    assert printed.count("exchanged: 0 frozen parameters, 0 buffers") == 2
    assert printed.count("0 of 69 parameters are left beside 1 wrapper") == 2
    assert alike(plain, found)
    with sentences_read() as read:
        run_adapter.main(
            flags(ground, "linguistic", tmp_path / "one", *GIVEN, "--cache_features", tmp_path / "features")
        )
    assert read == [] and losses(tmp_path / "one") == plain


def test_where_one_process_has_no_cache_none_uses_it_and_none_waits(ground, plain, tmp_path):
    printed, found = run_two(APART, ground, tmp_path)
    assert printed.count("in 1 of 2 processes, so none of them uses it: training continues without the cache") == 1
    assert "--cache_features '/dev/null' can't be used (" in printed and "leaves memory" not in printed
    assert alike(plain, found)
