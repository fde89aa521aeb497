"""The learning rate: its rise, its fall to 0, its cycles, and the way back from a config."""

import keras
import numpy as np
import pytest

from vae_keras import schedules


def rates(schedule, *steps: int) -> list[float]:
    return [float(schedule(step)) for step in steps]


def test_it_rises_and_falls_to_zero():
    at = rates(schedules.cosine(0.003, 1000, warmup_steps=100), 0, 50, 100, 500, 999, 1000, 5000)
    assert at[:3] == pytest.approx([0.0, 0.0015, 0.003])
    assert at[2] > at[3] > at[4] > 0.0
    assert at[5:] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_without_a_rise_it_starts_at_the_top():
    assert rates(schedules.cosine(0.003, 1000), 0, 500) == pytest.approx([0.003, 0.0015])


def test_a_rise_takes_a_tenth_of_a_cycle_at_most():
    assert rates(schedules.cosine(1.0, 200, warmup_steps=500), 10, 20) == pytest.approx([0.5, 1.0])
    two = schedules.cosine(1.0, 200, warmup_steps=500, cycles=2)
    assert rates(two, 5, 10) == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize("cycles", [2, 3])
def test_a_cycle_repeats_the_first_bit_for_bit(cycles):
    once = schedules.cosine(0.004, 60, warmup_steps=5)
    schedule = schedules.cosine(0.004, 60 * cycles, warmup_steps=5, cycles=cycles)
    assert rates(schedule, *range(60 * cycles)) == rates(once, *range(60)) * cycles


def test_cycles_share_what_does_not_divide():
    once = schedules.cosine(1.0, 4)
    assert rates(schedules.cosine(1.0, 10, cycles=3), *range(10)) == rates(
        once, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1
    )


def test_more_cycles_than_steps_stay_at_the_top():
    assert rates(schedules.cosine(1.0, 2, cycles=5), 0, 1) == [1.0, 1.0]


def test_it_comes_back_from_its_config():
    schedule = schedules.cosine(0.004, 100, warmup_steps=5, cycles=2)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert rates(again, *range(100)) == rates(schedule, *range(100))


def test_an_optimizer_follows_its_cycles():
    variable = keras.Variable(np.zeros(1, np.float32))
    optimizer = keras.optimizers.SGD(schedules.cosine(1.0, 4, cycles=2))
    moves = []
    for _ in range(4):
        before = variable.numpy()
        optimizer.apply_gradients([(keras.ops.ones(1), variable)])
        moves.append(float(before[0] - variable.numpy()[0]))
    assert moves == pytest.approx([1.0, 0.5, 1.0, 0.5])
