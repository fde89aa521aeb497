"""Decides when many steps run in one compiled call, and when XLA compiles a step.

Many steps in one call must change only the speed. If anything else could change, batches run one by
one. `one_by_one` returns the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from vae_keras.trainer import step
from vae_keras.utils import checks

_PACKAGE = "vae_keras."
_STEPS = "train_step", "test_step", "predict_step"  # a user may put one on the instance, too
_BATCH_HOOKS = (
    "on_batch_begin",
    "on_batch_end",
    "on_train_batch_begin",
    "on_train_batch_end",
    "on_test_batch_begin",
    "on_test_batch_end",
)
_PROGRESS = (keras.callbacks.ProgbarLogger, keras.callbacks.History)
_SAVERS = (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore)

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
# Layers that treat each row by itself, keep no state and have a kernel in XLA.
_ROWWISE = {
    *_CONVOLUTIONS,
    keras.layers.InputLayer,
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Identity,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.RepeatVector,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
    keras.layers.Softmax,
    keras.layers.Rescaling,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.UnitNormalization,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.UpSampling1D,
    keras.layers.UpSampling2D,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Concatenate,
    keras.layers.Add,
    keras.layers.Subtract,
    keras.layers.Multiply,
    keras.layers.Average,
    keras.layers.Maximum,
    keras.layers.Minimum,
}
# Layers that XLA compiles although they do more than that.
_COMPILED = {
    keras.layers.BatchNormalization,
    keras.layers.GRU,
    keras.layers.LSTM,
    keras.layers.SimpleRNN,
}


def one_by_one(
    model: Any, callbacks: Iterable[keras.callbacks.Callback], **arguments: Any
) -> str | None:
    """Returns why batches must run one by one, or None when many may run in one call.

    Args:
        model: a built and compiled `Trainer`.
        callbacks: the callbacks of the call.
        **arguments: arguments of `fit` or `evaluate` that count batches, None when not given.
    """
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        return f"{given[0]} is given"
    if model.run_eagerly or tf.config.functions_run_eagerly():
        return "functions run eagerly"
    if keras.config.max_steps_per_epoch():
        return "keras.config.max_steps_per_epoch is set"
    if any(optimizer.gradient_accumulation_steps for optimizer in step.optimizers_of(model)):
        return "the optimizer accumulates gradients"
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        return "the optimizer scales the loss dynamically"
    if not model.variables_to_train:
        return "no weight is trained, so the optimizer counts no step"
    if name := _overridden(model):
        return f"{type(model).__name__} overrides {name}"
    for callback in callbacks:
        if hook := _batch_hook(callback):
            return f"{type(callback).__name__} has {hook}"
    if name := not_rowwise(model):
        return f"{name} may look at other rows of the batch or keep state"
    return None


def not_rowwise(model: Any) -> str | None:
    """Returns the first layer that may look at other rows or keep state, or None.

    Rows that only pad a batch must not reach such a layer.
    """
    return next((name for part in model.parts if (name := _unknown(part))), None)


def overridden_step(model: Any, *names: str) -> str | None:
    """Returns the first of the methods `names` that a user replaces, or None."""
    for name in names:
        own = name in vars(model) or not getattr(type(model), name).__module__.startswith(_PACKAGE)
        if own:
            return f"{type(model).__name__}.{name}"
    return None


def is_conv(layer: Any) -> bool:
    """Whether a layer is a convolution of Keras."""
    return isinstance(layer, _CONVOLUTIONS)


def layers_of(part: Any) -> list[keras.layers.Layer]:
    """Returns a part of a model and all layers inside it, or nothing for other objects."""
    if not isinstance(part, keras.layers.Layer):
        return []
    return [layer for layer in part._flatten_layers() if isinstance(layer, keras.layers.Layer)]


def state_variables(model: Any) -> list[keras.Variable]:
    """Returns the variables that a forward pass in training may change.

    These are moving statistics and the states of random layers. Frozen weights are not among
    them, although Keras lists those under `non_trainable_variables`.
    """
    found = []
    for part in model.parts:
        for layer in layers_of(part):
            found += layer._non_trainable_variables
            found += [generator.state for generator in layer._seed_generators]
    return found


def wants_xla(model: Any, jit_compile: bool | str) -> bool:
    """Decides whether XLA compiles the step.

    Args:
        model: a built and compiled `Trainer`.
        jit_compile: as in `Trainer.compile`. "auto" compiles only layers for which XLA is known
            to give the same numbers.

    Raises:
        checks.InputError: when `jit_compile` is True and XLA lacks an operation.
    """
    if not jit_compile or model.run_eagerly:
        return False
    known = not _overridden(model) and all(_compiles(part) for part in model.parts)
    if jit_compile == "auto":
        return known and model.xla_pays()
    if not known:
        try:
            _lower(model)
        except ValueError as error:
            if "unsupported operations" not in str(error):
                raise
            raise checks.InputError(
                "jit_compile=True needs layers whose operations XLA can compile. "
                f"Received: {_culprit(model, str(error))}. Pass jit_compile='auto' to compile()."
            ) from error
    return True


def _lower(model: Any) -> None:
    """Lowers a step on two rows to XLA's language, and raises ValueError where XLA lacks a part."""

    def one_step(examples: Any, weights: tf.Tensor, draws: Any) -> tf.Tensor:
        # An evaluation leaves the optimizer as it is, and may come before its variables are made.
        return step.one_step(model, examples, weights, draws, training=model.optimizer.built)

    if tf.executing_eagerly():  # inside a graph there is nothing to lower yet
        kernel = tf.function(one_step, jit_compile=True, autograph=False)
        examples = tf.nest.map_structure(
            lambda spec: tf.zeros((2, *spec.shape), spec.dtype), model.example_spec
        )
        arguments = examples, tf.ones(2), model.draws(2, 0, 0, True)
        kernel.experimental_get_compiler_ir(*arguments)(stage="hlo")


