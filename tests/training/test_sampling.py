"""The order of training examples: a permutation in whole global batches, the same for any number of processes."""

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from kadapter.trainers.common.sampler import POOL, GlobalBatchSampler

LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=200)


@given(LENGTHS, st.integers(1, 17), st.booleans(), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_takes_whole_global_batches_without_repeats(lengths, batch_size, grouped, seed, epoch):
    sampler = GlobalBatchSampler(lengths, batch_size, grouped, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert order == list(sampler)  # a resumed run draws the same epoch
    assert len(order) == len(sampler) == len(set(order))
    assert set(order) <= set(range(len(lengths)))
    assert len(order) == len(lengths) if len(lengths) < batch_size else len(order) % batch_size == 0
    assert len(lengths) - len(order) < batch_size


@given(LENGTHS, st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.booleans())
def test_a_step_holds_the_same_examples_for_any_number_of_processes(
    lengths, per_device, accumulation, processes, grouped
):
    batch_size = per_device * accumulation * processes
    assume(len(lengths) >= batch_size)
    sampler = GlobalBatchSampler(lengths, batch_size, grouped, seed=3)
    alone = list(BatchSampler(sampler, batch_size, drop_last=False))
    batches = BatchSampler(sampler, per_device, drop_last=False)
    shards = [list(BatchSamplerShard(batches, processes, rank)) for rank in range(processes)]
    together = [
        sorted(index for shard in shards for batch in shard[step : step + accumulation] for index in batch)
        for step in range(0, len(shards[0]), accumulation)
    ]
    assert together == [sorted(step) for step in alone]


@given(st.lists(st.integers(1, 64), min_size=40, max_size=200), st.integers(2, 8))
def test_grouping_leaves_little_padding_and_random_order_does_not_care(lengths, batch_size):
    def padding(grouped):
        batches = BatchSampler(GlobalBatchSampler(lengths, batch_size, grouped, 0), batch_size, drop_last=True)
        return sum(max(lengths[i] for i in batch) - lengths[j] for batch in batches for j in batch)

    pools = -(-len(lengths) // (POOL * batch_size))
    assert padding(grouped=True) <= pools * batch_size * (max(lengths) - min(lengths))
    assert padding(grouped=True) <= padding(grouped=False)


@pytest.mark.parametrize("grouped", [False, True])
def test_each_epoch_has_an_order_of_its_own_and_leaves_out_others(grouped):
    sampler = GlobalBatchSampler(list(range(1, 104)), 10, grouped, seed=0)
    orders = []
    for epoch in range(20):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert len({tuple(order) for order in orders}) == 20
    assert set(range(103)) == set().union(*orders)
