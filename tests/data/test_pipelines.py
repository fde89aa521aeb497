"""The pipelines of `fit`."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from vae_keras.data import pipelines
from vae_keras.utils import rows


def _epochs(count, num, batch, stack, seed=0, first_epoch=0):
    """The rows each epoch serves, as (row, weight) lists."""
    images = np.arange(num, dtype=np.float32).reshape(num, 1, 1, 1)
    weights = np.arange(1, num + 1, dtype=np.float32)
    calls = math.ceil(math.ceil(num / batch) / stack)
    served = pipelines.stacks(images, weights, batch, stack, seed, first_epoch).take(count * calls)
    stacks = list(served.as_numpy_iterator())
    return [stacks[i * calls : (i + 1) * calls] for i in range(count)]


@pytest.mark.parametrize(("num", "batch", "stack"), [(12, 3, 2), (13, 3, 2), (5, 5, 1), (7, 2, 9)])
def test_every_row_once_an_epoch_and_padding_weighs_nothing(num, batch, stack):
    for epoch in _epochs(2, num, batch, stack):
        rows = np.concatenate([s.examples.reshape(-1) for s in epoch])
        weights = np.concatenate([s.weights.reshape(-1) for s in epoch])
        held = weights > 0
        np.testing.assert_array_equal(np.sort(rows[held]), np.arange(num))
        np.testing.assert_array_equal(rows[held] + 1, weights[held])
        assert sum(int(s.steps) for s in epoch) == -(-num // batch)
        assert all(s.examples.shape == (stack, batch, 1, 1, 1) for s in epoch)


def test_rows_of_a_file_are_served_as_those_of_an_array_and_each_share_reads_its_own():
    images = np.arange(13, dtype=np.float32).reshape(13, 1, 1, 1)
    weights, counts = np.ones(13, np.float32), []

    def read(index):
        counts.append(len(index))
        return images[index]

    lazy = rows.Rows(read, np.arange(13), (1, 1, 1), np.float32)
    for make, arguments, steps in (
        (pipelines.stacks, (6, 2, 0), 2),
        (pipelines.shares, (6, range(1, 3), 3, 0), 6),
    ):
        ours, theirs = (
            make(x, weights, *arguments).take(steps).as_numpy_iterator() for x in (lazy, images)
        )
        for one, other in zip(ours, theirs, strict=True):
            for part, expected in zip(one, other, strict=True):
                np.testing.assert_array_equal(part, expected)
    assert max(counts[2:]) <= 12
    assert counts[-1] == 2, "two rows of a global batch of six belong to one of three replicas"


def test_order_is_a_pure_function_of_seed_and_epoch():
    def order(epoch):
        return np.concatenate([s.examples.reshape(-1) for s in epoch])

    first, second = _epochs(2, 40, 4, 2)
    assert (order(first) != order(second)).any()
    np.testing.assert_array_equal(order(_epochs(1, 40, 4, 2, first_epoch=1)[0]), order(second))
    assert (order(_epochs(1, 40, 4, 2, seed=1)[0]) != order(first)).any()
    np.testing.assert_array_equal(order(_epochs(1, 40, 4, 2, seed=None)[0]), np.arange(40))


@pytest.mark.parametrize(
    ("num", "batch", "replicas"),
    [
        pytest.param(12, 6, 2, marks=pytest.mark.slow),
        (13, 6, 4),
        (7, 5, 3),
        pytest.param(9, 2, 4, marks=pytest.mark.slow),
        (5, 5, 1),
    ],
)
def test_shares_of_all_replicas_are_the_global_batches(num, batch, replicas):
    steps = -(-num // batch)
    (stack,) = _epochs(1, num, batch, steps)[0]
    images = np.arange(num, dtype=np.float32).reshape(num, 1, 1, 1)
    weights = np.arange(1, num + 1, dtype=np.float32)
    whole = np.zeros((steps, batch)), np.zeros((steps, batch))
    for first, here in [(0, 1), (1, replicas - 1)]:  # a worker with one replica, one with the rest
        mine = range(first, first + here)
        shares = pipelines.shares(images, weights, batch, mine, replicas, 0).take(steps * here)
        for index, share in enumerate(shares.as_numpy_iterator()):
            assert len(share.examples) == -(-batch // replicas)
            assert share.batch == batch
            assert share.total_weight == stack.weights[index // here].sum()
            for offset, (image, weight) in enumerate(
                zip(share.examples, share.weights, strict=True)
            ):
                if weight:
                    whole[0][index // here, share.row + offset] += image.item()
                    whole[1][index // here, share.row + offset] += weight
    held = stack.weights > 0
    np.testing.assert_array_equal(whole[0] * held, stack.examples[..., 0, 0, 0] * held)
    np.testing.assert_array_equal(whole[1], stack.weights)


@pytest.mark.parametrize(("num", "batch", "replicas"), [(12, 6, 2), (13, 6, 4), (7, 5, 3)])
def test_shares_without_padding_hold_the_rows_of_the_batches(num, batch, replicas):
    images, weights = np.arange(num, dtype=np.float32), np.ones(num, np.float32)
    shares = pipelines.shares(
        images, weights, batch, range(replicas), replicas, shuffle_seed=0, padded=False
    )
    steps, order = -(-num // batch), pipelines.epoch_order(num, 0, 0).numpy()
    found = list(shares.take(steps * replicas).as_numpy_iterator())
    np.testing.assert_array_equal(np.concatenate([share.examples for share in found]), order)
    for step in range(steps):
        held = found[step * replicas : (step + 1) * replicas]
        rows = sum(len(share.examples) for share in held)
        for share in held:
            assert share.fraction == pytest.approx(len(share.examples) / rows)
            assert share.total_weight == rows


def test_shares_never_end():
    images, weights = np.zeros((4, 1, 1, 1), np.float32), np.ones(4, np.float32)
    shares = pipelines.shares(images, weights, 2, range(1), 1)
    assert shares.cardinality() == tf.data.INFINITE_CARDINALITY
    assert len(list(shares.take(7))) == 7


def test_the_pipelines_are_not_tuned_while_they_run():
    """The tuner's thread may hold up the end of `fit` for two seconds."""
    images, weights = np.zeros((6, 2, 2, 1), np.uint8), np.ones(6, np.float32)
    for dataset in (
        pipelines.batches((images,), 6, 2, 0, 0),
        pipelines.stacks(images, weights, 2, 3),
        pipelines.shares(images, weights, 2, range(1), 1),
    ):
        assert dataset.options().autotune.enabled is False


