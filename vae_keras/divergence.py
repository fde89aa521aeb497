"""Numbers that stopped being finite: found within the step, named, and never saved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

# In the order a step computes them: the first that is not finite is the cause of the others.
PLACES = ("kl", "log_likelihood", "elbo", "loss", "gradient", "weights")


class Diverged(FloatingPointError):
    """Training stopped because a number was not finite; the message is one line.

    Attributes:
        step: of the optimizer, counted from 0 over all epochs.
        place: one of `PLACES`, the first that was not finite.
    """

    def __init__(self, step: int, place: str, remedy: str = "") -> None:
        super().__init__(
            "the loss and the weights must stay finite. Received: NaN or infinity at step "
            f"{step}, first in the {place.replace('_', ' ')}; discard the weights in memory. "
            + (remedy or "Lower the learning rate, or pass an optimizer with clipnorm.")
        )
        self.step, self.place = step, place


def fault(sums: Sequence[tf.Tensor], gradients: Iterable[tf.Tensor]) -> tf.Tensor:
    """Says where a step's numbers stop being finite, inside its compiled kernel.

    Args:
        sums: scalars in the order of `PLACES`: KL, log-likelihood, ELBO, loss.
        gradients: of the loss. Only the vectors among them are read, biases as a rule: a bad
            number on its way back passes through them, and they are few. Without any, all are.

    Returns:
        int32 []: 0, or 1 + the index in `PLACES` of the first number that is not finite.
    """
    parts = [part for part in gradients if part is not None]
    parts = [part for part in parts if part.shape.rank <= 1] or parts
    numbers = [*sums, sum((tf.cast(tf.reduce_sum(part), tf.float32) for part in parts), 0.0)]
    bad = tf.cast([~tf.math.is_finite(number) for number in numbers], tf.int32)
    return tf.reduce_max(bad) * (1 + tf.argmax(bad, output_type=tf.int32))


def hold_back(fault: tf.Tensor, gradients: Iterable[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Replaces the gradients of a step with a fault by zeros, inside its compiled kernel.

    So no weight is changed before all gradients are there. XLA then changes the weights in place;
    otherwise it would first copy each kernel that a gradient still has to read.

    Args:
        fault: of the function of that name.
        gradients: of the loss; None stays None.

    Returns:
        The gradients to apply.
    """
    sound = tf.equal(fault, 0)
    return [
        None if gradient is None else tf.where(sound, gradient, tf.zeros_like(gradient))
        for gradient in gradients
    ]


def require_finite(variables: Iterable[tf.Variable], step: int) -> None:
    """Refuses variables that hold NaN or infinity.

    Args:
        variables: of the model, the optimizer.
        step: that changed them last.

    Raises:
        Diverged: when one of them is not finite.
    """
    for variable in variables:
        value = keras.ops.convert_to_numpy(variable)
        if value.dtype.kind not in "iub" and not np.isfinite(value).all():
            raise Diverged(step, "weights")
