"""How a Keras optimizer updates the weights of a model that was made under a strategy.

The step adds the gradients of all replicas and the optimizer applies their sum. Several replicas
apply it inside of the strategy. A single replica adds nothing, so its steps run outside of the
strategy: the optimizer updates the weights in the same compiled kernel as without a strategy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from vae_keras.trainer import step
from vae_keras.utils import graphs


def num_local(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of replicas of this process."""
    return len(strategy.extended.worker_devices)


def is_single(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether a model was made under a strategy with one replica."""
    return strategy is not None and strategy.num_replicas_in_sync == 1


def shared(strategy: tf.distribute.Strategy | None) -> tf.distribute.Strategy | None:
    """Returns the strategy under which a step must run, or None for the step of no strategy.

    Code inside of the scope of a strategy cannot leave it, so a single replica takes the steps of
    several ones there.

    Args:
        strategy: the strategy that a model was made under, or None.
    """
    return None if is_single(strategy) and not tf.distribute.has_strategy() else strategy


def device(strategy: tf.distribute.Strategy | None) -> contextlib.AbstractContextManager[Any]:
    """Returns the context of the device on which the steps of a single replica run.

    Args:
        strategy: the strategy that a model was made under, or None.
    """
    if strategy is None:
        return contextlib.nullcontext()
    return tf.device(strategy.extended.worker_devices[0])


def leave_sums_to_step(model: Any) -> None:
    """Keeps the optimizer from adding the gradients of the replicas, which the step has added.

    Keras would add them once more, and clip them before. On one device, each call would also
    register a `tf.custom_gradient`, which keeps the graph of the step for the life of the process.
    The optimizer of a single replica can also update its weights outside of its strategy then.

    Args:
        model: a compiled `Trainer`.
    """
    for optimizer in step.optimizers_of(model):
        optimizer._all_reduce_sum_gradients = _unchanged
        if is_single(model.strategy):
            # The strategy itself refuses updates outside of its scope.
            optimizer._distribution_strategy = _OneReplica()


@contextlib.contextmanager
def compiled(model: Any, strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Lets XLA compile the optimizer's updates of all variables to one kernel.

    The replicas meet between the gradient and its update, so one kernel cannot hold both. Keras
    updates a variable on all devices of a process before the next one, and a kernel belongs to one
    device, so the updates on several devices are left as they are.

    Args:
        model: a compiled `Trainer`.
        strategy: strategy whose replicas share the batches.
    """
    fuses = model.uses_xla and num_local(strategy) == 1
    with contextlib.ExitStack() as restored:
        for optimizer in step.optimizers_of(model) if fuses else []:
            restored.enter_context(_compiled_update(optimizer))
        yield


class _OneReplica:
    """What a Keras optimizer asks of its strategy, for variables that lie on one device."""

    @property
    def extended(self) -> _OneReplica:
        return self

    def update(
        self, variable: Any, function: Callable[..., Any], args: tuple[Any, ...] = (), **_: Any
    ) -> Any:
        return function(variable, *args)

    def colocate_vars_with(self, variable: Any) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()


def _unchanged(gradients_and_variables: Any) -> Any:
    return gradients_and_variables


@contextlib.contextmanager
def _compiled_update(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Lets XLA compile the method by which an optimizer updates all of its variables."""
    update = optimizer._distributed_tf_update_step

    def compiled(strategy: Any, gradients_and_variables: Any, learning_rate: Any) -> None:
        gradients, variables = zip(*gradients_and_variables, strict=True)

        def updates(*gradients: tf.Tensor) -> None:
            update(strategy, zip(gradients, variables, strict=True), learning_rate)

        with tf.device(variables[0].device):
            graphs.compiled(updates, jit_compile=True)(*gradients)

    optimizer._distributed_tf_update_step = compiled
    try:
        yield
    finally:
        del optimizer._distributed_tf_update_step
