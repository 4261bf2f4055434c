"""Several processes keep one cache: they hold on to nothing of the backbone, and all of them use the cache or none."""

import pytest
from elsewhere import train_and_say_what_is_held, train_where_the_second_process_has_no_cache
from processes import run_processes
from tiny_runs import NO_DROPOUT, flags, losses, sentences_read, write_ground

from kadapter.trainers import run_adapter

pytestmark = pytest.mark.slow

GIVEN = ("--report_to", "none", "--save_strategy", "no", "--num_train_epochs", "3", *NO_DROPOUT)
HALVES = ("--per_device_train_batch_size", "4", "--ddp_timeout", "150")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def plain(ground, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain") / "out"
    run_adapter.main(flags(ground, "linguistic", output, *GIVEN))
    return losses(output)


def run_two(function, ground, folder):
    """Train by a function in two processes with a cache, and return what they printed and their losses."""
    given = flags(ground, "linguistic", folder / "two", *GIVEN, *HALVES, "--cache_features", folder / "features")
    return run_processes(function, given, folder / "printed", number=2), losses(folder / "two")


def alike(one, two):
    return one.keys() == two.keys() and max(abs(one[step] - two[step]) for step in one) < 1e-4


@pytest.mark.thorough
def test_two_processes_write_one_cache_and_hold_on_to_nothing_of_the_backbone(ground, plain, tmp_path):
    printed, found = run_two(train_and_say_what_is_held, ground, tmp_path)
    assert printed.count("the backbone leaves memory") == 1
    assert printed.count("exchanged: 0 frozen parameters, 0 buffers") == 2
    assert printed.count("0 of 69 parameters are left beside 1 wrapper") == 2
    assert alike(plain, found)
    with sentences_read() as read:
        run_adapter.main(
            flags(ground, "linguistic", tmp_path / "one", *GIVEN, "--cache_features", tmp_path / "features")
        )
    assert read == [] and losses(tmp_path / "one") == plain


@pytest.mark.thorough
def test_where_one_process_has_no_cache_none_uses_it_and_none_waits(ground, plain, tmp_path):
    printed, found = run_two(train_where_the_second_process_has_no_cache, ground, tmp_path)
    assert printed.count("in 1 of 2 processes, so none of them uses it: training continues without the cache") == 1
    assert "--cache_features '/dev/null' can't be used (" in printed and "leaves memory" not in printed
    assert alike(plain, found)