def _compiles(part: Any) -> bool:
    """Whether XLA compiles every layer of a part to the numbers that TensorFlow computes.

    XLA draws other random numbers than TensorFlow, so random layers are not among them.
    """
    layers = layers_of(part)
    if not layers or type(part).__module__.startswith(_PACKAGE):
        return type(part).__module__.startswith(_PACKAGE)
    return all(
        not layer._seed_generators
        and not _is_users(getattr(layer, "activation", None))
        and (type(layer) in _COMPILED or _is_known(layer))
        for layer in layers
    )


def _culprit(model: Any, message: str) -> str:
    """Names the layer and the operation in XLA's error."""
    operation = re.search(r"No registered '(\w+)'", message)
    node = re.search(r"\{\{node ([^}]*)\}\}", message)
    path = node[1] if node else ""
    names = {layer.name for part in model.parts for layer in layers_of(part)}
    # TensorFlow numbers a name that it has seen before.
    scopes = [re.sub(r"_\d+$", "", scope) for scope in path.split("/")]
    found = [name for scope in (path.split("/"), scopes) for name in scope if name in names]
    layer = f"layer {found[-1]!r}" if found else path or "an operation without a name"
    return layer + (f", whose operation {operation[1]} XLA lacks" if operation else "")


def _batch_hook(callback: keras.callbacks.Callback) -> str | None:
    """The first hook that a callback wants to have called for each batch."""
    if getattr(callback, "runs_per_execution", False) or type(callback) in _PROGRESS:
        return None
    if type(callback) in _SAVERS and callback.save_freq == "epoch":
        return None
    for hook in _BATCH_HOOKS:
        own = getattr(type(callback), hook) is not getattr(keras.callbacks.Callback, hook)
        if own or hook in vars(callback):
            return hook
    return None


def _overridden(model: Any) -> str | None:
    """The first method of the package's classes that a user's subclass replaces."""
    classes = type(model).__mro__
    ours = next(cls for cls in classes if cls.__module__.startswith(_PACKAGE))
    for cls in classes[: classes.index(ours)]:
        for name, value in vars(cls).items():
            replaces = callable(value) and not name.startswith("__") and hasattr(ours, name)
            if replaces and name not in ("get_config", "from_config", "build", "summary"):
                return name
    return next((name for name in _STEPS if name in vars(model)), None)


def _unknown(part: Any) -> str | None:
    """Returns the first layer of a part that is not known to treat each row separately."""
    if not isinstance(part, keras.layers.Layer):
        return None if type(part).__module__.startswith(_PACKAGE) else type(part).__name__
    for layer in layers_of(part):
        if not _is_known(layer) or layer.activity_regularizer is not None or _mixes_rows(layer):
            return layer.name
        for operation in getattr(layer, "operations", ()):
            if not isinstance(operation, keras.layers.Layer):
                return operation.name
    return None


def _is_known(layer: keras.layers.Layer) -> bool:
    kind = type(layer)
    is_container = kind in (keras.Sequential, keras.Model) or kind.__name__ == "Functional"
    return kind in _ROWWISE or is_container or kind.__module__.startswith(_PACKAGE)


def _mixes_rows(layer: keras.layers.Layer) -> bool:
    """Whether a layer of a known kind may still mix rows: by its axis, or a user's activation."""
    axis = getattr(layer, "axis", -1)
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    # An axis below -1 is that of the rows for inputs of one rank or another.
    over_rows = any(not isinstance(each, int) or each == 0 or each < -1 for each in axes)
    return over_rows or _is_users(getattr(layer, "activation", None))


def _is_users(activation: Any) -> bool:
    module = getattr(activation, "__module__", None) or ""
    return callable(activation) and not module.startswith(("keras.", _PACKAGE))
