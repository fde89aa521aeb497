"""The gate as a Keras callback."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras

from benchmarks.gate import Gate
from benchmarks.workload import Weights


class GateCallback(keras.callbacks.Callback):
    """Passes the gate after each epoch of `fit`.

    Args:
        gate: to pass.
        num_images: images an epoch.
        weights: gives the weights in the workload's layout.
    """

    def __init__(self, gate: Gate, num_images: int, weights: Callable[[], Weights]) -> None:
        super().__init__()
        self._gate, self._num_images, self._weights = gate, num_images, weights

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        self._gate.ready()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        self._gate.passed(self._num_images, self._weights)
