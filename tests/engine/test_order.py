from collections import Counter

import pytest

from suite3d.engine.order import SampleOrder, stream_seed


def test_every_epoch_visits_every_sample_once_in_another_order():
    order = SampleOrder(10, seed=3)
    epochs = [[order.sample(epoch * 10 + i)[1] for i in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_is_a_pure_function_of_seed_and_position():
    forward, backward = SampleOrder(7, seed=1), SampleOrder(7, seed=1)
    there = [forward.sample(p) for p in range(30)]
    back = [backward.sample(p) for p in reversed(range(30))]
    assert there == back[::-1]
    assert there != [SampleOrder(7, seed=2).sample(p) for p in range(30)]


def test_ranks_share_out_the_same_global_batches():
    from suite3d.engine.loader import StepBatches
    from tests.engine.toy import ToySource

    source = ToySource(12)
    whole = StepBatches(source, SampleOrder(12, seed=0), micro_batch=4)
    parts = [StepBatches(source, SampleOrder(12, seed=0), micro_batch=2, rank=r, world=2) for r in range(2)]
    for step in range(6):
        names = whole[step].batch.names
        assert names == parts[0][step].batch.names + parts[1][step].batch.names
        assert whole[step].batch.seeds == parts[0][step].batch.seeds + parts[1][step].batch.seeds


def test_stream_seeds_do_not_collide_and_are_pinned():
    seeds = [stream_seed("sample", run, epoch, index) for run in range(3) for epoch in range(10) for index in range(100)]
    assert max(Counter(seeds).values()) == 1
    assert stream_seed("sample", 0, 0, 0) == stream_seed("sample", 0, 0, 0) != stream_seed("sample", 0, 0, 1)


def test_empty_set_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        SampleOrder(0, seed=0)
