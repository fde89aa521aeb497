"""How high the learning rate stands at each step: up, down along a cosine, and again."""

from __future__ import annotations

from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule


def cosine(top: float, steps: int, *, warmup_steps: int = 0, cycles: int = 1) -> Any:
    """A linear rise and a half cosine that falls to 0, `cycles` times over.

    Args:
        top: the highest rate.
        steps: of all cycles together, >= 1; each gets its share, rounded up.
        warmup_steps: of a cycle's rise, a tenth of the cycle at most. Default 0.
        cycles: how often the rate starts again, >= 1. Default 1.

    Returns:
        A Keras schedule, from step to learning rate.

    Example:
        >>> rate = schedules.cosine(4e-3, 1000, warmup_steps=100, cycles=2)
        >>> [round(float(rate(step)), 4) for step in (0, 100, 300, 500, 600)]
        [0.0, 0.004, 0.0024, 0.0, 0.004]

    References:
        Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts".
    """
    length = -(-steps // cycles)
    warmup = min(warmup_steps, length // 10)
    once = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else top,
        warmup_target=top if warmup else None,
        warmup_steps=warmup,
        decay_steps=length - warmup,
    )
    return once if cycles == 1 else Cycles(once, length)


@keras.saving.register_keras_serializable(package="vae_keras")
class Cycles(LearningRateSchedule):
    """A schedule that starts again every `length` steps.

    Args:
        schedule: of one cycle.
        length: steps of a cycle.
    """

    def __init__(self, schedule: LearningRateSchedule, length: int) -> None:
        super().__init__()
        self.schedule = schedule
        self.length = length

    def __call__(self, step: Any) -> Any:
        return self.schedule(keras.ops.mod(step, self.length))

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "length": self.length,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Cycles:
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["length"])
