"""The pipelines of `fit`."""

import math

import numpy as np
import pytest
import tensorflow as tf

from vae_keras import data


def _epochs(count, num, batch, stack, seed=0, first_epoch=0):
    """The rows each epoch serves, as (row, weight) lists."""
    images = np.arange(num, dtype=np.float32).reshape(num, 1, 1, 1)
    weights = np.arange(1, num + 1, dtype=np.float32)
    calls = math.ceil(math.ceil(num / batch) / stack)
    served = data.stacks(images, weights, batch, stack, seed, first_epoch).take(count * calls)
    stacks = list(served.as_numpy_iterator())
    return [stacks[i * calls : (i + 1) * calls] for i in range(count)]


@pytest.mark.parametrize(("num", "batch", "stack"), [(12, 3, 2), (13, 3, 2), (5, 5, 1), (7, 2, 9)])
def test_every_row_once_an_epoch_and_padding_weighs_nothing(num, batch, stack):
    for epoch in _epochs(2, num, batch, stack):
        rows = np.concatenate([s.images.reshape(-1) for s in epoch])
        weights = np.concatenate([s.weights.reshape(-1) for s in epoch])
        held = weights > 0
        np.testing.assert_array_equal(np.sort(rows[held]), np.arange(num))
        np.testing.assert_array_equal(rows[held] + 1, weights[held])
        assert sum(int(s.steps) for s in epoch) == -(-num // batch)
        assert all(s.images.shape == (stack, batch, 1, 1, 1) for s in epoch)


def test_order_is_a_pure_function_of_seed_and_epoch():
    def order(epoch):
        return np.concatenate([s.images.reshape(-1) for s in epoch])

    first, second = _epochs(2, 40, 4, 2)
    assert (order(first) != order(second)).any()
    np.testing.assert_array_equal(order(_epochs(1, 40, 4, 2, first_epoch=1)[0]), order(second))
    assert (order(_epochs(1, 40, 4, 2, seed=1)[0]) != order(first)).any()
    np.testing.assert_array_equal(order(_epochs(1, 40, 4, 2, seed=None)[0]), np.arange(40))


@pytest.mark.parametrize(
    ("num", "batch", "replicas"), [(12, 6, 2), (13, 6, 4), (7, 5, 3), (9, 2, 4), (5, 5, 1)]
)
def test_shares_of_all_replicas_are_the_global_batches(num, batch, replicas):
    steps = -(-num // batch)
    (stack,) = _epochs(1, num, batch, steps)[0]
    images = np.arange(num, dtype=np.float32).reshape(num, 1, 1, 1)
    weights = np.arange(1, num + 1, dtype=np.float32)
    whole = np.zeros((steps, batch)), np.zeros((steps, batch))
    for first, here in [(0, 1), (1, replicas - 1)]:  # a worker with one replica, one with the rest
        mine = range(first, first + here)
        shares = data.shares(images, weights, batch, mine, replicas, 0).take(steps * here)
        for index, share in enumerate(shares.as_numpy_iterator()):
            assert len(share.images) == -(-batch // replicas)
            assert share.batch == batch
            for offset, (image, weight) in enumerate(zip(share.images, share.weights, strict=True)):
                if weight:
                    whole[0][index // here, share.row + offset] += image.item()
                    whole[1][index // here, share.row + offset] += weight
    held = stack.weights > 0
    np.testing.assert_array_equal(whole[0] * held, stack.images[..., 0, 0, 0] * held)
    np.testing.assert_array_equal(whole[1], stack.weights)


def test_shares_never_end():
    images, weights = np.zeros((4, 1, 1, 1), np.float32), np.ones(4, np.float32)
    shares = data.shares(images, weights, 2, range(1), 1)
    assert shares.cardinality() == tf.data.INFINITE_CARDINALITY
    assert len(list(shares.take(7))) == 7


def test_the_pipelines_are_not_tuned_while_they_run():
    """The tuner's thread may hold up the end of `fit` for two seconds."""
    images, weights = np.zeros((6, 2, 2, 1), np.uint8), np.ones(6, np.float32)
    for dataset in (
        data.stacks(images, weights, 2, 3),
        data.shares(images, weights, 2, range(1), 1),
    ):
        assert dataset.options().autotune.enabled is False
