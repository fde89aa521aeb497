"""What climbs the objective: Keras' Adam, and Keras' Muon that also takes convolution kernels."""

from __future__ import annotations

import math
import re
from typing import Any

import keras
from keras.optimizers import Adam

from vae_keras import checks

__all__ = ["Adam", "Muon"]


@keras.saving.register_keras_serializable(package="vae_keras")
class Muon(keras.optimizers.Muon):
    """Muon for dense and for convolution kernels; biases and everything else get Adam.

    A step moves a matrix by its momentum's nearest orthogonal matrix: all directions by the same
    length. Keras' class does so for matrices alone; here a kernel [height, width, in, out] is one
    matrix [height * width * in, out]. Weights do not decay unless asked to.

    Args:
        learning_rate: a number or a schedule. Default 0.001.
        weight_decay: of the kernels. Default None.
        adam_weight_decay: of all else. Default None.
        **kwargs: as in `keras.optimizers.Muon`.

    Raises:
        checks.InputError: with a Keras before 3.13, whose Muon takes steps of another length.

    Example:
        >>> vae = VAE(ConvEncoder(), ConvDecoder())
        >>> vae.compile(optimizers.Muon(4e-3))

    References:
        Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
        Liu et al. 2025, "Muon is scalable for LLM training", on the update's scale.
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
        super().__init__(
            learning_rate, weight_decay=weight_decay, adam_weight_decay=adam_weight_decay, **kwargs
        )

    def _should_use_adamw(self, variable: Any) -> bool:
        if len(variable.shape) != 4:
            return super()._should_use_adamw(variable)
        return any(re.search(keyword, variable.path) for keyword in self.exclude_layers)

    def zeropower_via_newtonschulz5(self, x: Any, steps: int) -> Any:
        return keras.ops.reshape(super().zeropower_via_newtonschulz5(_matrix(x), steps), x.shape)

    def lr_adjust(self, x: Any) -> Any:
        return keras.ops.reshape(super().lr_adjust(_matrix(x)), x.shape)


def _matrix(kernel: Any) -> Any:
    """A kernel [..., out] as a matrix [the rest, out]."""
    return keras.ops.reshape(kernel, (math.prod(kernel.shape[:-1]), kernel.shape[-1]))
