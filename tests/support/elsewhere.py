"""What tests have other processes do (see processes.py), as functions, since a linter sees no scripts in strings."""

import gc
import os
import resource
import sys
import weakref

import torch
from accelerate import PartialState
from torch.nn.parallel import DistributedDataParallel

from kadapter import KAdapterForDependencyParsing, KAdapterModel
from kadapter.trainers import run_adapter
from kadapter.trainers.common.entry_point import run_program
from kadapter.trainers.feature_cache import store


def train_with_shards_of_one_batch():
    """Train by flags and write a shard of the feature cache after each batch."""
    store.SHARD_BYTES = 1
    run_adapter.main()


def train_and_say_what_is_held():
    """Train by flags; say what the wrapper for several processes exchanges, and what is left of the backbone."""
    wrappers, wrap, release = [], DistributedDataParallel.__init__, KAdapterForDependencyParsing.release_backbone

    def wrap_and_say(self, *given, **keywords):
        wrap(self, *given, **keywords)
        wrappers.append(self)
        frozen = [one for one in self._module_parameters if not one.requires_grad]
        print(f"exchanged: {len(frozen)} frozen parameters, {len(self.modules_buffers)} buffers")

    def release_and_say(self):
        held = [weakref.ref(one) for one in self.base_model.backbone.parameters()]
        release(self)
        gc.collect()
        left = sum(one() is not None for one in held)
        print(f"{left} of {len(held)} parameters are left beside {len(wrappers)} wrapper")

    DistributedDataParallel.__init__ = wrap_and_say
    KAdapterForDependencyParsing.release_backbone = release_and_say
    run_adapter.main()


def train_where_the_second_process_has_no_cache():
    """Train by flags, of which the second process can't open the directory of the cache."""
    if os.environ["RANK"] == "1":
        sys.argv[sys.argv.index("--cache_features") + 1] = os.devnull
    run_adapter.main()


def meet():
    """Wait for the other process."""
    os.environ["ACCELERATE_USE_CPU"] = "1"
    PartialState().wait_for_everyone()
    assert torch.distributed.get_world_size() == 2


def meet_and_fail():
    """Wait for the other process, and fail as a program does that has no data."""
    meet()
    raise ValueError("no data")


def leave_together():
    """Run a program of two processes; say whether they are in their group when it has ended."""
    sys.argv[0] = "meet.py"
    run_program(meet)
    print("in it" if torch.distributed.is_initialized() else "left")


def fail_together():
    """Run a program of two processes that fails."""
    sys.argv[0] = "meet_and_fail.py"
    run_program(meet_and_fail)
    print("in it" if torch.distributed.is_initialized() else "left")


def save_without_end():
    """Save two models in turns to a directory."""
    *sources, output = sys.argv[1:]
    models = [KAdapterModel.from_pretrained(source) for source in sources]
    while True:
        for model in models:
            model.save_pretrained(output)
        print("saved")


def save_on_a_full_disk():
    """Save a model that has grown where it was and elsewhere, when no more than 100 kB can be written to a file."""
    artifact, new = sys.argv[1:]
    model = KAdapterModel.from_pretrained(artifact)
    model.add_adapter("more", {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96})
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    for place in (artifact, new):
        try:
            model.save_pretrained(place)
        except OSError as error:
            print(error)


def encode(model, ids):
    """Return what a model makes of token ids."""
    torch.set_num_threads(1)
    with torch.no_grad():
        return model(input_ids=ids).last_hidden_state.numpy()
