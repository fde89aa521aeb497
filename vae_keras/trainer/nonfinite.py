"""Non-finite numbers: a training step finds them, names them, and never saves them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf


class Diverged(FloatingPointError):
    """Training stopped because a number was not finite.

    The message is one line.

    Attributes:
        step: training step of the number, counted from 0 over all epochs.
        place: name of the first quantity of the step that was not finite, such as "kl".

    Args:
        step, place: as the attributes.
        remedy: what the message advises. Default: a lower learning rate, or `clipnorm`.
    """

    def __init__(self, step: int, place: str, remedy: str = "") -> None:
        super().__init__(
            "The loss and the weights must stay finite. Received: NaN or infinity at step "
            f"{step}, first in the {place.replace('_', ' ')}. Discard the weights in memory. "
            + (remedy or "Lower the learning rate, or pass an optimizer with clipnorm.")
        )
        self.step, self.place = step, place


def places(term_names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the quantities that a step computes, in the order of computation.

    Args:
        term_names: names of the per-example terms. The first one depends on the later ones, as
            the ELBO depends on the log-likelihood and the KL.

    Returns:
        The names that a `Diverged` may carry. The first quantity that is not finite is the cause
        of the others.
    """
    return (*reversed(term_names), "loss", "gradient", "weights")


def fault(sums: Sequence[tf.Tensor], gradients: Iterable[tf.Tensor | None]) -> tf.Tensor:
    """Finds the first quantity of a training step that is not finite.

    The function runs inside the compiled kernel of the step.

    Args:
        sums: scalars in the order of `places`: the terms and the loss.
        gradients: gradients of the loss. Only vectors are read, which are biases as a rule: a
            non-finite number passes through them on its way back, and they are small. All
            gradients are read when there is no vector.

    Returns:
        int32 scalar: 0 if everything is finite, else 1 + the index in `places`.
    """
    parts = [part for part in gradients if part is not None]
    parts = [part for part in parts if part.shape.rank <= 1] or parts
    numbers = [*sums, sum((tf.cast(tf.reduce_sum(part), tf.float32) for part in parts), 0.0)]
    bad = tf.cast([~tf.math.is_finite(number) for number in numbers], tf.int32)
    return tf.reduce_max(bad) * (1 + tf.argmax(bad, output_type=tf.int32))


def hold_back(fault: tf.Tensor, gradients: Iterable[tf.Tensor | None]) -> list[tf.Tensor | None]:
    """Replaces the gradients of a step with a fault by zeros.

    The weights then change only after all gradients are known. XLA changes them in place in that
    case. Otherwise it copies each kernel that a gradient still has to read.

    Args:
        fault: int32 scalar returned by `fault()`; 0 if everything is finite.
        gradients: gradients of the loss. None stays None.

    Returns:
        The gradients to apply.
    """
    sound = tf.equal(fault, 0)
    return [
        None if gradient is None else tf.where(sound, gradient, tf.zeros_like(gradient))
        for gradient in gradients
    ]


def not_finite(variables: Iterable[keras.Variable]) -> list[keras.Variable]:
    """Returns the variables that hold NaN or infinity, such as a constant mask."""

    def is_finite(variable: keras.Variable) -> bool:
        value = keras.ops.convert_to_numpy(variable)
        return value.dtype.kind in "iub" or bool(np.isfinite(value).all())

    return [variable for variable in variables if not is_finite(variable)]


def require_finite(
    variables: Iterable[keras.Variable], step: int, except_for: Sequence[keras.Variable] = ()
) -> None:
    """Raises `Diverged` when a variable holds NaN or infinity.

    Args:
        variables: variables of the model and of the optimizer.
        step: training step that changed them last.
        except_for: variables that may hold such a number. Default ().

    Raises:
        Diverged: for the first variable that is not finite.
    """
    allowed = {id(variable) for variable in except_for}
    if any(id(variable) not in allowed for variable in not_finite(variables)):
        raise Diverged(step, "weights")