@pytest.mark.parametrize(("num", "batch"), [(12, 3), (13, 3), (5, 5), (7, 20)])
def test_batches_are_those_of_the_stacks_without_padding(num, batch):
    examples, labels = np.arange(num, dtype=np.float32), np.arange(num).astype(str)
    epoch = tf.Variable(0, dtype=tf.int64)
    dataset = pipelines.batches((examples, labels, None), num, batch, 3, epoch)
    assert int(dataset.cardinality()) == -(-num // batch)
    for number in (0, 1):
        epoch.assign(number)  # an iterator reads it when its pass begins
        rows = []
        for x, y, weights in dataset:
            assert weights is None
            np.testing.assert_array_equal(y, x.numpy().astype(int).astype(str).astype(bytes))
            rows.append(x.numpy())
        assert {len(each) for each in rows[:-1]} <= {batch}
        np.testing.assert_array_equal(
            np.concatenate(rows), pipelines.epoch_order(num, 3, number).numpy()
        )


@pytest.mark.parametrize("step", [1, 2])
def test_an_array_is_read_where_it_lies(step):
    """A copy of a large array would not fit into memory beside it."""
    images = np.arange(60, dtype=np.int16).reshape(20, 3, 1, 1)[::step]
    weights = np.ones(len(images), np.float32)
    served = iter(pipelines.stacks(images, weights, 5, 1))
    np.testing.assert_array_equal(next(served).examples[0], images[:5])
    images[:] = 7
    later = [stack.examples for stack in itertools.islice(served, 20)]
    assert np.all(later[-1] == 7)
