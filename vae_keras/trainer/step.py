"""The gradient step: one function for one device and for several replicas.

A replica computes weighted sums over its rows and the gradient of the loss. On several devices
the sums and the gradients of all replicas are added. The optimizer then applies the gradients.

    loss = -sum_i w_i objective_i / sum_i w_i + sum of the layers' own losses

The first sum goes over the rows of the replica, the second one over the rows of the whole batch,
so the replicas' losses add up to the loss of the whole batch. The layers' own losses are weighed
by the part of the rows that the replica holds.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from vae_keras.data.pipelines import Stack
from vae_keras.trainer import nonfinite


class Bound(NamedTuple):
    """What the trainer asks of a model for a batch of N examples.

    Attributes:
        objective: [N], the value that training maximises.
        terms: [N] each, the values to log, in the order of `Trainer.term_names`.
        settings: scalars to log beside them, in the order of `Trainer.setting_names`.
    """

    objective: tf.Tensor
    terms: Sequence[tf.Tensor]
    settings: Sequence[tf.Tensor | float] = ()


class Sums(NamedTuple):
    """Weighted sums over the rows of a batch, or of a replica's share of it.

    Attributes:
        values: float32 [terms + 1 + settings]: the terms, the loss and the settings.
        weight: float32 scalar, the sum of the weights.
    """

    values: tf.Tensor
    weight: tf.Tensor


def num_rows(examples: Any) -> tf.Tensor:
    """Returns N, the number of rows of examples in one tensor or in a structure of tensors."""
    return tf.shape(tf.nest.flatten(examples)[0])[0]


def sums_and_gradients(
    model: Any,
    examples: Any,
    weights: tf.Tensor,
    draws: Any,
    training: bool,
    total_weight: tf.Tensor | None = None,
    fraction: float | tf.Tensor = 1.0,
) -> tuple[Sums, list[tf.Tensor | None]]:
    """Computes a batch's weighted sums and, in training, the gradients of its loss.

    Args:
        model: a `Trainer`.
        examples: [N, ...], a tensor or a structure of tensors.
        weights: float32 [N].
        draws: random numbers of the rows, from `Trainer.draws`.
        training: whether gradients are computed.
        total_weight: sum of the weights of the whole batch. Default: that of `weights`.
        fraction: part of the rows of the whole batch. It weighs the layers' own losses, which
            are means over rows as a rule. Default 1.0.

    Returns:
        `Sums`, and the gradients with respect to the trainable variables, which an optimizer's
        loss scale multiplies. The gradients are an empty list outside of training.
    """
    weight = tf.reduce_sum(weights)
    total = weight if total_weight is None else total_weight
    optimizer = model.optimizer
    with tf.GradientTape() as tape:
        step = tf.convert_to_tensor(optimizer.iterations) if training else None
        bound = model.evaluate_bound(examples, draws, training, step)
        loss = -tf.math.divide_no_nan(tf.reduce_sum(weights * bound.objective), total)
        own_losses = model.losses
        if own_losses:
            loss += tf.add_n([tf.cast(own, loss.dtype) for own in own_losses]) * fraction
        scaled = optimizer.scale_loss(loss) if training else loss
    gradients = tape.gradient(scaled, model.variables_to_train) if training else []
    terms = [tf.reduce_sum(weights * tf.stop_gradient(term)) for term in bound.terms]
    settings = [weight * setting for setting in bound.settings]
    return Sums(tf.stack([*terms, loss * total, *settings]), weight), gradients


def optimizers_of(model: Any) -> list[keras.optimizers.Optimizer]:
    """Returns the optimizer of a model inside of a loss scale, and those that it calls."""
    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return [inner, *getattr(inner, "optimizers", ())]


def checked(
    model: Any, sums: Sums, gradients: Sequence[tf.Tensor | None]
) -> tuple[tf.Tensor, list[tf.Tensor | None]]:
    """Looks for numbers of a step that are not finite.

    Args:
        model: a `Trainer`.
        sums: sums over the whole batch.
        gradients: gradients of the loss of the whole batch; an empty list outside of training.

    Returns:
        The totals, float64 [values + 2]: the sums, the weight, and `nonfinite.fault`. Then the
        gradients to apply, which are zeros after a fault.
    """
    watched, num_terms = gradients, len(model.term_names)
    skips = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    if skips:
        watched = []  # A dynamic loss scale itself skips steps whose gradients overflow.
    *terms, loss = tf.unstack(sums.values)[: num_terms + 1]
    fault = nonfinite.fault([*reversed(terms), loss], watched)
    totals = tf.concat([sums.values, [sums.weight, tf.cast(fault, tf.float32)]], axis=0)
    held = list(gradients) if skips else nonfinite.hold_back(fault, gradients)
    return tf.cast(totals, tf.float64), held


def apply(model: Any, gradients: Sequence[tf.Tensor | None]) -> None:
    """Lets the optimizer take a step.

    Args:
        model: a `Trainer`.
        gradients: gradients of the loss of the whole batch, one for each variable to train.
    """
    if not model.variables_to_train:
        warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        return
    model.optimizer.apply_gradients(zip(gradients, model.variables_to_train, strict=True))


def one_step(
    model: Any, examples: Any, weights: tf.Tensor, draws: Any, training: bool
) -> tf.Tensor:
    """Does one step on one device and returns the totals; see the functions above."""
    sums, gradients = sums_and_gradients(model, examples, weights, draws, training)
    totals, gradients = checked(model, sums, gradients)
    if training:
        apply(model, gradients)
    return totals


def many_steps(
    model: Any, stack: Stack, draws: Any, training: bool, first: int | tf.Tensor = 0
) -> tf.Tensor:
    """Does one step for each batch of a stack, inside one compiled kernel.

    Args:
        model: a `Trainer`.
        stack: the batches.
        draws: random numbers of the rows, with the axes [steps, batch] first.
        training: whether the optimizer takes steps.
        first: index of the first batch to use. Default 0.

    Returns:
        The sum of `one_step`'s results. A non-finite number in training ends the loop.
    """

    def body(index: tf.Tensor, totals: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        drawn = tf.nest.map_structure(lambda part: part[index], draws)
        examples = tf.nest.map_structure(lambda part: part[index], stack.examples)
        step = one_step(model, examples, stack.weights[index], drawn, training)
        return index + 1, totals + step

    def goes_on(index: tf.Tensor, totals: tf.Tensor) -> tf.Tensor:
        left = index < stack.steps
        return left & tf.equal(totals[-1], 0.0) if training else left

    num_totals = len(model.term_names) + len(model.setting_names) + 3
    start = (tf.convert_to_tensor(first), tf.zeros(num_totals, tf.float64))
    return tf.while_loop(goes_on, body, start)[1]
