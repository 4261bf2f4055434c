"""A full disk ends a run in one sentence, wherever it strikes, and leaves nothing half written."""

import resource
from contextlib import contextmanager

import datasets
import pytest
from tiny_runs import flags, write_corpora, write_ground

from kadapter.trainers import run_adapter

pytestmark = pytest.mark.slow

SHORT = ("--report_to", "none", "--max_steps", "2", "--do_eval", "false")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return write_ground(tmp_path_factory.mktemp("ground"))


@contextmanager
def no_file_longer_than(size):
    """A file of more bytes can't be written, as where the disk is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_within_the_optimizers_file_is_told_and_leaves_no_part_of_it(ground, tmp_path):
    run_adapter.main(flags(ground, "linguistic", tmp_path / "whole", *SHORT))
    size = (tmp_path / "whole" / "checkpoint-2" / "optimizer.pt").stat().st_size
    for number, limit in enumerate((size // 2, size * 3 // 4, size - 1)):
        output = tmp_path / f"out{number}"
        with (
            no_file_longer_than(limit),
            pytest.raises(OSError, match=r"could not write checkpoint-2 .*free some space and continue with --resume"),
        ):
            run_adapter.main(flags(ground, "linguistic", output, *SHORT))
        assert not output.exists() or not list(output.iterdir())


@pytest.mark.parametrize("size", [300, 4000])
def test_a_full_disk_under_the_cache_of_datasets_is_told_in_one_line(ground, tmp_path, size):
    data = write_corpora(tmp_path / "data", train=40 + size % 7) / "conllu"  # not in the cache yet
    with (
        no_file_longer_than(size),
        pytest.raises(OSError, match="could not be kept in the cache of datasets") as error,
    ):
        run_adapter.main(flags(ground, "linguistic", tmp_path / "out", *SHORT, "--data_dir", data))
    assert str(data) in str(error.value) and "too large" in str(error.value) and "\n" not in str(error.value)
    cache = [path.name for path in (tmp_path / "out", *datasets.config.HF_DATASETS_CACHE.rglob("*")) if path.exists()]
    assert not [name for name in cache if name.endswith((".partial", ".incomplete"))] and "out" not in cache
    run_adapter.main(flags(ground, "linguistic", tmp_path / "out", *SHORT, "--data_dir", data))
