"""Optimizers and learning rate schedules: Adam, Muon, and a cosine with warm-up and restarts."""

from __future__ import annotations

import math
import re
from typing import Any

import keras
from keras.optimizers import Adam
from keras.optimizers.schedules import LearningRateSchedule

from vae_keras.utils import checks

__all__ = ["Adam", "Muon", "WarmRestarts", "cosine"]


@keras.saving.register_keras_serializable(package="vae_keras")
class Muon(keras.optimizers.Muon):
    """Muon for dense and convolution kernels, and Adam for all other weights.

    Muon replaces a matrix's momentum by the nearest orthogonal matrix, so that a step has the same
    length in all directions. Keras' class does so for matrices only. This class also takes
    convolution kernels: a kernel [height, width, in, out] is treated as one matrix
    [height * width * in, out]. Weight decay is off by default.

    Args:
        learning_rate: a number or a schedule. Default 0.001.
        weight_decay: weight decay of the kernels. Default None.
        adam_weight_decay: weight decay of all other weights. Default None.
        **kwargs: as in `keras.optimizers.Muon`.

    Raises:
        checks.InputError: with a Keras before 3.13, whose Muon takes steps of another length.

    Example:
        >>> from vae_keras import VAE, ConvDecoder, ConvEncoder
        >>> vae = VAE(ConvEncoder(), ConvDecoder())
        >>> vae.compile(Muon(4e-3))

    References:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
        Liu et al. 2025, "Muon is scalable for LLM training", on the length of an update.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        weight_decay: float | None = None,
        adam_weight_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        if not hasattr(keras.optimizers.Muon, "lr_adjust"):
            raise checks.InputError(
                f"Muon needs Keras 3.13 or newer. Received: Keras {keras.__version__}. "
                "Upgrade it, which takes Python 3.11, or train with Adam."
            )
        decay: dict[str, Any] = {
            "weight_decay": weight_decay,
            "adam_weight_decay": adam_weight_decay,
        }
        super().__init__(learning_rate, **decay, **kwargs)

    def _should_use_adamw(self, variable: Any) -> bool:
        if len(variable.shape) != 4:
            return super()._should_use_adamw(variable)
        return any(re.search(keyword, variable.path) for keyword in self.exclude_layers)

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        return keras.ops.reshape(super().zeropower_via_newtonschulz5(_matrix(x), steps), x.shape)

    def lr_adjust(self, x: Any) -> Any:
        return keras.ops.reshape(super().lr_adjust(_matrix(x)), x.shape)


def _matrix(kernel: Any) -> Any:
    """Reshapes a kernel [..., out] to a matrix [product of the other axes, out]."""
    return keras.ops.reshape(kernel, (math.prod(kernel.shape[:-1]), kernel.shape[-1]))


def cosine(
    learning_rate: float, steps: int, *, warmup_steps: int = 0, restarts: int = 0
) -> LearningRateSchedule:
    """Returns a schedule that rises linearly, falls to 0 along a half cosine, and may restart.

    Args:
        learning_rate: the highest learning rate, after the warm-up.
        steps: number of training steps, >= 1. Each of the `restarts` + 1 cycles takes an equal
            share of them, rounded up.
        warmup_steps: length of the linear rise in each cycle, capped at a tenth of the cycle.
            Default 0.
        restarts: how many times the schedule starts again, >= 0. Default 0.

    Returns:
        A Keras schedule, which maps a step to a learning rate.

    Example:
        >>> schedule = cosine(4e-3, 1000, warmup_steps=100, restarts=1)
        >>> [round(float(schedule(step)), 4) for step in (0, 50, 275, 500, 550)]
        [0.0, 0.004, 0.002, 0.0, 0.004]

    References:
        Loshchilov & Hutter 2017, "SGDR: stochastic gradient descent with warm restarts".
    """
    length = -(-steps // (restarts + 1))
    warmup = min(warmup_steps, length // 10)
    cycle = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if warmup else learning_rate,
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
        decay_steps=length - warmup,
    )
    return WarmRestarts(cycle, length) if restarts else cycle


# "Cycles" is the name of this class in files of version 0.1.0.
@keras.saving.register_keras_serializable(package="vae_keras", name="Cycles")
class WarmRestarts(LearningRateSchedule):
    """A learning rate schedule that starts again every `length` steps.

    Args:
        schedule: the schedule of one cycle.
        length: number of steps in a cycle, >= 1.

    Example:
        >>> halving = keras.optimizers.schedules.ExponentialDecay(1.0, 1, 0.5)
        >>> [float(WarmRestarts(halving, 2)(step)) for step in range(4)]
        [1.0, 0.5, 1.0, 0.5]
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
    def from_config(cls, config: dict[str, Any]) -> WarmRestarts:
        schedule: Any = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["length"])
